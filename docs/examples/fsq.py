"""A tokenizer of one's own: finite-scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505), ids without a codebook.

Each of a few numbers per position is rounded to one of its levels; the id counts through their combinations.
"""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import nn

from mar.study.parts import Tokenizer


class Fsq(Tokenizer):
    """What the study says of it: `kind: "fsq.py:Fsq"`, and these keys beside those of every tokenizer (stride, ...)."""

    implementation: ClassVar[str] = "FsqNetwork"
    label: ClassVar[str] = "FSQ"

    levels: tuple[int, ...] = Field(min_length=1)
    width: int = Field(32, gt=0)

    @property
    def stored(self):
        """What `encode` gives: "ids", "latents" or "moments"."""
        return "ids"

    @property
    def codes(self):
        """Number of ids."""
        return math.prod(self.levels)


class FsqNetwork(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to ids (B, L), row by row, and back."""

    def __init__(self, config: Fsq, image_size: int) -> None:
        super().__init__()
        numbers, width = 3 * config.stride**2, config.width  # a patch of stride x stride pixels is one position
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(config.stride), nn.Conv2d(numbers, width, 3, padding=1), nn.GELU(),
            nn.Conv2d(width, len(config.levels), 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(len(config.levels), width, 3, padding=1), nn.GELU(),
            nn.Conv2d(width, numbers, 1), nn.PixelShuffle(config.stride),
        )  # fmt: skip
        self.levels = config.levels
        # On the CPU even where the network stands on the meta device, which counts operations.
        with torch.device("cpu"):
            self.register_buffer("middle", torch.tensor([(n - 1) / 2 for n in config.levels])[:, None, None])

    def digits(self, images):
        """Whole numbers (B, levels, h, w) from 0, with the gradient of what was rounded."""
        middle = self.middle.to(images.device)
        bounded = (self.encoder(images).tanh() + 1) * middle
        return bounded + (bounded.round() - bounded).detach()

    def encode(self, images):
        """Ids (B, L), int64."""
        digits, ids = self.digits(images).round().long(), 0
        for place, count in enumerate(self.levels):
            ids = ids * count + digits[:, place]
        return ids.flatten(1)

    def decode(self, ids):
        """Images of ids (B, L)."""
        side = round(ids.shape[1] ** 0.5)
        places = []
        for count in reversed(self.levels):
            places.append(ids % count)
            ids = ids // count
        digits = torch.stack(places[::-1], dim=1).view(len(ids), -1, side, side)
        return self.decoder(digits / self.middle.to(ids.device) - 1)

    def loss(self, images, generator):
        """The reconstruction (B, 3, H, W) in training, and what is added to its error: nothing."""
        return self.decoder(self.digits(images) / self.middle.to(images.device) - 1), 0.0
