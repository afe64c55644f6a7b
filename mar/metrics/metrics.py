"""Step 3 of an evaluation: features, logits and statistics to numbers. Intervals: mar.metrics.bootstrap.

The generated set is always the first argument and the real one the second, as in torch-fidelity 0.4.0; swapping them
swaps precision and recall.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from mar.metrics.statistics import Statistics


def fid(generated: Statistics, real: Statistics) -> float:
    """Frechet distance of two Gaussians (Heusel et al. 2017); of Inception's `spatial` features it is sFID.

    |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2), by eigenvalues of a symmetric matrix, which are ten times as
    fast as those of S1 S2 that torch-fidelity takes; equal to its value and to clean-fid's (tested).
    """
    return frechet(generated, real, symmetric_root(real["sigma"]))


def inception_score(logits: np.ndarray, splits: int = 10) -> float:
    """exp(mean KL(p(y|x) || p(y))), averaged over ten shuffled splits, by torch-fidelity; logits (N, K)."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    splits = min(splits, len(logits))  # an empty split would be no number
    return float(isc_features_to_metric(torch.from_numpy(logits), splits=splits)[KEY_METRIC_ISC_MEAN])


def precision_recall(generated: np.ndarray, real: np.ndarray, neighbours: int) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019), by torch-fidelity; features (N, F), (M, F)."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    found = prc_features_to_metric(
        torch.from_numpy(generated.astype(np.float64)),
        torch.from_numpy(real.astype(np.float64)),
        prc_neighborhood=neighbours,
        prc_batch_size=10_000,
        save_cpu_ram=True,
        verbose=False,
    )
    return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]


def inside(points: np.ndarray, centres: np.ndarray, neighbours: int) -> np.ndarray:
    """Which points (N, F) lie within the ball of any centre (M, F), float64 (N,) of 0 and 1.

    The radius of a centre is its distance to its k-th nearest other centre. The mean over generated points and
    real centres is the precision, over real points and generated centres the recall.
    """
    here, there = (torch.from_numpy(x.astype(np.float64)) for x in (points, centres))
    radii = torch.cat([torch.cdist(part, there).kthvalue(neighbours + 1).values for part in there.split(1000)])
    return torch.cat([(torch.cdist(part, there) <= radii).any(1) for part in here.split(1000)]).double().numpy()


def nearest(images: torch.Tensor, train: Iterable[torch.Tensor]) -> np.ndarray:
    """Distance of each image to its nearest training image: root mean square over pixels in [0, 1].

    Args:
        images: uint8 (N, ...).
        train: batches of uint8 (M, ...).

    Returns:
        float64 (N,).
    """
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


def symmetric_root(matrix: np.ndarray) -> np.ndarray:
    """Square root of a symmetric positive semi-definite matrix (F, F)."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T)


def frechet(generated: Statistics, real: Statistics, real_root: np.ndarray) -> float:
    """FID with the square root of the real covariance given (the same for all resamples)."""
    middle = np.linalg.eigvalsh(real_root @ generated["sigma"] @ real_root)
    difference = generated["mu"] - real["mu"]
    traces = np.trace(generated["sigma"]) + np.trace(real["sigma"])
    return float(difference @ difference + traces - 2.0 * np.sqrt(middle.clip(min=0.0)).sum())
