"""FID extrapolated to infinitely many images (Chong and Forsyth 2020)."""

from __future__ import annotations

import numpy as np

from mar.metrics import formulas, moments
from mar.metrics.moments import Statistics

PARTS = (1, 2, 3, 4)  # numbers of disjoint parts that the set is cut into: ten values of FID at four sizes
FREEDOM = 8  # degrees of freedom of a line fitted to ten values
LEAST = 8  # images per feature: with fewer, FID of a fourth of the set is not linear in 1/N (tried on Gaussians)


def fid(features: np.ndarray, order: np.ndarray, real: Statistics, moves: np.ndarray) -> tuple[float, float]:
    """FID at infinitely many images, and the standard error of the fit (Chong and Forsyth 2020, arXiv:1911.07023).

    FID of N images is FID_infinity + c / N, up to terms of higher order in 1/N. The set is cut into 1, 2, 3 and 4
    disjoint parts, each with equally many images of each class, and a line in 1/N is fitted to the FIDs of these ten
    parts. The parts are disjoint, unlike the random subsets of the paper, so that the first-order noise of the images
    cancels in the mean over the parts of one size and the fit adds little noise of its own. From the FID of each part
    the mean of `moves` over its images is subtracted: this leaves the line unchanged, and the residuals around it then
    are the noise of the fit alone. A part with n/k images is weighted by 1/k, since the noise of its FID grows with k.

    Only the evaluated set is extrapolated. The real statistics remain those of finitely many images.

    Args:
        features: features of the evaluated set, (n, F).
        order: an order of its rows, (n,), from `bootstrap.dealt`: each k-th row from one start makes a part.
        real: statistics of the real images.
        moves: how far each image moves FID, (n,), from `jackknife.fid`.

    Returns:
        The line's value at 1/N = 0, and its standard error from the residuals, which have FREEDOM degrees of freedom.
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
