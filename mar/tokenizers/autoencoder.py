"""The convolutional autoencoders of latent diffusion, KL-regularised or vector-quantised, from diffusers.

Both are built on one body, so that Table 1 compares heads and not tokenizers, and LDM's published weights load
into the same classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mar.config import Study
from mar.config import Tokenizer as TokenizerConfig
from mar.files import read_json
from mar.study import tokenizer_slice


class Tokenizer(nn.Module):
    """An autoencoder and the two directions that the rest of the project uses.

    Attributes:
        kind: "kl" or "vq".
        net: diffusers' AutoencoderKL or VQModel.
    """

    net: Any

    def __init__(self, kind: str, net: Any) -> None:
        super().__init__()
        self.kind = kind
        self.net = net

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1] to moments (B, 2C, h, w) (kl) or ids (B, h*w) in raster order (vq)."""
        if self.kind == "kl":
            moments: torch.Tensor = self.net.encode(images).latent_dist.parameters
            return moments
        latents = self.net.encode(images).latents  # (B, C, h, w)
        _, _, (_, _, ids) = self.net.quantize(latents)  # (B*h*w,)
        return ids.view(len(images), -1)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Unscaled latents (B, C, h, w) of a kl tokenizer to images (B, 3, H, W), about [-1, 1]."""
        images: torch.Tensor = self.net.decode(latents).sample
        return images

    def decode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids (B, L) of a vq tokenizer, raster order of a square grid, to images (B, 3, H, W), about [-1, 1]."""
        side = round(ids.shape[1] ** 0.5)
        codes = self.net.quantize.embedding(ids)  # (B, L, C)
        images: torch.Tensor = self.net.decode(
            codes.transpose(1, 2).reshape(len(ids), -1, side, side), force_not_quantize=True
        ).sample
        return images


def build(config: TokenizerConfig, image_size: int) -> Tokenizer:
    """An untrained tokenizer; weights come from torch's global generator."""
    from diffusers import AutoencoderKL, VQModel  # takes 3.5 CPU-seconds to import

    levels = len(config.channels)
    body: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(config.channels),
        "layers_per_block": config.layers,
        "latent_channels": config.latent_channels,
        "norm_num_groups": norm_groups(config.channels),
        "sample_size": image_size,
    }
    if config.kind == "kl":
        return Tokenizer("kl", AutoencoderKL(**body, scaling_factor=1.0))
    net: Any = VQModel(**body, num_vq_embeddings=config.codebook_size, vq_embed_dim=config.latent_channels)
    # diffusers keeps a historical slip by default: the weight 0.25 on the codebook term. Here it is on the
    # commitment term, as in van den Oord et al. 2017, equation 3. Weights and outputs do not depend on it.
    net.quantize.legacy = False
    return Tokenizer("vq", net)


def norm_groups(channels: tuple[int, ...]) -> int:
    """Groups of the group norms: as many as leave each at least 4 channels, as LDM's 32 groups of 128 channels.

    A group of one channel would be an instance norm, which takes the mean brightness out of the narrow levels.
    """
    return next((n for n in (32, 16, 8, 4, 2) if all(c % n == 0 and c // n >= 4 for c in channels)), 1)


def load(root: str | Path, name: str, study: Study) -> Tokenizer:
    """The trained tokenizer of a study, in eval mode, on the CPU.

    Raises:
        ValueError: it is not trained, or was trained for another study section; or its files do not fit.
    """
    from safetensors.torch import load_file

    folder = Path(root) / "tokenizers" / name
    read_json(folder / "config.json")  # written after the weights: says that they are whole
    if read_json(folder / "recipe.json").get("slice") != tokenizer_slice(study, name):
        raise ValueError(f"{folder}: was trained by another recipe; run `mar tokenizer --tokenizer {name}` again")
    tokenizer = build(study.tokenizers[name], study.data.image_size)
    try:
        tokenizer.net.load_state_dict(load_file(folder / "model.safetensors"))
    except Exception as error:
        raise ValueError(f"{folder / 'model.safetensors'}: cannot be loaded: {error}") from error
    return tokenizer.eval().requires_grad_(False)
