"""When a fast mode counts as good as the default: it loses no more than a margin that was stated beforehand.

*Losses.* Of FID the relative rise over the default's, of the Inception Score its relative fall, of precision and recall
their fall. A gain is a negative loss, and never a reason to refuse: more diverse images are none.

*Rule.* Sets are paired, and so are their resamples, so that each resample has a loss of each metric. A mode is accepted
if the one-sided 97.5% bound of every loss is at most its margin in MARGINS (non-inferiority). With a mode whose true
loss of one metric is that margin, this happens in at most 2.5% of studies, however many images they have; a mode that
loses nothing passes the more surely the more images there are.

*Power.* The probability that a mode that loses nothing passes, all metrics together: the share of resamples in which it
would, if their deviations from their mean are those of a study. With k times the images deviations and bounds are
sqrt(k) times narrower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# Largest accepted losses: FID and the Inception Score as shares of the default's, precision and recall as they are.
MARGINS = {"fid": 0.05, "inception_score": 0.02, "precision": 0.02, "recall": 0.02}
RELATIVE = ("fid", "inception_score")
BOUND = 97.5  # percentile of the losses of resamples
POWER = 0.9  # probability with which a mode that loses nothing is to pass
MOST_TIMES = 1e4  # more times the images are as good as none


class Loss(NamedTuple):
    """What a mode loses in one metric.

    Attributes:
        value: the loss.
        low: lower end of its 95% interval.
        bound: the upper end, which the margin holds.
        margin: the largest that is accepted.
    """

    value: float
    low: float
    bound: float
    margin: float

    @property
    def accepted(self) -> bool:
        """Whether the loss is within the margin for certain."""
        return self.bound <= self.margin


def loss(metric: str, mode: float | np.ndarray, default: float | np.ndarray, of: float) -> float | np.ndarray:
    """The loss from values of a mode and of the default; `of` is the default's value, of which it may be a share."""
    fall = mode - default if metric == "fid" else default - mode
    return fall / of if metric in RELATIVE else fall


def judge(values: Mapping[str, float], resampled: Mapping[str, np.ndarray]) -> dict[str, Loss]:
    """The loss of each metric with its bound.

    Args:
        values: the losses.
        resampled: losses of the resamples, (R,) for each metric.
    """
    found = {}
    for metric, value in values.items():
        low, high = np.percentile(resampled[metric], [100 - BOUND, BOUND]) - resampled[metric].mean()
        found[metric] = Loss(value, value + float(low), value + float(high), MARGINS[metric])
    return found


def power(resampled: Mapping[str, np.ndarray], times: float = 1.0) -> float:
    """Probability that a mode that loses nothing is accepted with so many times the images.

    Args:
        resampled: losses of the resamples, (R,) for each metric, the same resamples for all.
        times: images, in multiples of those of the resamples.
    """
    passes = np.array(True)
    for metric, losses in resampled.items():
        deviations = (losses - losses.mean()) / math.sqrt(times)
        passes = passes & (deviations + np.percentile(deviations, BOUND) <= MARGINS[metric])
    return float(np.mean(passes))


def enough(resampled: Mapping[str, np.ndarray], images: int) -> int | None:
    """Images with which a mode that loses nothing passes in 90% of studies, to two digits; None beyond MOST_TIMES."""
    times = 1.0 / MOST_TIMES
    while times < MOST_TIMES:
        if power(resampled, times) >= POWER:
            step = 10 ** max(0, len(str(round(images * times))) - 2)
            return max(step, math.ceil(images * times / step) * step)
        times *= 1.02
    return None
