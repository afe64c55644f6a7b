"""The share of images that are copies of training images, by the test of three samples.

After Meehan, Chaudhuri and Dasgupta (AISTATS 2020): each generated image has a nearest one among M training images and
m held-out ones. Where nothing is copied, a training image is the nearest one as often as its share of the real images
says, M / (M + m), however the images are shrunk or blurred; a copy's nearest one is always a training image.

*Expectation.* The share is taken within the class of the nearest image, p = M_k / (M_k + m_k), so that the held-out
images need not match the training images in their classes.

*Copies.* If a share c is copied, a training image is the nearest to a share s = c + (1 - c) E of the images, where E is
the mean of p over them; so c = (s - E) / (1 - E), which may fall below 0 by chance.

*Interval.* Many generated images can have one nearest image, most of all where a model draws few different ones. Given
which images are nearest ones, and to which shares w_j of the generated images, each of them is a training image by an
independent draw with probability p_j. So the variance of s - E is the sum of w_j^2 p_j (1 - p_j), which is that of
independent images only where all nearest images differ. To it comes the noise of which are copies, c (1 - c) / n. The
real images are those of every set of a study, so a mean over sets has no smaller error than one of them.
"""

from __future__ import annotations

import math

import numpy as np

from mar.features.features import Features
from mar.study.records import Metric

Z = 1.959964  # 97.5% quantile of the normal distribution
ARRAYS = ("neighbour", "from_train", "expected")


def of(stored: Features, chosen: np.ndarray | None = None) -> Metric | None:
    """The share of copies among the images of a set, or those at `chosen`; None if their neighbours are not known."""
    if not set(ARRAYS) <= set(stored.keys):
        return None
    chosen = np.arange(stored.count) if chosen is None else chosen
    value, error = share(*(stored.rows(key, chosen) for key in ARRAYS))
    low, high = max(-1.0, value - Z * error), min(1.0, value + Z * error)
    low, high = min(low, value), max(high, value)
    return Metric(value=value, low=low, high=high, n=len(chosen), bootstrap=0, seed=0, higher_is_better=None)


def share(neighbour: np.ndarray, from_train: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Share of copies and its standard error.

    Args:
        neighbour: number of the nearest real image of each image, (n,).
        from_train: whether that is a training image, 1 or 0; its expectation where both are equally near, (n,).
        expected: probability that it is one without copies, (n,).
    """
    n, mean = len(neighbour), float(expected.mean())
    if mean >= 1.0 - 1e-9:  # no held-out image of these classes: nothing can be told
        return 0.0, 1.0
    _, first, counts = np.unique(neighbour, return_index=True, return_counts=True)
    p = expected[first]
    drawn = float((((counts / n) ** 2) * p * (1.0 - p)).sum())
    value = float((from_train - expected).mean()) / (1.0 - mean)
    kept = min(max(value, 0.0), 1.0)
    return value, math.sqrt(drawn / (1.0 - mean) ** 2 + kept * (1.0 - kept) / n)
