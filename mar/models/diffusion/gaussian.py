"""Gaussian diffusion on token vectors: the equations, nothing else.

Schedule, losses and reverse step of improved DDPM (Nichol & Dhariwal 2021) as Diffusion Loss uses them: cosine
schedule, epsilon prediction, learned-range variance trained by the variational bound with the mean detached,
respaced ancestral sampling. All tables are float64. In (n, D) a row is one token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mar.study.parts import evenly

TRAIN_STEPS = 1000


@dataclass(frozen=True)
class Schedule:
    """Tables of a forward process q with T steps.

    Attributes:
        betas: (T,) float64, beta_t.
        timesteps: (T,) int64, the timestep that the denoiser is told at each step; of a respaced process, those of the
            process that it was made from.
        alpha_bar: (T,) float64, the product of 1 - beta up to t. `__post_init__` sets further tables (T,) in this way,
            which `table`, `numbers` and `at` look up by name.
    """

    betas: Tensor
    timesteps: Tensor
    alpha_bar: Tensor = field(init=False)
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)  # results of the methods below

    def __post_init__(self) -> None:
        alpha_bar = torch.cumprod(1 - self.betas, 0)
        previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        variance = self.betas * (1 - previous) / (1 - alpha_bar)  # of q(x_{t-1} | x_t, x_0)
        tables = {
            "alpha_bar": alpha_bar,
            "sqrt_alpha_bar": alpha_bar.sqrt(),
            "sqrt_one_minus_alpha_bar": (1 - alpha_bar).sqrt(),
            "sqrt_recip_alpha_bar": (1 / alpha_bar).sqrt(),
            "sqrt_recipm1_alpha_bar": (1 / alpha_bar - 1).sqrt(),
            "posterior_variance": variance,
            # The variance at t = 0 is zero: its logarithm takes the value at t = 1.
            "posterior_log_variance": torch.cat([variance[1:2], variance[1:]]).log()
            if len(variance) > 1
            else variance.log(),
            "posterior_mean_x0": self.betas * previous.sqrt() / (1 - alpha_bar),
            "posterior_mean_xt": (1 - previous) * (1 - self.betas).sqrt() / (1 - alpha_bar),
            "log_betas": self.betas.log(),
        }
        for name, table in tables.items():
            object.__setattr__(self, name, table)

    def __len__(self) -> int:
        return len(self.betas)

    def table(self, name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The table (T,) of that name in a dtype on a device; it is copied there once."""
        key = (name, dtype, device)
        if key not in self._cache:
            self._cache[key] = getattr(self, name).to(device, dtype)
        table: Tensor = self._cache[key]
        return table

    def numbers(self, name: str) -> list[float]:
        """The table (T,) of that name as Python numbers: reading one does not wait for a device."""
        if name not in self._cache:
            self._cache[name] = getattr(self, name).tolist()
        numbers: list[float] = self._cache[name]
        return numbers

    def at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Values of a table at steps t (n,) as a column (n, 1), in the dtype and on the device of `like`."""
        return self.table(name, like.dtype, like.device)[t][:, None]

    def reverse(self, step: int) -> ReverseStep:
        """Entries of the tables that one reverse step needs."""
        if "reverse" not in self._cache:
            columns = [self.numbers(name) for name in ReverseStep._fields]
            self._cache["reverse"] = [ReverseStep(*row) for row in zip(*columns, strict=True)]
        entries: ReverseStep = self._cache["reverse"][step]
        return entries

    def respaced(self, steps: int) -> Schedule:
        """The process that visits `steps` evenly spaced timesteps, with the same alpha_bar at each."""
        if not 1 <= steps <= len(self):
            raise ValueError(f"diffusion_steps {steps}: accepted are 1 to {len(self)}")
        return self.at_timesteps(evenly(len(self), steps))

    def at_timesteps(self, steps: list[int]) -> Schedule:
        """The process that visits only these steps (ascending), with the same alpha_bar at each."""
        key = tuple(steps)
        if key not in self._cache:
            alpha_bar = torch.cumprod(1 - self.betas, 0)[steps]
            previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
            self._cache[key] = Schedule(1 - alpha_bar / previous, self.timesteps[steps])
        respaced: Schedule = self._cache[key]
        return respaced


class ReverseStep(NamedTuple):
    """Entries of a schedule's tables at one step as Python numbers, so that a sampling loop copies nothing."""

    sqrt_recip_alpha_bar: float
    sqrt_recipm1_alpha_bar: float
    posterior_mean_x0: float
    posterior_mean_xt: float
    posterior_log_variance: float
    log_betas: float


def cosine_schedule(steps: int = TRAIN_STEPS) -> Schedule:
    """Cosine schedule: alpha_bar(u) = cos^2((u + 0.008)/1.008 pi/2), betas clipped at 0.999."""

    def alpha_bar(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), 0.999) for i in range(steps)]
    # These are constants: they are made on the CPU even when the model is built on the meta device.
    return Schedule(torch.tensor(betas, dtype=torch.float64, device="cpu"), torch.arange(steps, device="cpu"))


def linear_schedule(steps: int = TRAIN_STEPS) -> Schedule:
    """Linear schedule of DDPM and DiT: betas from 1e-4 to 0.02 at 1000 steps."""
    scale = 1000 / steps
    betas = torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64, device="cpu")
    return Schedule(betas, torch.arange(steps, device="cpu"))


