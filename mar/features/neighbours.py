"""Nearest neighbours among images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def nearest(images: torch.Tensor, train: Iterable[torch.Tensor]) -> np.ndarray:
    """Distance of each image to its nearest training image: root mean square difference of pixel values in [0, 1].

    Args:
        images: uint8 (N, ...).
        train: the training images in batches, each uint8 (M, ...).

    Returns:
        float64 (N,).
    """
    import torch

    queries = images.flatten(1).float() / 255.0
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    for batch in train:
        candidates = batch.flatten(1).float() / 255.0
        for rows in torch.arange(len(queries)).split(1000):
            # the matrix product behind cdist finds the neighbour, but is too coarse to tell a copy from a near copy
            closest = candidates[torch.cdist(queries[rows], candidates).argmin(1)]
            distance = (queries[rows] - closest).double().square().mean(1).sqrt()
            best[rows] = torch.minimum(best[rows], distance)
    return best.numpy()
