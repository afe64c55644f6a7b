"""What one image weighs in FID, and FID extrapolated to infinitely many images."""

from __future__ import annotations

import numpy as np

from mar.metrics import statistics
from mar.metrics.metrics import frechet, symmetric_root
from mar.metrics.statistics import Statistics

PARTS = (1, 2, 3, 4)  # the set is cut into so many disjoint parts: ten values of FID at four sizes
FREEDOM = 8  # degrees of freedom of the line through them
LEAST = 8  # images per feature: with fewer, FID of a fourth of them is not linear in 1/N (tried on Gaussians)
BLOCK = 1000  # images at a time
NODES = np.exp(np.arange(-50.0, 31.0))  # of the integral over t, in units of the largest eigenvalue


def influence(features: np.ndarray, real: Statistics) -> tuple[float, np.ndarray]:
    """FID of features (n, F), and how far each image moves it: (n - 1) times what FID loses without the image.

    These are the values of the jackknife, exact: FID without image i takes no eigenvalues of its own. With
    R = sqrt(S2), M = R S1 R and u = R (x_i - mu1), leaving out image i turns M into
    (n-1)/(n-2) (M - n/(n-1)^2 u u^T), and since sqrt(a) = 1/(2 pi) int_0^inf t^(-1/2) log(1 + a/t) dt, by the
    determinant lemma

        tr sqrt(M - c u u^T) = tr sqrt(M) + 1/(2 pi) int_0^inf t^(-1/2) log(1 - c u^T (M + t)^-1 u) dt.

    The integral is a sum over log t. For n >> F the values tend to the influence function
    2 (mu1 - mu2).(x_i - mu1) + (x_i - mu1)^T (I - R M^(-1/2) R) (x_i - mu1) - its mean. That derivative is too small
    where images are few: a direction in which only one image lies has a weight of its square root.

    Args:
        features: of the judged set, (n, F), n > 2.
        real: statistics of the real images.

    Returns:
        FID; float64 (n,) with mean 0.

    Raises:
        ValueError: fewer than three images.
    """
    n = len(features)
    if n < 3:
        raise ValueError(f"FID of {n} images has no interval; accepted: at least 3")
    generated, root = statistics.of(features), symmetric_root(real["sigma"])
    mean, shift = generated["mu"], generated["mu"] - real["mu"]
    eigenvalues, vectors = np.linalg.eigh(root @ generated["sigma"] @ root)
    eigenvalues = eigenvalues.clip(min=0.0)
    nodes = NODES * (eigenvalues[-1] or 1.0)
    projection, resolvent = root @ vectors, 1.0 / (eigenvalues[:, None] + nodes)  # (F, F), (F, Q)
    traces = np.sqrt(eigenvalues).sum(), np.trace(generated["sigma"])
    without = np.empty(n)
    for start in range(0, n, BLOCK):
        rows = features[start : start + BLOCK].astype(np.float64) - mean  # (B, F)
        square = (rows**2).sum(1)
        left = 1.0 - n / (n - 1) ** 2 * (rows @ projection) ** 2 @ resolvent  # (B, Q)
        change = np.log(left.clip(min=1e-15)) @ np.sqrt(nodes) / (2.0 * np.pi)
        distance = shift @ shift - 2.0 / (n - 1) * rows @ shift + square / (n - 1) ** 2
        trace = ((n - 1) * traces[1] - n / (n - 1) * square) / (n - 2)
        without[start : start + BLOCK] = distance + trace - 2.0 * np.sqrt((n - 1) / (n - 2)) * (traces[0] + change)
    value = shift @ shift + traces[1] + np.trace(real["sigma"]) - 2.0 * traces[0]
    return float(value), (n - 1) * (without.mean() - without)


def infinity(
    features: np.ndarray, labels: np.ndarray, real: Statistics, weights: np.ndarray, seed: int
) -> tuple[float, float]:
    """FID for infinitely many images, and the standard error of the fit (Chong and Forsyth 2020, arXiv:1911.07023).

    FID of N images is FID_infinity + c / N, but for terms of higher order. The set is cut into 1, 2, 3 and 4 disjoint
    parts with equal classes, and the line is fitted to the FIDs of these ten. Disjoint parts rather than free draws:
    what the images move in first order cancels in the mean over the parts, so the fit adds little noise of its own.
    From each FID is taken what `influence` says that its images move; that leaves the line as it is and makes the
    spread around it the noise of the fit. A part of size n/k is that noisy in proportion to k and weighs accordingly.

    Only the judged set is extrapolated. The real statistics stay those of finitely many images.

    Args:
        features: (n, F) of the judged set.
        labels: (n,) its classes.
        real: statistics of the real images.
        weights: (n,) of `influence`.
        seed: of the parts.

    Returns:
        The value at 1/N = 0 and its standard error from the residuals.
    """
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(labels)), labels))  # shuffled within each class, then dealt out
    root = symmetric_root(real["sigma"])
    inverse, values, noise = [], [], []
    for parts in PARTS:
        for part in range(parts):
            rows = order[part::parts]
            inverse.append(1.0 / len(rows))
            values.append(frechet(statistics.of(features[rows]), real, root) - weights[rows].mean())
            noise.append(parts)
    fit, covariance = np.polyfit(inverse, values, 1, w=1.0 / np.array(noise), cov=True)
    return float(fit[1]), float(np.sqrt(covariance[1, 1]))