def diffuse(schedule: Schedule, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) epsilon, (n, D), at steps t (n,)."""
    return schedule.at("sqrt_alpha_bar", t, x0) * x0 + schedule.at("sqrt_one_minus_alpha_bar", t, x0) * noise


def predict_x0(schedule: Schedule, x: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
    """x_0 that the predicted epsilon implies, (n, D)."""
    return schedule.at("sqrt_recip_alpha_bar", t, x) * x - schedule.at("sqrt_recipm1_alpha_bar", t, x) * epsilon


def log_variance(schedule: Schedule, t: Tensor, values: Tensor) -> Tensor:
    """Log variance (n, D) from the values (n, D) that the network predicts.

    They interpolate between the log posterior variance (at -1) and log beta (at +1).
    """
    low, high = schedule.at("posterior_log_variance", t, values), schedule.at("log_betas", t, values)
    share = (values + 1) / 2
    return share * high + (1 - share) * low


def posterior_mean(schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Mean of q(x_{t-1} | x_t, x_0), (n, D)."""
    return schedule.at("posterior_mean_x0", t, x) * x0 + schedule.at("posterior_mean_xt", t, x) * x


def losses(
    schedule: Schedule, output: Tensor, x0: Tensor, x: Tensor, t: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Both terms of the loss for each row.

    Args:
        schedule: the training process.
        output: (n, 2 D) epsilon and variance values of the denoiser at (x, t).
        x0: (n, D) clean tokens.
        x: (n, D) noisy tokens, at step t.
        t: (n,) steps.
        noise: (n, D) the noise epsilon in x.

    Returns:
        mse (n,), mean squared error of epsilon, and vb (n,), the variational term in bits per dimension. The
        mean prediction is detached in vb: it trains the variance only. The sum is not rescaled (as published).
    """
    epsilon, values = output.chunk(2, dim=1)
    mse = (epsilon - noise).square().mean(1)
    true_mean = posterior_mean(schedule, x0, x, t)
    mean = posterior_mean(schedule, predict_x0(schedule, x, t, epsilon.detach()), x, t)
    model_log_variance = log_variance(schedule, t, values)
    true_log_variance = schedule.at("posterior_log_variance", t, x).expand_as(x)
    kl = normal_kl(true_mean, true_log_variance, mean, model_log_variance).mean(1) / math.log(2)
    nll = -discretized_log_likelihood(x0, mean, 0.5 * model_log_variance).mean(1) / math.log(2)
    return mse, torch.where(t == 0, nll, kl)


def reverse_step(
    schedule: Schedule,
    output: Tensor,
    x: Tensor,
    step: int,
    noise: Tensor,
    temperature: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """One ancestral step x_t -> x_{t-1}, (n, D); no noise at step 0.

    `temperature` scales the noise (paper, section 3.2: tau sigma delta). `clamp` holds the predicted x_0 within
    +-clamp; the published sampler has none, see docs/replication.md.
    """
    at = schedule.reverse(step)
    epsilon, values = output.chunk(2, dim=1)
    x0 = torch.sub(x * at.sqrt_recip_alpha_bar, epsilon, alpha=at.sqrt_recipm1_alpha_bar)
    if clamp is not None:
        x0 = x0.clamp(-clamp, clamp)
    mean = torch.add(x * at.posterior_mean_xt, x0, alpha=at.posterior_mean_x0)
    if step == 0:
        return mean
    # exp(log_variance / 2), with the interpolation written as the centre of the range + values * width / 2.
    centre, width = at.log_betas + at.posterior_log_variance, at.log_betas - at.posterior_log_variance
    deviation = torch.exp(values * (width / 4) + centre / 4)
    return torch.addcmul(mean, deviation, noise, value=temperature)


def normal_kl(mean1: Tensor, logvar1: Tensor, mean2: Tensor, logvar2: Tensor) -> Tensor:
    """KL(N1 || N2) of diagonal normals, elementwise, in nats."""
    return 0.5 * (logvar2 - logvar1 - 1 + torch.exp(logvar1 - logvar2) + (mean1 - mean2).square() * torch.exp(-logvar2))


def discretized_log_likelihood(x: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log probability in nats of the bin of width 2/255 around x; bins beyond +-0.999 are open-ended.

    It is made for pixels in [-1, 1]; the published code uses it unchanged on latents, and so do we. The normal CDF
    is the tanh approximation of the published code.
    """

    def cdf(value: Tensor) -> Tensor:
        return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (value + 0.044715 * value**3)))

    inverse = torch.exp(-log_scale)
    upper, lower = cdf(inverse * (x - mean + 1 / 255)), cdf(inverse * (x - mean - 1 / 255))
    log = (upper - lower).clamp(min=1e-12).log()
    log = torch.where(x > 0.999, (1 - lower).clamp(min=1e-12).log(), log)
    return torch.where(x < -0.999, upper.clamp(min=1e-12).log(), log)


def timestep_features(t: Tensor, size: int) -> Tensor:
    """Sinusoidal features of timesteps (n,) -> (n, size) float32: cosines, then sines, periods up to 10000."""
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(size // 2, dtype=torch.float32, device=t.device) / (size // 2)
    )
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
