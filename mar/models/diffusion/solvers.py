"""Few-step samplers of Diffusion Loss's reverse process: DDIM and the second-order multistep DPM-Solver++.

A noisy token is x = alpha x0 + sigma epsilon with alpha^2 = alpha_bar and sigma^2 = 1 - alpha_bar. The denoiser says
epsilon, hence x0, at the timesteps of a grid, the noisiest first, and a step goes from one of them to the next:

- DDIM (Song et al. 2021, arXiv:2010.02502, equation 12): x' = alpha' x0 + sqrt(sigma'^2 - s^2) epsilon + s noise with
  s = eta (sigma'/sigma) sqrt(1 - alpha_bar/alpha_bar'). With eta 1 this is the ancestral step with the posterior
  variance in place of the learned one.
- DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2): DDIM with eta 0, whose x0 is extrapolated over
  lambda = log(alpha/sigma) from the step before: x0 + (h / (2 h_before)) (x0 - x0_before), h the width of a step.

From the last timestep both go to the clean token, which is x0 as it is predicted there.

*Grid.* The middles of K equal parts of the process: 950, 850, ..., 50 for 10 of 1000. At the last timestep of the
cosine schedule x is noise alone, and the epsilon of a trained denoiser says nothing of x0; at the first x0 is known.

*Temperature.* It scales the first noise, and that of the steps where there is any. The solution without noise is
linear in its start when the token is normal: its standard deviation is scaled by exactly the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from mar.models.diffusion.gaussian import Schedule
from mar.runtime.noise import Noise
from mar.study.parts import Sampling

Denoise = Callable[[Tensor, int], Tensor]  # x (n, D) at a step of the grid -> epsilon (n, D)


def grid(process: Schedule, steps: int) -> Schedule:
    """The process at the middles of `steps` equal parts of its timesteps, rounded down."""
    return process.at_timesteps([(2 * i + 1) * len(process) // (2 * steps) for i in range(steps)])


def solve(denoise: Denoise, process: Schedule, x: Tensor, settings: Sampling, noise: Noise) -> Tensor:
    """Follow the grid from noise to clean tokens.

    Args:
        denoise: epsilon at a step of the grid, guided already.
        process: the grid; see `grid`.
        x: (n, D) standard normal noise.
        settings: solver, eta, temperature and clamp.
        noise: stream of the noise of the steps, which only DDIM with eta draws.

    Returns:
        Tokens (n, D).
    """

    def clean(x: Tensor, step: int) -> Tensor:
        """x0 (n, D) as it is predicted at a step."""
        alpha_bar = process.numbers("alpha_bar")[step]
        x0 = (x - (1 - alpha_bar) ** 0.5 * denoise(x, step)) / alpha_bar**0.5
        return x0 if settings.clamp is None else x0.clamp(-settings.clamp, settings.clamp)

    x, before = settings.temperature * x, None
    for step in reversed(range(1, len(process))):
        x0 = clean(x, step)
        drawn = settings.temperature * noise.normal(*x.shape).to(x.dtype) if settings.eta else None
        if settings.solver == "dpm" and before is not None:
            ahead = x0 + _ratio(process, step) / 2 * (x0 - before)
        else:
            ahead = x0
        x, before = ddim_step(process, x, ahead, step, settings.eta, drawn), x0
    return clean(x, 0)


def ddim_step(
    process: Schedule, x: Tensor, x0: Tensor, step: int, eta: float = 0.0, noise: Tensor | None = None
) -> Tensor:
    """One step of DDIM from x (n, D) at `step` > 0 of the process to the one before it, (n, D).

    Epsilon is that of x and x0, so it agrees with an x0 that was clamped or extrapolated.
    """
    alpha_bar = process.numbers("alpha_bar")
    here, there = alpha_bar[step], alpha_bar[step - 1]
    sigma, sigma_there = (1 - here) ** 0.5, (1 - there) ** 0.5
    s = eta * sigma_there / sigma * (1 - here / there) ** 0.5
    epsilon = (x - here**0.5 * x0) / sigma
    x = there**0.5 * x0 + max(0.0, sigma_there**2 - s**2) ** 0.5 * epsilon
    return x if noise is None else x + s * noise


def _ratio(process: Schedule, step: int) -> float:
    """Width in lambda of the step from `step` to the one before it, over that of the step which led to it."""
    after, here, ahead = (0.5 * math.log(a / (1 - a)) for a in process.numbers("alpha_bar")[step - 1 : step + 2])
    return (after - here) / (here - ahead)
