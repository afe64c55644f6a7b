"""DiT (Peebles & Xie 2023), the comparator of Figure 6: one diffusion process over all tokens of an image at once.

The network is diffusers' DiTTransformer2DModel with three changes, which make it the published one: timestep
frequencies k/128 instead of k/127, LayerNorm eps 1e-6, and one timestep and label embedder for all blocks instead of
one in each (674.8M instead of 749.8M parameters for XL/2). The training loop drops labels, not the network.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn

from mar.data.latents import patchify, unpatchify
from mar.models.blocks import NORM_EPS
from mar.models.diffusion import gaussian
from mar.runtime.noise import Noise
from mar.study.parts import DitBackbone, Sampling


class DiT(nn.Module):
    """Backbone, head and order in one: stands where `Model` stands in training, and replaces the sampling loop."""

    joint: Literal[True] = True  # all tokens are drawn together, see mar.sampling.generate

    def __init__(self, config: DitBackbone, side: int, channels: int, classes: int) -> None:
        """A network on latents of `side` x `side` positions with `channels` numbers each.

        Raises:
            ValueError: an mlp_ratio other than 4, or a patch that does not divide the side.
        """
        super().__init__()
        if config.mlp_ratio != 4.0:
            raise ValueError(f"mlp_ratio {config.mlp_ratio} with a dit backbone; accepted: 4.0")
        if side % config.patch:
            raise ValueError(f"patch {config.patch} with {side} x {side} latents; accepted: a divisor of {side}")
        self.side, self.channels, self.classes = side, channels, classes
        net: Any = DiTTransformer2DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.width // config.heads,
            in_channels=channels,
            out_channels=2 * channels,  # epsilon, and where the variance lies in its range
            num_layers=config.depth,
            sample_size=side,
            patch_size=config.patch,
            num_embeds_ada_norm=classes,  # diffusers adds one more row: the null class
            norm_eps=NORM_EPS,
        )
        self.embed: Any = net.transformer_blocks[0].norm1.emb
        self.embed.time_proj.downscale_freq_shift = 0
        self.embed.class_embedder.dropout_prob = 0.0
        for block in net.transformer_blocks:
            # A function instead of a module: state_dict then has the shared embedder once, as `embed`.
            del block.norm1.emb
            block.norm1.emb = _pass_condition
        # The position table is a constant: it needs values even when the model is built on the meta device.
        with torch.device("cpu"):
            grid = side // config.patch
            table = get_2d_sincos_pos_embed(config.width, grid, base_size=grid).float()[None]
        net.pos_embed.register_buffer("pos_embed", table, persistent=False)
        # Under autocast the patches are bf16, but the residual stream, which starts here, stays float32.
        net.pos_embed.register_forward_hook(lambda module, _, out: out.to(module.pos_embed.dtype))
        self.net = net
        self.train_process = gaussian.linear_schedule()
        self._initialise()

    def _initialise(self) -> None:
        """As published: linear layers xavier-uniform, embedders normal (std 0.02), modulations and output zero.

        With zero modulations every block starts as the identity (adaLN-Zero).
        """
        for name, parameter in self.named_parameters():
            if name.startswith("embed.") and name.endswith("weight"):
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias") or "norm1.linear" in name or "proj_out" in name:
                nn.init.zeros_(parameter)
            elif name.startswith("net.pos_embed"):
                nn.init.xavier_uniform_(parameter.view(len(parameter), -1))
            elif ".attn1.to_q." in name or ".attn1.to_k." in name or ".attn1.to_v." in name:
                bound = (6 / (4 * parameter.shape[1])) ** 0.5  # xavier bound of the published joint matrix (3 W, W)
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.xavier_uniform_(parameter)

    def checkpoint_blocks(self) -> None:
        """From now on, compute activations inside blocks again in the backward pass instead of keeping them."""
        self.net.enable_gradient_checkpointing()

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, in the order in which they compute."""
        return list(self.net.transformer_blocks)

    def compile_blocks(self) -> None:
        """Compile the blocks when they are first used; parameters keep their names."""
        for block in self.blocks():
            block.compile()

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Predict the noise epsilon and the variance values, stacked (B, 2 C, h, w).

        Args:
            x: (B, C, h, w) noisy latents.
            t: (B,) timesteps.
            labels: (B,) classes, -1 for the null class.
        """
        labels = torch.where(labels < 0, self.classes, labels)
        dtype = next(self.embed.parameters()).dtype
        condition = self.embed(t, labels, hidden_dtype=dtype)  # (B, W), see `_pass_condition`
        out: Tensor = self.net(x, timestep=condition, return_dict=False)[0]
        return out

    def loss(self, tokens: Tensor, labels: Tensor, order: Tensor, known: int, noise: Noise) -> Tensor:
        """Training loss of a batch: epsilon error plus variational term, at one timestep per image.

        Args:
            tokens: (B, L, C) latents in raster order.
            labels: (B,) classes, -1 where the label is dropped.
            order: unused; all tokens are predicted at once.
            known: unused.
            noise: stream of the timesteps and the noise.
        """
        t = noise.integers(len(self.train_process), len(tokens))
        mse, vb = self.terms(tokens, labels, t, noise.normal(len(tokens), self.channels, self.side, self.side))
        return (mse + vb).mean()

    def terms(self, tokens: Tensor, labels: Tensor, t: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor]:
        """Both loss terms, (B,) each, at timesteps t (B,) with noise epsilon (B, C, h, w)."""
        x0, epsilon = (
            unpatchify(tokens, 1, self.channels).flatten(1),
            epsilon.flatten(1),
        )  # (B, C h w), one row per image
        x = gaussian.diffuse(self.train_process, x0, t, epsilon)
        output = self(x.view(-1, self.channels, self.side, self.side), t, labels).flatten(1).to(x0.dtype)
        return gaussian.losses(self.train_process, output, x0, x, t, epsilon)

    def sample(self, labels: Tensor, settings: Sampling, noise: Noise) -> Tensor:
        """Draw the tokens (B, L, C) of images of classes `labels` by respaced ancestral sampling.

        Guidance acts on the epsilon of the first `guidance_channels` channels (published: 3 of 4; default: all). The
        conditional and the null branch share x_t; the other channels and the variance are the conditional branch's.
        Temperature scales the noise that each step adds; the published sampler has none (1).
        """
        assert isinstance(settings.diffusion_steps, int)  # checked when the study was read
        if (settings.guidance_channels or 0) > self.channels:
            raise ValueError(f"guidance_channels {settings.guidance_channels}; accepted: 1 to {self.channels}")
        process = self.train_process.respaced(settings.diffusion_steps)
        shape = (len(labels), self.channels, self.side, self.side)
        x = noise.normal(*shape).to(self.net.dtype)
        for step in reversed(range(len(process))):
            output = self.guided(process, x, step, labels, settings).flatten(1)
            step_noise = noise.normal(*shape).to(x.dtype).flatten(1)
            x = gaussian.reverse_step(process, output, x.flatten(1), step, step_noise, settings.temperature).view(shape)
        return patchify(x, 1)

    def guided(self, process: gaussian.Schedule, x: Tensor, step: int, labels: Tensor, settings: Sampling) -> Tensor:
        """Guided network output (B, 2 C, h, w) for x (B, C, h, w) at a step of the respaced process."""
        t = process.table("timesteps", torch.int64, x.device)[step]
        if settings.guidance == 1.0:
            return self(x, t.expand(len(x)), labels)
        both = torch.cat([labels, torch.full_like(labels, -1)])
        output, null = self(torch.cat([x, x]), t.expand(len(both)), both).chunk(2)
        count = settings.guidance_channels or self.channels
        epsilon, null_epsilon = output[:, :count], null[:, :count]
        return torch.cat([null_epsilon + settings.guidance * (epsilon - null_epsilon), output[:, count:]], dim=1)


def _pass_condition(condition: Tensor, labels: None, hidden_dtype: torch.dtype) -> Tensor:
    """Replaces the embedder that diffusers has in every block: its "timestep" already is the condition (B, W)."""
    return condition


def from_official(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published weights under this project's names, without the position table, which is a constant here.

    A name that is not known is passed on unchanged, so that strict loading refuses it.
    """
    names = {
        "x_embedder.": "net.pos_embed.",
        "t_embedder.mlp.0.": "embed.timestep_embedder.linear_1.",
        "t_embedder.mlp.2.": "embed.timestep_embedder.linear_2.",
        "y_embedder.": "embed.class_embedder.",
        "blocks.": "net.transformer_blocks.",
        ".adaLN_modulation.1.": ".norm1.linear.",
        ".attn.proj.": ".attn1.to_out.0.",
        ".mlp.fc1.": ".ff.net.0.proj.",
        ".mlp.fc2.": ".ff.net.2.",
        "final_layer.norm1.linear.": "net.proj_out_1.",
        "final_layer.linear.": "net.proj_out_2.",
    }
    renamed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name == "pos_embed":
            continue
        for official, own in names.items():
            name = name.replace(official, own)
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", weight.chunk(3), strict=True):
                renamed[name.replace(".attn.qkv.", f".attn1.to_{part}.")] = piece.clone()
        else:
            renamed[name] = weight
    return renamed
