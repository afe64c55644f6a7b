"""Few-step samplers of Diffusion Loss's reverse process: DDIM and the second-order multistep DPM-Solver++.

A noisy token is x = alpha x0 + sigma epsilon with alpha^2 = alpha_bar and sigma^2 = 1 - alpha_bar. The denoiser
predicts epsilon, and hence x0, at the timesteps of a grid, the noisiest first. A step goes from one timestep to the
next, whose quantities have a prime:

- DDIM (Song et al. 2021, arXiv:2010.02502, equation 12): x' = alpha' x0 + sqrt(sigma'^2 - s^2) epsilon + s noise with
  s = eta (sigma'/sigma) sqrt(1 - alpha_bar/alpha_bar'). With eta 1 this is the ancestral step with the posterior
  variance in place of the learned one.
- DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): DDIM with eta 0, whose x0 is extrapolated over
  lambda = log(alpha/sigma) from the step before: x0 + (h / (2 h_before)) (x0 - x0_before), where h is the width of a
  step in lambda.

Both end at the x0 that is predicted at the last timestep.

*Grid.* The timesteps are the middles of K equal parts of the process: 950, 850, ..., 50 for 10 steps of 1000. The ends
are left out: at the noisiest timestep of the cosine schedule x is noise alone, and a predicted epsilon says nothing
about x0; at the cleanest, x0 is known.

*Temperature.* It scales the first noise, and the noise of the steps if there is any. Without noise in the steps and
with a normally distributed token, the result is linear in the first noise, and temperature scales its standard
deviation exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import assert_never

from torch import Tensor

from mar.models.diffusion.gaussian import Schedule
from mar.runtime.noise import Noise
from mar.study.parts import Sampling

Denoise = Callable[[Tensor, int], Tensor]  # x (n, D) at a step of the grid -> epsilon (n, D)


def grid(process: Schedule, steps: int) -> Schedule:
    """The process at the middles of `steps` equal parts of its timesteps; a middle is rounded down."""
    return process.at_timesteps([(2 * i + 1) * len(process) // (2 * steps) for i in range(steps)])


def solve(denoise: Denoise, process: Schedule, x: Tensor, settings: Sampling, noise: Noise) -> Tensor:
    """Follow the grid from noise to clean tokens.

    Args:
        denoise: predicts epsilon (n, D) at a step of the grid, with guidance applied.
        process: the schedule at the timesteps of the grid, see `grid`.
        x: (n, D) standard normal noise.
        settings: solver, eta, temperature and clamp.
        noise: stream of the noise of the steps; only DDIM with eta > 0 draws any.

    Returns:
        Tokens (n, D).
    """

    def clean(x: Tensor, step: int) -> Tensor:
        """The x0 (n, D) that is predicted at a step."""
        alpha_bar = process.numbers("alpha_bar")[step]
        x0 = (x - (1 - alpha_bar) ** 0.5 * denoise(x, step)) / alpha_bar**0.5
        return x0 if settings.clamp is None else x0.clamp(-settings.clamp, settings.clamp)

    x, x0_before = settings.temperature * x, None
    for step in reversed(range(1, len(process))):
        x0 = clean(x, step)
        step_noise = settings.temperature * noise.normal(*x.shape).to(x.dtype) if settings.eta else None
        match settings.solver:
            case "dpm" if x0_before is not None:
                extrapolated = x0 + _ratio(process, step) / 2 * (x0 - x0_before)
            case "dpm" | "ddim":
                extrapolated = x0
            case "ancestral":
                raise ValueError("solver ancestral follows no grid; accepted: ddim, dpm")
            case _:
                assert_never(settings.solver)
        x, x0_before = ddim_step(process, x, extrapolated, step, settings.eta, step_noise), x0
    return clean(x, 0)


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
