"""Image <-> tokens: the convolutional autoencoders of latent diffusion from diffusers, and pixels as they are.

kl, vq and msvq (VAR's multi-scale vq) are built on one body, so that Table 1 compares heads and not tokenizers, and
LDM's published weights load into the same classes. The consistency decoder of Table 2 shares its encoder with Stable
Diffusion's KL-8.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mar.models.multiscale import MultiScaleQuantizer
from mar.runtime.checkpoint import load_weights
from mar.runtime.files import read
from mar.runtime.folders import recipe_of
from mar.runtime.noise import Noise
from mar.study import layout
from mar.study.parts import Tokenizer as TokenizerConfig
from mar.study.records import TokenizerRecord
from mar.study.stage_keys import tokenizer_key
from mar.study.study import Study


class Tokenizer(nn.Module):
    """The two directions that the rest of the project uses, whatever stands behind them.

    Attributes:
        kind: "kl", "vq", "msvq", "consistency" or "pixels".
        tokens: what `encode` gives: "ids" (B, L), L = h*w or of all scales; "moments" (B, 2C, h, w), mean and log
            variance of a posterior; or "latents" (B, C, h, w), which are not random.
        net: diffusers' AutoencoderKL, VQModel or ConsistencyDecoderVAE; pixels: an empty module.
    """

    net: Any

    def __init__(self, kind: str, net: Any, continuous: bool = False) -> None:
        super().__init__()
        self.kind = kind
        self.net = net
        ids = "latents" if continuous else "ids"
        self.tokens = {"vq": ids, "msvq": ids, "pixels": "latents"}.get(kind, "moments")

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1] to what `tokens` says; ids in raster order (of each scale), int64."""
        if self.kind == "pixels":
            return images
        if self.tokens == "moments":
            moments: torch.Tensor = self.net.encode(images).latent_dist.parameters
            return moments
        latents: torch.Tensor = self.net.encode(images).latents  # (B, C, h, w), before the quantiser
        return self.nearest(latents) if self.tokens == "ids" else latents

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Ids (B, L) of the codes nearest to the latents (B, C, h, w) of a vq or msvq tokenizer."""
        _, _, (_, _, ids) = self.net.quantize(latents)  # (B*L,) or (B, L)
        return ids.view(len(latents), -1)

    def decode_latents(self, latents: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Unscaled latents (B, C, h, w) to images (B, 3, H, W), about [-1, 1].

        Continuous latents of a vq tokenizer pass its quantiser first, as in LDM. The consistency decoder draws the
        noise of its two steps from `noise`, the others draw nothing.
        """
        if self.kind == "pixels":
            return latents
        if self.kind == "vq":
            return self.decode_ids(self.nearest(latents))
        settings = {"generator": noise.generator if noise else None} if self.kind == "consistency" else {}
        images: torch.Tensor = self.net.decode(latents, **settings).sample
        return images

    def decode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, L), raster order of a square grid or of each scale, to images (B, 3, H, W), about [-1, 1]."""
        if self.kind == "msvq":
            latents = self.net.quantize.latents(ids)
        else:
            side = round(ids.shape[1] ** 0.5)
            codes = self.net.quantize.embedding(ids)  # (B, L, C)
            latents = codes.transpose(1, 2).reshape(len(ids), -1, side, side)
        images: torch.Tensor = self.net.decode(latents, force_not_quantize=True).sample
        return images

    def decode(self, tokens: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """What `encode` gave, back to images (B, 3, H, W): the reconstruction; of moments, from the mean."""
        if self.tokens == "ids":
            return self.decode_ids(tokens)
        return self.decode_latents(tokens.chunk(2, dim=1)[0] if self.tokens == "moments" else tokens, noise)


def build(config: TokenizerConfig, image_size: int) -> Tokenizer:
    """An untrained tokenizer; weights come from torch's global generator."""
    if config.kind == "pixels":
        return Tokenizer("pixels", nn.Module())
    from diffusers import AutoencoderKL, ConsistencyDecoderVAE, VQModel  # takes 3.5 CPU-seconds to import

    if config.kind == "consistency":
        return Tokenizer("consistency", ConsistencyDecoderVAE())  # its defaults are the published architecture
    plain = len(config.channels) - 1
    in_encoder, in_decoder = config.attention != "middle", config.attention == "both"
    body: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * plain
        + ("AttnDownEncoderBlock2D" if in_encoder else "DownEncoderBlock2D",),
        "up_block_types": ("AttnUpDecoderBlock2D" if in_decoder else "UpDecoderBlock2D",)
        + ("UpDecoderBlock2D",) * plain,
        "block_out_channels": tuple(config.channels),
        "layers_per_block": config.layers,
        "latent_channels": config.latent_channels,
        # Published autoencoders have 32 groups at any width; the number shows in no tensor.
        "norm_num_groups": 32 if config.pretrained else norm_groups(config.channels),
        "sample_size": image_size,
    }
    if config.kind == "kl":
        return Tokenizer("kl", AutoencoderKL(**body, scaling_factor=1.0))
    net: Any = VQModel(**body, num_vq_embeddings=config.codebook_size, vq_embed_dim=config.latent_channels)
    if config.scales:
        width = config.latent_channels
        net.quantize = MultiScaleQuantizer(config.codebook_size or 0, width, config.scales)
        # 3 x 3, as published; LDM's have one pixel
        net.quant_conv, net.post_quant_conv = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        return Tokenizer("msvq", net)
    # diffusers keeps a historical slip by default: the weight 0.25 on the codebook term. Here it is on the
    # commitment term, as in van den Oord et al. 2017, equation 3. Weights and outputs do not depend on it.
    net.quantize.legacy = False
    return Tokenizer("vq", net, config.continuous)


def norm_groups(channels: tuple[int, ...]) -> int:
    """Groups of the group norms: as many as leave each at least 4 channels, as LDM's 32 groups of 128 channels.

    A group of one channel would be an instance norm, which takes the mean brightness out of the narrow levels.
    """
    return next((n for n in (32, 16, 8, 4, 2) if all(c % n == 0 and c // n >= 4 for c in channels)), 1)


def load(root: str | Path, name: str, study: Study) -> Tokenizer:
    """The finished tokenizer of a study (trained, imported, or pixels), in eval mode, on the CPU.

    Raises:
        ValueError: it is not finished, or was made for another study section; or its files do not fit.
    """
    folder = layout.tokenizer(Path(root), name)
    read(folder / layout.TOKENIZER, TokenizerRecord)  # written after the weights: says that they are whole
    if recipe_of(folder).get("slice") != tokenizer_key(study, name):
        raise ValueError(f"{folder}: was trained by another recipe; run `mar tokenizer --tokenizer {name}` again")
    tokenizer = build(study.tokenizers[name], study.data.image_size)
    again = f"delete it and run `mar tokenizer --tokenizer {name}` again"
    load_weights(tokenizer.net, folder / layout.WEIGHTS, again)
    return tokenizer.eval().requires_grad_(False)
