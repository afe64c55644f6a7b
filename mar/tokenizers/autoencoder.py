"""Image <-> tokens: the convolutional autoencoders of latent diffusion (LDM) from diffusers, and unchanged pixels.

kl, vq and msvq (VAR's multi-scale vq) have the same encoder and decoder, so that Table 1 compares heads and not
tokenizers; LDM's published weights load into the same classes. The consistency decoder of Table 2 shares its encoder
with Stable Diffusion's KL-8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from mar.models.multiscale import MultiScaleQuantizer
from mar.runtime.checkpoint import load_weights
from mar.runtime.files import read
from mar.runtime.folders import recipe_of
from mar.runtime.noise import Noise
from mar.study import at_once, layout
from mar.study.parts import Tokenizer as TokenizerConfig
from mar.study.records import TokenizerRecord
from mar.study.stage_keys import tokenizer_key
from mar.study.study import Study


class Tokenizer(nn.Module):
    """One interface to every kind of tokenizer: encode, decode.

    Attributes:
        kind: "kl", "vq", "msvq", "consistency" or "pixels".
        tokens: what `encode` returns: "ids" (B, L), where L is h*w or the sum over all scales; "moments" (B, 2C, h, w),
            mean and log variance of a posterior; or "latents" (B, C, h, w), which are deterministic.
        net: diffusers' AutoencoderKL, VQModel or ConsistencyDecoderVAE; pixels: an empty module.
        stem: stem x stem pixels are folded into channels in front of `net`, and unfolded behind it.
        encoded: gives the number of images that are encoded at once, of so many.
        decoded: the same for decoding.
    """

    net: Any

    def __init__(self, kind: str, net: Any, continuous: bool = False, stem: int = 1) -> None:
        super().__init__()
        self.kind = kind
        self.net = net
        self.stem = stem
        ids = "latents" if continuous else "ids"
        self.encoded: Callable[[int], int] = _all
        self.decoded: Callable[[int], int] = _all
        self.tokens = {"vq": ids, "msvq": ids, "pixels": "latents"}.get(kind, "moments")

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1] to ids, moments or latents, see `tokens`.

        Ids are int64 in raster order; those of a multi-scale tokenizer scale by scale, each in raster order.
        """
        if self.kind == "pixels":
            return images
        return torch.cat([self._encode(part) for part in images.split(self.encoded(len(images)))])

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        if self.tokens == "moments":
            moments: torch.Tensor = self.net.encode(self._fold(images)).latent_dist.parameters
            return moments
        latents = self.encode_latents(images)
        return self.nearest(latents) if self.tokens == "ids" else latents

    def encode_latents(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) to the latents (B, C, h, w) of a vq or msvq tokenizer before its quantiser."""
        latents: torch.Tensor = self.net.encode(self._fold(images)).latents
        return latents

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Ids (B, L) of the codes that are nearest to the latents (B, C, h, w) of a vq or msvq tokenizer."""
        _, _, (_, _, ids) = self.net.quantize(latents)  # (B*L,) or (B, L)
        return ids.view(len(latents), -1)

    def decode_latents(self, latents: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Unscaled latents (B, C, h, w) to images (B, 3, H, W), roughly in [-1, 1].

        Continuous latents of a vq tokenizer are quantised first, as in LDM. The consistency decoder draws the noise of
        its two steps from `noise`; the other decoders are deterministic.
        """
        if self.kind == "pixels":
            return latents
        if self.kind == "vq":
            return self.decode_ids(self.nearest(latents))
        if self.kind == "consistency":
            return self._denoise(latents, noise.generator if noise else None)
        parts = latents.split(self.decoded(len(latents)))
        return self._unfold(torch.cat([self.net.decode(part).sample for part in parts]))

    def _denoise(self, latents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """The consistency decoder: noise for all latents (B, 4, h, w) together, its network on some at once."""
        unet, size = self.net.decoder_unet, self.decoded(len(latents))

        def in_parts(x: torch.Tensor, t: torch.Tensor) -> Any:
            return SimpleNamespace(sample=torch.cat([forward(part, t).sample for part in x.split(size)]))

        forward = unet.forward
        unet.forward = in_parts
        try:
            images: torch.Tensor = self.net.decode(latents, generator=generator).sample
        finally:
            del unet.forward  # the attribute of this instance that hides the method of its class
        return images

    def decode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, L), ordered as `encode` returns them, to images (B, 3, H, W), roughly in [-1, 1]."""
        if self.kind == "msvq":
            latents = self.net.quantize.latents(ids)
        else:
            side = round(ids.shape[1] ** 0.5)
            codes = self.net.quantize.embedding(ids)  # (B, L, C)
            latents = codes.transpose(1, 2).reshape(len(ids), -1, side, side)
        return self.decode_codes(latents)

    def decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, C, h, w) of a vq or msvq tokenizer, as its quantiser gives them, to images (B, 3, H, W)."""
        parts = codes.split(self.decoded(len(codes)))
        return self._unfold(torch.cat([self.net.decode(part, force_not_quantize=True).sample for part in parts]))

    def decode(self, tokens: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Reconstruction (B, 3, H, W) from what `encode` returned; moments are decoded from their mean."""
        if self.tokens == "ids":
            return self.decode_ids(tokens)
        return self.decode_latents(tokens.chunk(2, dim=1)[0] if self.tokens == "moments" else tokens, noise)

    def _fold(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) to what the first level sees, (B, 3 stem^2, H/stem, W/stem)."""
        return images if self.stem == 1 else pixel_unshuffle(images, self.stem)

    def _unfold(self, folded: torch.Tensor) -> torch.Tensor:
        """The inverse of `_fold`."""
        return folded if self.stem == 1 else pixel_shuffle(folded, self.stem)


def _all(count: int) -> int:
    return count


def build(config: TokenizerConfig, image_size: int) -> Tokenizer:
    """An untrained tokenizer; torch's global generator draws its initial weights."""
    if config.kind == "pixels":
        return Tokenizer("pixels", nn.Module())
    from diffusers import AutoencoderKL, ConsistencyDecoderVAE, VQModel  # takes 3.5 CPU-seconds to import

    if config.kind == "consistency":
        return Tokenizer("consistency", ConsistencyDecoderVAE())  # its defaults are the published architecture
    plain = len(config.channels) - 1
    in_encoder, in_decoder = config.attention != "middle", config.attention == "both"
    numbers = 3 * config.stem**2  # of a position after the stem
    body: dict[str, Any] = {
        "in_channels": numbers,
        "out_channels": numbers,
        "down_block_types": ("DownEncoderBlock2D",) * plain
        + ("AttnDownEncoderBlock2D" if in_encoder else "DownEncoderBlock2D",),
        "up_block_types": ("AttnUpDecoderBlock2D" if in_decoder else "UpDecoderBlock2D",)
        + ("UpDecoderBlock2D",) * plain,
        "block_out_channels": tuple(config.channels),
        "layers_per_block": config.layers,
        "latent_channels": config.latent_channels,
        # Published autoencoders have 32 groups at any width; no tensor of the weights shows the number.
        "norm_num_groups": 32 if config.pretrained else norm_groups(config.channels),
        "sample_size": image_size // config.stem,
    }
    if config.kind == "kl":
        return Tokenizer("kl", AutoencoderKL(**body, scaling_factor=1.0), stem=config.stem)
    net: Any = VQModel(**body, num_vq_embeddings=config.codebook_size, vq_embed_dim=config.latent_channels)
    if config.scales:
        width = config.latent_channels
        net.quantize = MultiScaleQuantizer(config.codebook_size or 0, width, config.scales)
        # VAR publishes 3 x 3 convolutions around the quantiser; LDM has 1 x 1
        net.quant_conv, net.post_quant_conv = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        return Tokenizer("msvq", net, stem=config.stem)
    # By default diffusers repeats an old mistake: the weight 0.25 is on the codebook term. Here it is on the commitment
    # term, as in van den Oord et al. 2017, equation 3. It changes the training loss only.
    net.quantize.legacy = False
    return Tokenizer("vq", net, config.continuous, config.stem)


