"""Diffusion Loss (section 3.2): a small denoising MLP conditioned on z models each continuous token.

Names of parameters are those of the published code, so that its weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar.models.blocks import NORM_EPS
from mar.models.diffusion import gaussian
from mar.runtime.noise import Noise
from mar.study.kinds import implementation, opened
from mar.study.parts import DiffusionHead, Sampling

FREQUENCIES = 256  # size of the sinusoidal timestep features
# Matrix products of fewer rows than this cost more time per row: with a small batch, the modulations of several
# diffusion steps are computed in one product.
ROWS = 512

Modulation = tuple[Tensor, ...]  # shift, 1 + scale and, in a residual block, gate of one layer: (n, width) each


class TimeEmbedding(nn.Module):
    """Two linear layers on the sinusoidal features of the timestep."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Timesteps (n,) -> embeddings (n, width)."""
        features = gaussian.timestep_features(t, FREQUENCIES)
        out: Tensor = self.mlp(features.to(next(self.parameters()).dtype))
        return out


class ResBlock(nn.Module):
    """Residual block modulated by the condition (AdaLN)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_ln = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        # The SiLU is applied once for all blocks, by `Denoiser`; its place here keeps the published parameter names.
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))

    def modulation(self, y: Tensor) -> Modulation:
        """Shift, 1 + scale and gate, (n, width) each, from y = SiLU(condition) (n, width); they do not depend on x."""
        shift, scale, gate = self.adaLN_modulation[1](y).chunk(3, dim=1)
        return shift, 1 + scale, gate

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """x + gate MLP(scale LN(x) + shift), (n, width) -> (n, width); `scale` is the modulation's 1 + scale."""
        shift, scale, gate = modulation
        return torch.addcmul(x, gate, self.mlp(torch.addcmul(shift, self.in_ln(x), scale)))


class FinalLayer(nn.Module):
    """Modulated norm, and the linear layer to epsilon and the variance values, D numbers each."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.linear = nn.Linear(width, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def modulation(self, y: Tensor) -> Modulation:
        """Shift and 1 + scale, (n, width) each, from y = SiLU(condition) (n, width)."""
        shift, scale = self.adaLN_modulation[1](y).chunk(2, dim=1)
        return shift, 1 + scale

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """(n, width) -> (n, out)."""
        shift, scale = modulation
        out: Tensor = self.linear(torch.addcmul(shift, self.norm_final(x), scale))
        return out


class Denoiser(nn.Module):
    """The denoising MLP epsilon(x_t | t, z): residual blocks modulated by time embedding + projected z."""

    def __init__(self, token_dim: int, z_width: int, width: int, depth: int, outputs: int = 2) -> None:
        """Its output has `outputs` D numbers: epsilon and the values of the variance, or a velocity alone."""
        super().__init__()
        self.time_embed = TimeEmbedding(width)
        self.cond_embed = nn.Linear(z_width, width)
        self.input_proj = nn.Linear(token_dim, width)
        self.res_blocks = nn.ModuleList(ResBlock(width) for _ in range(depth))
        self.final_layer = FinalLayer(width, outputs * token_dim)
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

    @property
    def layers(self) -> tuple[Any, ...]:
        """The modulated layers in order: ResBlock, ..., ResBlock, FinalLayer."""
        return (*self.res_blocks, self.final_layer)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Noisy tokens x (n, D) and conditions y = time_embed(t) + cond_embed(z) (n, width) -> (n, 2 D), or (n, D)."""
        y = F.silu(y)  # the first operation of every layer's modulation, done once for all of them
        x = self.input_proj(x)
        for layer in self.layers:
            x = layer(x, layer.modulation(y))  # one layer at a time, so that memory holds one modulation
        return x

    def modulations(self, times: Tensor, condition: Tensor) -> list[list[Modulation]]:
        """Modulations of all layers at k diffusion steps: result[step][layer].

        Args:
            times: (k, width) time embeddings of the steps.
            condition: (n, width) projected z.
        """
        y = F.silu((times[:, None] + condition).flatten(0, 1))  # (k n, width)
        by_layer = [
            [part.unflatten(0, (len(times), -1)).unbind() for part in layer.modulation(y)] for layer in self.layers
        ]
        return [[tuple(part[k] for part in layer) for layer in by_layer] for k in range(len(times))]

    def modulated(self, x: Tensor, modulations: list[Modulation]) -> Tensor:
        """`forward` of x (n, D) with one step's modulations, one per layer: (n, 2 D)."""
        x = self.input_proj(x)
        for layer, modulation in zip(self.layers, modulations, strict=True):
            x = layer(x, modulation)
        return x


