"""Diffusion Loss (section 3.2): a small denoising MLP conditioned on z models each continuous token.

Names of parameters are those of the published code, so that its weights load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mar import diffusion, solvers
from mar.config import Head, Sampling
from mar.models.blocks import NORM_EPS
from mar.noise import Noise

FREQUENCIES = 256  # size of the sinusoidal timestep features


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the timestep through two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """(n,) -> (n, width)."""
        features = diffusion.timestep_features(t, FREQUENCIES)
        out: Tensor = self.mlp(features.to(next(self.parameters()).dtype))
        return out


class ResBlock(nn.Module):
    """Residual block modulated by the condition (AdaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(n, width), condition (n, width) -> (n, width)."""
        shift, scale, gate = self.adaLN_modulation(y).chunk(3, dim=1)
        return x + gate * self.mlp(self.in_ln(x) * (1 + scale) + shift)


class FinalLayer(nn.Module):
    """Modulated norm and the linear layer to epsilon and variance values."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(n, width), condition (n, width) -> (n, out)."""
        shift, scale = self.adaLN_modulation(y).chunk(2, dim=1)
        return self.linear(self.norm_final(x) * (1 + scale) + shift)


class Denoiser(nn.Module):
    """The MLP: input projection, residual blocks, condition = time embedding + projected z."""

    def __init__(self, token_dim: int, z_width: int, width: int, depth: int) -> None:
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(z_width, width)
        self.input_proj = nn.Linear(token_dim, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, 2 * token_dim)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            # AdaLN-zero: every block starts as the identity, the output as zero.
            zero = "adaLN_modulation" in name or name.startswith("final_layer.linear")
            if name.startswith("time_embed") and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("in_ln.weight"):
                nn.init.ones_(parameter)
            elif zero or name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Noisy tokens (n, D), timesteps (n,) or (1,) of the 1000, conditions (n, W) -> (n, 2 D)."""
        y = self.time_embed(t) + self.cond_embed(z)
        x = self.input_proj(x)
        for block in self.res_blocks:
            x = block(x, y)
        out: Tensor = self.final_layer(x, y)
        return out


class DiffusionLoss(nn.Module):
    """p(token given z) as a diffusion process on the token's D numbers."""

    def __init__(self, config: Head, width: int, token_dim: int) -> None:
        super().__init__()
        assert config.width and config.depth and config.noise_draws  # checked when the study was read
        self.net = Denoiser(token_dim, width, config.width, config.depth)
        self.draws, self.token_dim = config.noise_draws, token_dim
        self.train_process = diffusion.cosine_schedule()

    def draw(self, rows: int, noise: Noise) -> tuple[Tensor, Tensor]:
        """Timesteps (k, rows) and noise (k, rows, D): k independent draws for every token."""
        t = noise.integers(len(self.train_process), self.draws, rows)
        return t, noise.normal(self.draws, rows, self.token_dim)

    def loss(self, z: Tensor, target: Tensor, mask: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
        """Mean over masked tokens and draws of the epsilon error plus the variational term.

        Args:
            z: (B, L, W) conditions.
            target: (B, L, D) tokens.
            mask: (B, L) true where the loss counts; only those rows are computed, which is the published
                masked mean.
            noise: timesteps (k, B L) and noise (k, B L, D) for all rows, see `draw`.
        """
        chosen = mask.flatten()
        t, epsilon = noise[0][:, chosen], noise[1][:, chosen]
        draws = len(t)
        x0 = target.flatten(0, 1)[chosen].repeat(draws, 1)  # (k n, D)
        z = z.flatten(0, 1)[chosen].repeat(draws, 1)  # (k n, W)
        mse, vb = self.terms(z, x0, t.flatten(), epsilon.flatten(0, 1))
        return (mse + vb).mean()

    def terms(self, z: Tensor, x0: Tensor, t: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """Both loss terms, (n,) each, of rows with their timestep and noise."""
        x = diffusion.diffuse(self.train_process, x0, t, epsilon)
        output = self.net(x, t, z).to(x0.dtype)
        return diffusion.losses(self.train_process, output, x0, x, t, epsilon)

    def sample(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, noise: Noise
    ) -> tuple[Tensor, None]:
        """Draw tokens (n, D) by respaced ancestral sampling, or by a solver of `mar/solvers.py`.

        Guidance acts on epsilon only, null + scale (conditional - null), and both branches share x_t; the variance
        is the conditional one. Temperature scales the noise of the steps, not the first noise.
        """
        assert settings.diffusion_steps is not None  # checked when the study was read
        if settings.solver != "ancestral":
            coarse = solvers.grid(self.train_process, settings.diffusion_steps)

            def epsilon(x: Tensor, step: int) -> Tensor:
                return self.guided(coarse, x, step, z, z_null, scale).chunk(2, dim=1)[0]

            start = noise.normal(len(z), self.token_dim).to(z.dtype)
            return solvers.solve(epsilon, coarse, start, settings, noise), None
        process = self.train_process.respaced(settings.diffusion_steps)
        x = noise.normal(len(z), self.token_dim).to(z.dtype)
        for step in reversed(range(len(process))):
            output = self.guided(process, x, step, z, z_null, scale)
            t = torch.full((len(x),), step, device=x.device)
            step_noise = noise.normal(*x.shape).to(x.dtype)
            x = diffusion.reverse_step(process, output, x, t, step_noise, settings.temperature, settings.clamp)
        return x, None

    def guided(
        self, process: diffusion.Schedule, x: Tensor, step: int, z: Tensor, z_null: Tensor | None, scale: float
    ) -> Tensor:
        """Denoiser output (n, 2 D) at a respaced step, its epsilon half guided."""
        t = process.timesteps[step : step + 1].to(x.device)  # one embedding for all rows
        if z_null is None:
            return self.net(x, t, z)
        output, null = self.net(torch.cat([x, x]), t, torch.cat([z, z_null])).chunk(2)
        epsilon, values = output.chunk(2, dim=1)
        null_epsilon = null.chunk(2, dim=1)[0]
        return torch.cat([null_epsilon + scale * (epsilon - null_epsilon), values], dim=1)
