"""A data source of one's own: drawn discs and rings, each at a place and of a size and colour of its own."""

from typing import ClassVar

import numpy as np
from pydantic import Field

from mar.study.parts import Data


class Rings(Data):
    """What the study says of it: `kind: "rings.py:Rings"`, and these keys beside those of every source."""

    implementation: ClassVar[str] = "rings"
    label: ClassVar[str] = "discs and rings"

    count: int = Field(1000, ge=10)
    draws: int = 0  # another number draws others

    @property
    def classes(self):
        """Number of classes."""
        return 2


def rings(data):
    """Images uint8 (N, H, W, 3), labels (N,), and the names of the classes."""
    random, side = np.random.default_rng(data.draws), data.image_size
    labels = np.arange(data.count) % 2
    centres = random.uniform(0.35, 0.65, (data.count, 2, 1, 1)) * side
    radii = random.uniform(0.2, 0.35, (data.count, 1, 1)) * side
    colours = random.integers(100, 256, (data.count, 1, 1, 3))
    places = np.mgrid[:side, :side] + 0.5  # (2, H, W)
    distances = np.sqrt(((places - centres) ** 2).sum(1))  # (N, H, W)
    inside = (distances < radii) & ((labels == 0)[:, None, None] | (distances > radii / 2))
    return (inside[..., None] * colours).astype(np.uint8), labels, ["disc", "ring"]
