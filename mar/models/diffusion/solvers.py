"""Solvers: how a token is drawn with the network of a head, one function for each kind of `Solver`.

Of the reverse process of Diffusion Loss: the published ancestral sampler, DDIM and the second-order multistep
DPM-Solver++. A noisy token is x = alpha x0 + sigma epsilon with alpha^2 = alpha_bar and sigma^2 = 1 - alpha_bar. The
denoiser predicts epsilon, and hence x0, at the timesteps of a grid, the noisiest first. A step goes from one timestep
to the next, whose quantities have a prime:

- DDIM (Song et al. 2021, arXiv:2010.02502, equation 12): x' = alpha' x0 + sqrt(sigma'^2 - s^2) epsilon + s noise with
  s = eta (sigma'/sigma) sqrt(1 - alpha_bar/alpha_bar'). With eta 1 this is the ancestral step with the posterior
  variance in place of the learned one.
- DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): DDIM with eta 0, whose x0 is extrapolated over
  lambda = log(alpha/sigma) from the step before: x0 + (h / (2 h_before)) (x0 - x0_before), where h is the width of a
  step in lambda.

Both end at the x0 that is predicted at the last timestep.

*Grid.* The timesteps of DDIM and DPM-Solver++ are the middles of K equal parts of the process: 950, 850, ..., 50 for
10 steps of 1000. The ends are left out: at the noisiest timestep of the cosine schedule x is noise alone, and a
predicted epsilon says nothing about x0; at the cleanest, x0 is known.

*Temperature.* It scales the first noise, and the noise of the steps if there is any. Without noise in the steps and
with a normally distributed token, the result is linear in the first noise, and temperature scales its standard
deviation exactly.

Of a flow, whose network predicts the velocity u of x at a time from 0 (noise) to 1 (the token), in equal steps h:

- Euler: x + h u(x, t), one evaluation a step.
- Heun: the mean of the velocities at both ends of an Euler step, two evaluations a step, of order 2.

*Temperature* of a flow scales the noise at the start, the only noise there is.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from mar.models.diffusion.gaussian import Schedule, reverse_step
from mar.runtime.noise import Noise
from mar.study.parts import Ddim, Sampling, Solver

# x (n, D) at a step of the grid -> (n, 2 D): epsilon, with guidance applied, and the values of the variance
Denoise = Callable[[Tensor, int], Tensor]
# x (n, D) at a time of the grid, by its number -> its velocity (n, D), with guidance applied
Velocity = Callable[[Tensor, int], Tensor]


def ancestral(
    solver: Solver, denoise: Denoise, process: Schedule, x: Tensor, settings: Sampling, noise: Noise
) -> Tensor:
    """The published sampler, with the learned variance.

    Args:
        solver: the options.
        denoise: the network.
        process: the schedule at the timesteps of the grid, see `Solver.timesteps`.
        x: (n, D) standard normal noise.
        settings: temperature and clamp.
        noise: stream of the noise of the steps.

    Returns:
        Tokens (n, D).
    """
    for step in reversed(range(len(process))):
        output, delta = denoise(x, step), noise.normal(*x.shape).to(x.dtype)
        x = reverse_step(process, output, x, step, delta, settings.temperature, settings.clamp)
    return x


def ddim(solver: Ddim, denoise: Denoise, process: Schedule, x: Tensor, settings: Sampling, noise: Noise) -> Tensor:
    """DDIM; arguments as of `ancestral`, and noise is drawn with eta > 0 alone."""
    x = settings.temperature * x
    for step in reversed(range(1, len(process))):
        x0 = clean(denoise, process, x, step, settings.clamp)
        step_noise = settings.temperature * noise.normal(*x.shape).to(x.dtype) if solver.eta else None
        x = ddim_step(process, x, x0, step, solver.eta, step_noise)
    return clean(denoise, process, x, 0, settings.clamp)


def dpm(solver: Solver, denoise: Denoise, process: Schedule, x: Tensor, settings: Sampling, noise: Noise) -> Tensor:
    """DPM-Solver++(2M); arguments as of `ancestral`, and no noise is drawn."""
    x, x0_before = settings.temperature * x, None
    for step in reversed(range(1, len(process))):
        x0 = clean(denoise, process, x, step, settings.clamp)
        extrapolated = x0 if x0_before is None else x0 + _ratio(process, step) / 2 * (x0 - x0_before)
        x, x0_before = ddim_step(process, x, extrapolated, step), x0
    return clean(denoise, process, x, 0, settings.clamp)


def clean(denoise: Denoise, process: Schedule, x: Tensor, step: int, clamp: float | None) -> Tensor:
    """The x0 (n, D) that is predicted at a step."""
    alpha_bar = process.numbers("alpha_bar")[step]
    epsilon = denoise(x, step).chunk(2, dim=1)[0]
    x0 = (x - (1 - alpha_bar) ** 0.5 * epsilon) / alpha_bar**0.5
    return x0 if clamp is None else x0.clamp(-clamp, clamp)


def euler(solver: Solver, velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """Euler's method.

    Args:
        solver: the options.
        velocity: the network.
        x: (n, D) noise.
        steps: number of equal steps.

    Returns:
        Tokens (n, D).
    """
    for step in range(steps):
        x = x + velocity(x, step) / steps
    return x


def heun(solver: Solver, velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """Heun's method; arguments as of `euler`."""
    for step in range(steps):
        first = velocity(x, step)
        second = velocity(x + first / steps, step + 1)
        x = x + (first + second) / 2 / steps
    return x


def ddim_step(
    process: Schedule, x: Tensor, x0: Tensor, step: int, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """One step of DDIM (equation 12) from x (n, D) at `step` > 0 of the process to step - 1, (n, D).

    Epsilon is computed from x and x0, so that it agrees with an x0 that was clamped or extrapolated.
    """
    alpha_bar = process.numbers("alpha_bar")
    current, following = alpha_bar[step], alpha_bar[step - 1]  # alpha_bar, alpha_bar'
    sigma, sigma_following = (1 - current) ** 0.5, (1 - following) ** 0.5
    s = eta * sigma_following / sigma * (1 - current / following) ** 0.5
    epsilon = (x - current**0.5 * x0) / sigma
    x = following**0.5 * x0 + max(0.0, sigma_following**2 - s**2) ** 0.5 * epsilon
    return x if noise is None else x + s * noise


def _ratio(process: Schedule, step: int) -> float:
    """h / h_before: width in lambda of the step from `step` to step - 1, over that from step + 1 to `step`."""
    lambdas = [0.5 * math.log(a / (1 - a)) for a in process.numbers("alpha_bar")[step - 1 : step + 2]]
    following, current, previous = lambdas
    return (following - current) / (current - previous)