def norm_groups(channels: tuple[int, ...]) -> int:
    """Number of groups of the group norms: the largest, up to 32, that leaves at least 4 channels in each group.

    LDM has 32 groups of 4 channels at its narrowest level. A group of one channel would be an instance norm, which
    removes the mean brightness.
    """
    return next((n for n in (32, 16, 8, 4, 2) if all(c % n == 0 and c // n >= 4 for c in channels)), 1)


def load(root: str | Path, name: str, study: Study) -> Tokenizer:
    """The finished tokenizer of a study (trained, imported, or pixels), in eval mode, on the CPU.

    Raises:
        ValueError: it is not finished, was made for another section of the study, or its files do not fit.
    """
    folder = layout.tokenizer(Path(root), name)
    record = read(folder / layout.TOKENIZER, TokenizerRecord)  # written after the weights: these are complete then
    if record.kind != (kind := study.instances[name].config.kind):
        raise ValueError(
            f"{folder / layout.TOKENIZER}: kind: found {record.kind!r}; accepted: {kind}; delete {folder} and run "
            f"`mar tokenizer --tokenizer {name}` again"
        )
    if recipe_of(folder).get("slice") != tokenizer_key(study, name):
        raise ValueError(f"{folder}: was trained by another recipe; run `mar tokenizer --tokenizer {name}` again")
    tokenizer = build(study.instances[name].config, study.data.image_size)
    again = f"delete it and run `mar tokenizer --tokenizer {name}` again"
    load_weights(tokenizer.net, folder / layout.WEIGHTS, again)
    section = study.instances[name].section
    tokenizer.encoded = partial(at_once.encoded, study, section)
    tokenizer.decoded = partial(at_once.decoded, study, section)
    return tokenizer.eval().requires_grad_(False)
