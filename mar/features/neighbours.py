"""Nearest neighbours among images and among features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def nearest(images: torch.Tensor, train: Iterable[torch.Tensor]) -> np.ndarray:
    """Distance of each image to its nearest training image: root mean square over pixels in [0, 1].

    Args:
        images: uint8 (N, ...).
        train: batches of uint8 (M, ...).

    Returns:
        float64 (N,).
    """
    import torch

    here = images.flatten(1).float() / 255.0
    best = torch.full((len(here),), torch.inf, dtype=torch.float64)
    for batch in train:
        there = batch.flatten(1).float() / 255.0
        for rows in torch.arange(len(here)).split(1000):
            # the matrix product behind cdist finds the neighbour, but is too coarse to tell a copy from a near copy
            candidate = there[torch.cdist(here[rows], there).argmin(1)]
            distance = (here[rows] - candidate).double().square().mean(1).sqrt()
            best[rows] = torch.minimum(best[rows], distance)
    return best.numpy()
