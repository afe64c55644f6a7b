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

from mar.models.heads.head import check_complete
from mar.models.multiscale import MultiScaleQuantizer
from mar.runtime.checkpoint import load_weights
from mar.runtime.files import read
from mar.runtime.folders import recipe_of
from mar.runtime.noise import Noise
from mar.study import at_once, layout
from mar.study.kinds import implementation, opened
from mar.study.parts import MsVq, Network, Vq
from mar.study.parts import Tokenizer as TokenizerConfig
from mar.study.records import TokenizerRecord
from mar.study.stage_keys import tokenizer_key
from mar.study.study import Study


class Tokenizer(nn.Module):
    """One interface to every kind of tokenizer: encode, decode, and what its training asks.

    Attributes:
        kind: of its section in the study.
        tokens: what `encode` returns: "ids" (B, L), where L is h*w or the sum over all scales; "moments" (B, 2C, h, w),
            mean and log variance of a posterior; or "latents" (B, C, h, w), which are deterministic.
        net: diffusers' AutoencoderKL, VQModel or ConsistencyDecoderVAE; pixels: an empty module; or the user's module.
        stem: stem x stem pixels are folded into channels in front of `net`, and unfolded behind it.
        encoded: gives the number of images that are encoded at once, of so many.
        decoded: the same for decoding.
        vocabulary: number of ids; 0 for vectors.
    """

    net: Any
    vocabulary: int = 0

    def __init__(self, kind: str, net: Any, tokens: str, stem: int = 1) -> None:
        super().__init__()
        self.kind, self.net, self.tokens, self.stem = kind, net, tokens, stem
        self.encoded: Callable[[int], int] = _all
        self.decoded: Callable[[int], int] = _all

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1] to ids, moments or latents, see `tokens`.

        Ids are int64 in raster order; those of a multi-scale tokenizer scale by scale, each in raster order.
        """
        return torch.cat([self._encode(part) for part in images.split(self.encoded(len(images)))])

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def decode_latents(self, latents: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Unscaled latents (B, C, h, w) to images (B, 3, H, W), roughly in [-1, 1].

        Continuous latents of a vq tokenizer are quantised first, as in LDM. The consistency decoder draws the noise of
        its two steps from `noise`; the other decoders are deterministic.
        """
        raise NotImplementedError

    def decode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, L), ordered as `encode` returns them, to images (B, 3, H, W), roughly in [-1, 1]."""
        raise NotImplementedError

    def decode(self, tokens: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Reconstruction (B, 3, H, W) from what `encode` returned; moments are decoded from their mean."""
        if self.tokens == "ids":
            return self.decode_ids(tokens)
        return self.decode_latents(tokens.chunk(2, dim=1)[0] if self.tokens == "moments" else tokens, noise)

    def rebuilt(self, images: torch.Tensor) -> torch.Tensor:
        """Reconstruction (B, 3, H, W) by the networks of its training, where operations and memory are counted."""
        return self.decode(self.encode(images))

    def last_layer(self) -> torch.Tensor:
        """Weights of the decoder's last layer, where `adaptive_weight` of the discriminator compares gradients."""
        weights: torch.Tensor = self.net.decoder.conv_out.weight
        return weights

    def _fold(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) to what the first level sees, (B, 3 stem^2, H/stem, W/stem)."""
        return images if self.stem == 1 else pixel_unshuffle(images, self.stem)

    def _unfold(self, folded: torch.Tensor) -> torch.Tensor:
        """The inverse of `_fold`."""
        return folded if self.stem == 1 else pixel_shuffle(folded, self.stem)


class Untrained(Tokenizer):
    """Pixels: nothing is done to them."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """The images."""
        return images

    def decode_latents(self, latents: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """The images."""
        return latents


class Posterior(Tokenizer):
    """kl: moments of a posterior."""

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        moments: torch.Tensor = self.net.encode(self._fold(images)).latent_dist.parameters
        return moments

    def decode_latents(self, latents: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Latents to images; deterministic."""
        parts = latents.split(self.decoded(len(latents)))
        return self._unfold(torch.cat([self.net.decode(part).sample for part in parts]))


