"""How the ADM suite computes its numbers where it differs from the libraries, written anew from its conventions.

The ADM suite is the evaluator of Dhariwal and Nichol 2021 (guided-diffusion, evaluations); the paper's Appendix B uses
it. Its Inception score by consecutive splits is `mar.metrics.formulas.ordered_inception_score`.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from mar.metrics.moments import Statistics

# Rows and columns of one block of the matrix of distances. ADM decides for each block of 10,000 x 10,000 whether
# float16 can hold it.
ROWS = 1_000
COLUMNS = 10_000


def frechet(generated: Statistics, real: Statistics, eps: float = 1e-6) -> float:
    """Frechet distance by the square root of the product of the covariances, as ADM takes it.

    Raises:
        ValueError: the root has imaginary numbers on its diagonal above 1e-3, as in ADM.
    """
    from scipy.linalg import LinAlgWarning, sqrtm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # the covariance is singular with fewer images than features
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


def squared_distances(first: torch.Tensor, second: torch.Tensor, half: bool = True) -> torch.Tensor:
    """Squared distances of float32 features (N, F) and (M, F) as |u|^2 - 2uv + |v|^2, not below zero, float32 (N, M).

    With `half` they are computed in float16 if all of them are finite there, else in float32. Products are summed in
    float32 and then rounded to float16, as the matrix units of GPUs do it.
    """
    if half:
        u, v = first.half(), second.half()
        # (N, 1) - (N, M) + (1, M), each rounded to float16
        norms = [(x * x).float().sum(1).half() for x in (u, v)]
        block = norms[0][:, None] - 2.0 * (u.float() @ v.float().T).half() + norms[1]
        if torch.isfinite(block).all():
            return block.clamp_(min=0.0).float()
    block = first.square().sum(1)[:, None] - 2.0 * (first @ second.T) + second.square().sum(1)
    return block.clamp_(min=0.0)


def precision_recall(
    generated: np.ndarray, real: np.ndarray, neighbours: int, half: bool = True
) -> tuple[float, float]:
    """Improved precision and recall as ADM computes them: squared distances, in float16 where they are finite.

    Each point has a ball, which reaches to the point's k-th nearest neighbour in its own set. Precision is the share of
    generated points inside the ball of any real point, recall the share of real points inside that of a generated one.

    Args:
        generated: features (n, F).
        real: features (M, F); ADM's reference batch has M = 10,000.
        neighbours: k; ADM takes 3.
        half: whether to use float16 at all; without it, the result shows what float16 changes.
    """
    points = [torch.from_numpy(x.astype(np.float32)) for x in (generated, real)]
    inside = [torch.zeros(len(x), dtype=torch.bool) for x in points]
    radii = [_radii(x, neighbours, half) for x in points]
    for i in range(0, len(points[0]), ROWS):
        for j in range(0, len(points[1]), COLUMNS):
            rows, columns = slice(i, i + ROWS), slice(j, j + COLUMNS)
            distances = squared_distances(points[0][rows], points[1][columns], half)
            inside[0][rows] |= (distances <= radii[1][columns]).any(1)
            inside[1][columns] |= (distances <= radii[0][rows, None]).any(0)
    precision, recall = (float(x.double().mean()) for x in inside)
    return precision, recall


def _radii(points: torch.Tensor, neighbours: int, half: bool) -> torch.Tensor:
    """Squared distance of each point to its k-th nearest neighbour, not counting the point itself."""
    radii = []
    for rows in points.split(ROWS):
        blocks = [squared_distances(rows, columns, half) for columns in points.split(COLUMNS)]
        radii.append(torch.cat(blocks, 1).kthvalue(neighbours + 1).values)
    return torch.cat(radii)
