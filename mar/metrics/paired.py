"""The metrics of a set in each resample of its images, for the differences of paired sets.

Two sets of images of the same labels are resampled alike: image i of one is drawn with image i of the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mar.metrics import formulas, jackknife
from mar.metrics.bootstrap import Bootstrap
from mar.metrics.real_images import Real


class Resampled(NamedTuple):
    """A metric of a set, and its values in R resamples of it, (R,)."""

    value: float
    values: np.ndarray


def resampled(draw: Bootstrap, arrays: Mapping[str, np.ndarray], target: Real, neighbours: int) -> dict[str, Resampled]:
    """FID, and Inception Score, precision and recall where there are logits and real images, as `mar evaluate` does.

    Args:
        draw: resamples of the set's images.
        arrays: of the set, `features` (n, F) and `logits` (n, K).
        target: the real side.
        neighbours: k of precision and recall.
    """
    value, moves = jackknife.fid(arrays["features"], target.statistics)
    found = {"fid": Resampled(value, value + draw.counts @ moves / draw.n)}
    if "logits" in arrays:
        value = formulas.inception_score(arrays["logits"])
        moved = draw.counts @ jackknife.inception_score(arrays["logits"]) / draw.n
        found["inception_score"] = Resampled(value, value + moved)
    if target.features is not None:
        within = formulas.inside(arrays["features"], target.features, neighbours).astype(np.float64)
        found["precision"] = Resampled(float(within.mean()), draw.counts @ within / draw.n)
        covered = draw.covered(arrays["features"], target.features, neighbours)
        found["recall"] = Resampled(float(covered[0]), covered[1:])
    return found
