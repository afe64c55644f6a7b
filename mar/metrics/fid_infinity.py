"""FID extrapolated to infinitely many images."""

from __future__ import annotations

import numpy as np

from mar.metrics import formulas, moments
from mar.metrics.moments import Statistics

PARTS = (1, 2, 3, 4)  # the set is cut into so many disjoint parts: ten values of FID at four sizes
FREEDOM = 8  # degrees of freedom of the line through them
LEAST = 8  # images per feature: with fewer, FID of a fourth of them is not linear in 1/N (tried on Gaussians)


def fid(features: np.ndarray, order: np.ndarray, real: Statistics, moves: np.ndarray) -> tuple[float, float]:
    """FID for infinitely many images, and the standard error of the fit (Chong and Forsyth 2020, arXiv:1911.07023).

    FID of N images is FID_infinity + c / N, but for terms of higher order. The set is cut into 1, 2, 3 and 4 disjoint
    parts with equal classes, and the line is fitted to the FIDs of these ten. Disjoint parts rather than free draws:
    what the images move in first order cancels in the mean over the parts, so the fit adds little noise of its own.
    From each FID is taken what its images move, which leaves the line as it is and makes the spread around it the noise
    of the fit. FID of a part of n/k images is noisy in proportion to k and weighs accordingly.

    Only the judged set is extrapolated. The real statistics stay those of finitely many images.

    Args:
        features: (n, F) of the judged set.
        order: of its rows, (n,): every k-th of them are a part.
        real: statistics of the real images.
        moves: how far each image moves FID (n,), of `influence.fid`.

    Returns:
        The value at 1/N = 0 and its standard error from the residuals, of FREEDOM degrees.
    """
    root = formulas.symmetric_root(real["sigma"])
    inverse, values, noise = [], [], []
    for parts in PARTS:
        for part in range(parts):
            rows = order[part::parts]
            inverse.append(1.0 / len(rows))
            values.append(formulas.frechet(moments.of(features[rows]), real, root) - moves[rows].mean())
            noise.append(parts)
    fit, covariance = np.polyfit(inverse, values, 1, w=1.0 / np.array(noise), cov=True)
    return float(fit[1]), float(np.sqrt(covariance[1, 1]))
