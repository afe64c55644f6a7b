"""Flow matching: the MLP of Diffusion Loss predicts a velocity, and a token is drawn by following it from noise.

With noise e and a token x, the path of time t in [0, 1] is x_t = (1 - t) e + t x, whose velocity is x - e (rectified
flow, Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747). The network u(x_t, t, z) learns the mean
velocity by the squared error; times are logit-normal, so that the middle of the path comes most often (Esser et al.
2024, arXiv:2403.03206, section 3.1). A solver of `mar/models/diffusion/solvers.py` follows it from t = 0 to 1.

*Guidance* acts on the velocity: u_null + scale (u - u_null). On this path the velocity is linear in epsilon at a given
x_t, so this is the guidance of Diffusion Loss. *Temperature* scales the noise at t = 0, the only noise there is: with a
normally distributed token it scales the standard deviation exactly, as for the solvers of Diffusion Loss.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mar.models.heads.diffusion_loss import Denoiser
from mar.runtime.noise import Noise
from mar.study.kinds import implementation, opened
from mar.study.parts import FlowHead, Sampling

TIME = 1000.0  # the features of a time are made for timesteps up to this, as in Diffusion Loss


class Flow(nn.Module):
    """p(token given z) as the end of a flow from noise."""

    undecayed: tuple[str, ...] = ("net.",)  # as for Diffusion Loss, whose MLP it is

    def __init__(self, config: FlowHead, width: int, token_dim: int) -> None:
        super().__init__()
        self.net = Denoiser(token_dim, width, config.width, config.depth, outputs=1)
        self.config, self.draws, self.token_dim = config, config.noise_draws, token_dim

    def compiled(self) -> list[nn.Module]:
        """The MLP."""
        return [self.net]

    def draw(self, count: int, rows: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Times (k, n) and noise (k, n, D) for the loss: k independent draws for each of n tokens.

        Args:
            count: number of tokens in the batch, B L.
            rows: (n,) which of them are predicted.
            noise: stream of random numbers.
        """
        t = noise.normal(self.draws, count).sigmoid()
        return t[:, rows], noise.normal(self.draws, count, self.token_dim)[:, rows]

    def loss(self, z: Tensor, target: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
        """Squared error of the velocity, mean over tokens, draws and the D numbers.

        Args:
            z: (n, W) conditions.
            target: (n, D) tokens.
            noise: times (k, n) and noise (k, n, D), see `draw`.
        """
        t, epsilon = noise
        y = self.net.time_embed(TIME * t.flatten()).view(*t.shape, -1) + self.net.cond_embed(z)  # (k, n, width)
        x = torch.lerp(epsilon, target, t[:, :, None])  # (k, n, D)
        velocity = self.net(x.flatten(0, 1).to(z.dtype), y.flatten(0, 1)).view_as(x).to(target.dtype)
        return (velocity - (target - epsilon)).square().mean()

    def sample(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, noise: Noise
    ) -> tuple[Tensor, None]:
        """Draw tokens (n, D) by following the velocity from noise.

        Args:
            z: (n, W) conditions.
            z_null: (n, W) conditions without a class, or None for no guidance.
            settings: temperature, solver, and of `head` evaluations (a number).
            scale: guidance scale.
            noise: stream of random numbers.
        """
        named: Any = self.config.solver(settings)
        solver: Any = opened(named)
        steps = self.config.steps(settings)
        times = self.net.time_embed(torch.linspace(0.0, TIME, solver.times(steps)).to(z.device))  # (times, width)
        condition = self.net.cond_embed(z if z_null is None else torch.cat([z, z_null]))  # (n or 2 n, width)

        def velocity(x: Tensor, time: int) -> Tensor:
            y = times[time] + condition
            if z_null is None:
                return self.net(x, y).to(x.dtype)
            conditional, null = self.net(torch.cat([x, x]), y).to(x.dtype).chunk(2)
            return torch.lerp(null, conditional, scale)

        x = settings.temperature * noise.normal(len(z), self.token_dim).to(z.dtype)
        tokens: Tensor = implementation(solver)(solver, velocity, x, steps)
        return tokens, None
