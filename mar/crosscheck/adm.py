"""How the ADM suite computes its numbers, where it differs from the libraries: written anew from its conventions.

Source: the evaluations of Dhariwal and Nichol 2021 (guided-diffusion); the paper's Appendix B evaluates with them. The
Inception score by consecutive splits is `mar.metrics.formulas.ordered_inception_score`.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from mar.metrics.moments import Statistics

# Sides of a block of distances. ADM decides for each block of 10,000 x 10,000 whether float16 holds it.
ROWS = 1_000
COLUMNS = 10_000


def frechet(generated: Statistics, real: Statistics, eps: float = 1e-6) -> float:
    """Frechet distance by the square root of the product of the covariances, as ADM takes it.

    Raises:
        ValueError: the root has imaginary numbers on its diagonal above 1e-3, as in ADM.
    """
    from scipy.linalg import LinAlgWarning, sqrtm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # of fewer images than features
        root = sqrtm(generated["sigma"] @ real["sigma"])
        if not np.isfinite(root).all():
            offset = np.eye(len(root)) * eps
            root = sqrtm((generated["sigma"] + offset) @ (real["sigma"] + offset))
    if np.iscomplexobj(root):
        if (largest := np.abs(np.diagonal(root).imag).max()) > 1e-3:
            raise ValueError(f"Frechet distance: the root of the covariances is imaginary by {largest:.3g}")
        root = root.real
    difference = generated["mu"] - real["mu"]
    traces = np.trace(generated["sigma"]) + np.trace(real["sigma"])
    return float(difference @ difference + traces - 2.0 * np.trace(root))


def squared_distances(here: torch.Tensor, there: torch.Tensor, half: bool = True) -> torch.Tensor:
    """Squared distances of float32 features (N, F) and (M, F) as |u|^2 - 2uv + |v|^2, not below zero, float32 (N, M).

    In float16 where all of them are finite in it, else in float32. The products are summed in float32 and then rounded,
    as matrix units of GPUs do it.
    """
    if half:
        u, v = here.half(), there.half()
        # (N, 1) - (N, M) + (1, M), each rounded to float16
        norms = [(x * x).float().sum(1).half() for x in (u, v)]
        block = norms[0][:, None] - 2.0 * (u.float() @ v.float().T).half() + norms[1]
        if torch.isfinite(block).all():
            return block.clamp_(min=0.0).float()
    block = here.square().sum(1)[:, None] - 2.0 * (here @ there.T) + there.square().sum(1)
    return block.clamp_(min=0.0)


def precision_recall(
    generated: np.ndarray, real: np.ndarray, neighbours: int, half: bool = True
) -> tuple[float, float]:
    """Improved precision and recall by ADM: squared distances, in float16 where they are finite.

    A point is within another's ball if it is no further than that one's k-th nearest neighbour in its own set.

    Args:
        generated: features (n, F).
        real: features (M, F), of ADM's batch 10,000.
        neighbours: k; ADM: 3.
        half: false computes in float32 alone, to show what float16 does.
    """
    ours, theirs = (torch.from_numpy(x.astype(np.float32)) for x in (generated, real))
    inside = [torch.zeros(len(x), dtype=torch.bool) for x in (ours, theirs)]
    balls = [_radii(x, neighbours, half) for x in (ours, theirs)]
    for i in range(0, len(ours), ROWS):
        for j in range(0, len(theirs), COLUMNS):
            rows, columns = slice(i, i + ROWS), slice(j, j + COLUMNS)
            distances = squared_distances(ours[rows], theirs[columns], half)
            inside[0][rows] |= (distances <= balls[1][columns]).any(1)
            inside[1][columns] |= (distances <= balls[0][rows, None]).any(0)
    precision, recall = (float(x.double().mean()) for x in inside)
    return precision, recall


def _radii(points: torch.Tensor, neighbours: int, half: bool) -> torch.Tensor:
    """Squared distance of each point to its k-th nearest neighbour, itself not counted."""
    found = []
    for rows in points.split(ROWS):
        blocks = [squared_distances(rows, columns, half) for columns in points.split(COLUMNS)]
        found.append(torch.cat(blocks, 1).kthvalue(neighbours + 1).values)
    return torch.cat(found)