class DiffusionLoss(nn.Module):
    """p(token given z) as a diffusion process on the token's D numbers (section 3.2)."""

    undecayed: tuple[str, ...] = ("net.",)  # as published for Diffusion Loss

    def __init__(self, config: DiffusionHead, width: int, token_dim: int) -> None:
        super().__init__()
        self.net = Denoiser(token_dim, width, config.width, config.depth)
        self.config, self.draws, self.token_dim = config, config.noise_draws, token_dim
        self.train_process = gaussian.cosine_schedule()

    def compiled(self) -> list[nn.Module]:
        """The denoiser."""
        return [self.net]

    def draw(self, count: int, rows: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """Timesteps (k, n) and noise (k, n, D) for the loss: k independent draws for each of n tokens.

        Numbers are drawn for all tokens of the batch, so that those of one token do not depend on which others are
        masked.

        Args:
            count: number of tokens in the batch, B L.
            rows: (n,) which of them are predicted.
            noise: stream of random numbers.
        """
        t = noise.integers(len(self.train_process), self.draws, count)
        return t[:, rows], noise.normal(self.draws, count, self.token_dim)[:, rows]

    def loss(self, z: Tensor, target: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
        """Mean over tokens and draws of the epsilon error (equation 1) plus the variational term.

        Args:
            z: (n, W) conditions.
            target: (n, D) tokens.
            noise: timesteps (k, n) and noise (k, n, D), see `draw`.
        """
        mse, vb = self.terms(z, target, *noise)
        return (mse + vb).mean()

    def terms(self, z: Tensor, x0: Tensor, t: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """Epsilon error and variational term, (k n,) each, of n tokens with k draws per token; shapes as in `loss`."""
        y = (self.embedded(t) + self.net.cond_embed(z)).flatten(0, 1)  # z is projected once for all draws
        x0, t, epsilon = x0.repeat(len(t), 1), t.flatten(), epsilon.flatten(0, 1)
        x = gaussian.diffuse(self.train_process, x0, t, epsilon)
        output = self.net(x, y).to(x0.dtype)
        return gaussian.losses(self.train_process, output, x0, x, t, epsilon)

    def embedded(self, t: Tensor) -> Tensor:
        """Time embeddings (k, n, width) of timesteps (k, n); many are looked up in a table of all T instead."""
        steps = self.train_process.table("timesteps", torch.int64, t.device)
        if t.numel() < len(steps):
            return self.net.time_embed(t.flatten()).view(*t.shape, -1)
        return F.embedding(t, self.net.time_embed(steps))

    def sample(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, noise: Noise
    ) -> tuple[Tensor, None]:
        """Draw tokens (n, D) by the solver of the setting, see `mar/models/diffusion/solvers.py`.

        Guidance acts on epsilon only: null + scale (conditional - null). Both branches share x_t, and the variance is
        that of the conditional branch. Temperature scales the noise that each step adds (section 3.2), not x_T.

        Args:
            z: (n, W) conditions.
            z_null: (n, W) conditions without a class, or None for no guidance.
            settings: diffusion_steps (a number), solver, temperature and clamp.
            scale: guidance scale.
            noise: stream of random numbers.
        """
        assert isinstance(settings.diffusion_steps, int)  # that of this autoregressive step, `Sampling.at_step`
        named: Any = self.config.solver(settings)
        solver: Any = opened(named)
        process = self.train_process.at_timesteps(solver.timesteps(len(self.train_process), settings.diffusion_steps))
        # All that does not depend on x_t is computed before the loop, whose steps then copy nothing to the device.
        times = self.net.time_embed(process.table("timesteps", torch.int64, z.device))  # (T, width)
        condition = self.net.cond_embed(z if z_null is None else torch.cat([z, z_null]))  # (n or 2 n, width)
        steps_at_once = ROWS // len(condition)  # steps whose modulations are computed together
        ready: dict[int, list[Modulation]] = {}  # modulations of the steps that come next, by step

        def network(x: Tensor, step: int) -> Tensor:
            if steps_at_once < 2:
                return self.net(x, times[step] + condition)
            if step not in ready:
                first = max(0, step + 1 - steps_at_once)
                ready.clear()
                ready.update(enumerate(self.net.modulations(times[first : step + 1], condition), first))
            return self.net.modulated(x, ready[step])

        def denoise(x: Tensor, step: int) -> Tensor:
            return self.guided(lambda x: network(x, step), x, None if z_null is None else scale)

        x = noise.normal(len(z), self.token_dim).to(z.dtype)
        tokens: Tensor = implementation(solver)(solver, denoise, process, x, settings, noise)
        return tokens, None

    def guided(self, network: Callable[[Tensor], Tensor], x: Tensor, scale: float | None) -> Tensor:
        """Denoiser output (n, 2 D) at tokens x (n, D).

        With a scale, the network is called on 2 n tokens, the conditional branch first, and epsilon is guided.
        """
        if scale is None:
            return network(x).to(x.dtype)
        output, null = network(torch.cat([x, x])).to(x.dtype).chunk(2)
        epsilon, values = output.chunk(2, dim=1)
        return torch.cat([torch.lerp(null[:, : self.token_dim], epsilon, scale), values], dim=1)