class Consistency(Posterior):
    """The encoder of a kl tokenizer with the consistency decoder."""

    def decode_latents(self, latents: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Noise for all latents (B, 4, h, w) together, its network on some at once."""
        unet, size = self.net.decoder_unet, self.decoded(len(latents))

        def in_parts(x: torch.Tensor, t: torch.Tensor) -> Any:
            return SimpleNamespace(sample=torch.cat([forward(part, t).sample for part in x.split(size)]))

        forward = unet.forward
        unet.forward = in_parts
        try:
            images: torch.Tensor = self.net.decode(latents, generator=noise.generator if noise else None).sample
        finally:
            del unet.forward  # the attribute of this instance that hides the method of its class
        return images


class Quantised(Tokenizer):
    """vq: ids of one codebook, or the latents before the quantiser."""

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        latents = self.encode_latents(images)
        return self.nearest(latents) if self.tokens == "ids" else latents

    def encode_latents(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) to the latents (B, C, h, w) before the quantiser."""
        latents: torch.Tensor = self.net.encode(self._fold(images)).latents
        return latents

    def nearest(self, latents: torch.Tensor) -> torch.Tensor:
        """Ids (B, L) of the codes that are nearest to the latents (B, C, h, w)."""
        _, _, (_, _, ids) = self.net.quantize(latents)  # (B*L,) or (B, L)
        return ids.view(len(latents), -1)

    def decode_latents(self, latents: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Latents are quantised first, as in LDM."""
        return self.decode_ids(self.nearest(latents))

    def decode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, L) in raster order to images."""
        return self.decode_codes(self.codes(ids))

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """Codes (B, C, h, w) of ids (B, L)."""
        side = round(ids.shape[1] ** 0.5)
        codes = self.net.quantize.embedding(ids)  # (B, L, C)
        latents: torch.Tensor = codes.transpose(1, 2).reshape(len(ids), -1, side, side)
        return latents

    def decode_codes(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (B, C, h, w), as the quantiser gives them, to images (B, 3, H, W)."""
        parts = codes.split(self.decoded(len(codes)))
        return self._unfold(torch.cat([self.net.decode(part, force_not_quantize=True).sample for part in parts]))

    def rebuilt(self, images: torch.Tensor) -> torch.Tensor:
        """The gradient passes by the quantiser."""
        return self.decode_codes(self.net.quantize(self.encode_latents(images))[0])

    def candidates(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) as rows (B*h*w, C) that unused codes may move to."""
        return latents.permute(0, 2, 3, 1).flatten(0, 2)


class MultiScale(Quantised):
    """msvq: ids of several scales."""

    def codes(self, ids: torch.Tensor) -> torch.Tensor:
        """The sum (B, C, h, w) of the codes of all scales; ids (B, L), or codes (B, L, C) in their place."""
        latents: torch.Tensor = self.net.quantize.latents(ids)
        return latents

    def candidates(self, latents: torch.Tensor) -> torch.Tensor:
        """Residuals (B*L, C) of all scales."""
        rows: torch.Tensor = self.net.quantize.residuals(latents)
        return rows


class OwnTokenizer(Tokenizer):
    """A tokenizer of the user's: `net` encodes, decodes and has a loss."""

    def __init__(self, config: TokenizerConfig, net: Any, image_size: int) -> None:
        super().__init__(config.kind, net, config.stored)
        check_complete(net, config.kind, ("encode", "decode", "loss"))
        side = image_size // config.stride
        channels = config.latent_channels * (2 if config.stored == "moments" else 1)
        ids = config.stored == "ids"
        self.shape = ((side // config.group) ** 2,) if ids else (channels, side, side)

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.net.encode(images)
        ids = self.tokens == "ids"
        if tokens.shape != (len(images), *self.shape) or (tokens.dtype == torch.int64) != ids:
            accepted = f"{'int64' if ids else 'float'} {(len(images), *self.shape)}"
            raise ValueError(f"{self.kind}: encode gave {tokens.dtype} {tuple(tokens.shape)}; accepted: {accepted}")
        if ids and tokens.device.type != "meta" and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocabulary:
            found = f"ids {int(tokens.min())} to {int(tokens.max())}"
            raise ValueError(f"{self.kind}: encode gave {found}; accepted: 0 to codes - 1, {self.vocabulary - 1}")
        return tokens

    def _decode(self, tokens: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = torch.cat([self.net.decode(part) for part in tokens.split(self.decoded(len(tokens)))])
        return images

    def decode_latents(self, latents: torch.Tensor, noise: Noise | None = None) -> torch.Tensor:
        """Latents (B, C, h, w) to images."""
        return self._decode(latents)

    def decode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, L) to images."""
        return self._decode(ids)

    def rebuilt(self, images: torch.Tensor) -> torch.Tensor:
        """By its loss."""
        return self.learned(images, None)[0]

    def learned(
        self, images: torch.Tensor, generator: torch.Generator | None
    ) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Reconstruction (B, 3, H, W) in training, and what its loss adds to that of the reconstruction."""
        rebuilt, penalty = self.net.loss(images, generator)
        if rebuilt.shape != images.shape:
            found = f"a reconstruction {tuple(rebuilt.shape)}; accepted: {tuple(images.shape)}"
            raise ValueError(f"{self.kind}: loss gave {found}, and a penalty")
        return rebuilt, penalty

    def last_layer(self) -> torch.Tensor:
        """Not known of a network of the user's."""
        raise ValueError(f"{self.kind}: adversarial_weight belongs to the tokenizers of this project; accepted: 0")


def _all(count: int) -> int:
    return count


def build(config: TokenizerConfig, image_size: int) -> Tokenizer:
    """An untrained tokenizer; torch's global generator draws its initial weights."""
    part: Any = opened(config)
    made: Tokenizer
    if part is not config:
        made = OwnTokenizer(config, implementation(part)(part, image_size), image_size)
    else:
        made = implementation(part)(part, image_size)
    made.vocabulary = config.codes
    return made


def pixels(config: Network, image_size: int) -> Tokenizer:
    """Patches of pixels, without a network."""
    return Untrained(config.kind, nn.Module(), config.stored)


def consistency(config: Network, image_size: int) -> Tokenizer:
    """The published architecture, which diffusers has as default."""
    from diffusers import ConsistencyDecoderVAE  # takes 3.5 CPU-seconds to import

    return Consistency(config.kind, ConsistencyDecoderVAE(), config.stored)


def kl(config: Network, image_size: int) -> Tokenizer:
    """An autoencoder with a posterior."""
    from diffusers import AutoencoderKL

    net = AutoencoderKL(**_body(config, image_size), scaling_factor=1.0)
    return Posterior(config.kind, net, config.stored, config.stem)


def vq(config: Vq, image_size: int) -> Tokenizer:
    """An autoencoder with a codebook."""
    net = _with_codebook(config, image_size)
    # By default diffusers repeats an old mistake: the weight 0.25 is on the codebook term. Here it is on the commitment
    # term, as in van den Oord et al. 2017, equation 3. It changes the training loss only.
    net.quantize.legacy = False
    return Quantised(config.kind, net, config.stored, config.stem)


def msvq(config: MsVq, image_size: int) -> Tokenizer:
    """An autoencoder with a codebook for several scales."""
    net, width = _with_codebook(config, image_size), config.latent_channels
    net.quantize = MultiScaleQuantizer(config.codebook_size, width, config.scales, config.phis)
    # VAR publishes 3 x 3 convolutions around the quantiser; LDM has 1 x 1
    net.quant_conv, net.post_quant_conv = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
    return MultiScale(config.kind, net, config.stored, config.stem)


def _with_codebook(config: Vq | MsVq, image_size: int) -> Any:
    from diffusers import VQModel

    body = _body(config, image_size)
    return VQModel(**body, num_vq_embeddings=config.codebook_size, vq_embed_dim=config.latent_channels)


def _body(config: Network, image_size: int) -> dict[str, Any]:
    """What encoder and decoder of diffusers' autoencoders are made with."""
    plain = len(config.channels) - 1
    in_encoder, in_decoder = config.attention != "middle", config.attention == "both"
    numbers = 3 * config.stem**2  # of a position after the stem
    return {
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
        "norm_num_groups": config.norm_groups or (32 if config.pretrained else norm_groups(config.channels)),
        "sample_size": image_size // config.stem,
    }


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
