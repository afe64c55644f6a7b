"""Intervals of metrics: the images of the judged set drawn again.

The interval is the percentiles 2.5 and 97.5 of the resampled values, shifted so that their mean is the value: a
resample holds fewer distinct images, which biases its Inception score (and would its FID). It tells how far the
metric moves with the images that were drawn, at this number of images and against these real images. The bias that the
value itself has at this number stays in it, as in the floor beside it, which is taken at equal number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mar.metrics import infinite
from mar.metrics.metrics import inception_score, inside, precision_recall
from mar.metrics.statistics import Statistics

Metric = dict[str, Any]  # value, low, high, n, bootstrap, seed, higher_is_better


class Bootstrap:
    """The same resamples of n images for every metric of a set, drawn within each class.

    A sample set has equally many images of each class by design, so the shares of the classes are no part of the
    noise; drawn freely they would move FID more than anything else.

    Args:
        labels: class of each image of the judged set, int64 (n,).
        resamples: how often they are drawn again.
        seed: of the draws.
    """

    def __init__(self, labels: np.ndarray, resamples: int, seed: int) -> None:
        self.labels, self.n, self.resamples, self.seed = labels, len(labels), resamples, seed
        self.rng = np.random.default_rng(seed)
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        draws = np.concatenate([self.rng.choice(rows, size=(resamples, len(rows))) for rows in members], axis=1)
        self.counts = np.stack([np.bincount(draw, minlength=self.n) for draw in draws]).astype(np.float64)  # (R, n)

    def fid(self, features: np.ndarray, real: Statistics) -> Metric:
        """Frechet distance of features (n, F) to real statistics.

        A resample moves it by the sum of what its images move (`infinite.influence`), which takes one
        eigendecomposition for all of them. This neglects that images act together, so the interval is symmetric
        where that of repeated rows is a little skewed. The variance is the jackknife's, in the mean never too small
        (Efron and Stein 1981): about right where FID is well above its floor, up to twice too large at the floor.
        Repeated rows do worse with fewer images than some features, where the interval would be several times too wide:
        their covariance loses a third of its directions, and no fresh set of images does.

        With fewer images than features the value is mostly the bias of their number. The interval still tells how far
        it moves with the images, so it compares sets of equal number and says nothing about infinitely many.
        """
        value, moves = infinite.influence(features, real)
        return self._metric(value, self.counts @ moves / self.n, higher_is_better=False)

    def fid_infinity(self, features: np.ndarray, real: Statistics) -> Metric | None:
        """FID extrapolated to infinitely many images; None with fewer than infinite.LEAST images a feature.

        The interval holds both noises: the images' as in `fid`, whose first order the line leaves as it is, and the
        fit's, as Student's t with its standard error.
        """
        if self.n < infinite.LEAST * features.shape[1]:
            return None
        _, moves = infinite.influence(features, real)
        value, error = infinite.infinity(features, self.labels, real, moves, self.seed)
        fit = error * np.random.default_rng(self.seed).standard_t(infinite.FREEDOM, self.resamples)
        return self._metric(value, self.counts @ moves / self.n + fit, higher_is_better=False)

    def inception_score(self, logits: np.ndarray) -> Metric:
        """Inception score of logits (n, K)."""
        rows = [np.repeat(np.arange(self.n), counts.astype(np.int64)) for counts in self.counts]
        values = [inception_score(logits[row]) for row in rows]
        return self._metric(inception_score(logits), values, higher_is_better=True)

    def precision_recall(self, generated: np.ndarray, real: np.ndarray, neighbours: int) -> tuple[Metric, Metric]:
        """Precision and recall of features (n, F) against (M, F).

        Precision resamples the generated images and leaves the balls of the real ones as they are. Recall
        resamples the real images and leaves the balls of the generated ones as they are: drawing generated images
        twice would shrink their balls to nothing. So the interval of recall says how far it depends on which real
        images were asked, and not on which images were generated.
        """
        precision, recall = precision_recall(generated, real, neighbours)
        within = inside(generated, real, neighbours)
        covered = inside(real, generated, neighbours)
        draws = self.rng.integers(len(real), size=(self.resamples, len(real)))
        return (
            self._metric(precision, self.counts @ within / self.n, higher_is_better=True),
            self._metric(recall, covered[draws].mean(1), higher_is_better=True),
        )

    def mean(self, values: np.ndarray, higher_is_better: bool | None) -> Metric:
        """Mean of one value per image (n,)."""
        rows = values.astype(np.float64)
        return self._metric(rows.mean(), self.counts @ rows / self.n, higher_is_better)

    def single(self, value: float, higher_is_better: bool | None) -> Metric:
        """A value without an interval: low and high are the value, bootstrap is 0."""
        metric = self._metric(value, [value], higher_is_better)
        return metric | {"bootstrap": 0}

    def _metric(self, value: float, resampled: Any, higher_is_better: bool | None) -> Metric:
        resampled = np.asarray(resampled)
        low, high = value + np.percentile(resampled, [2.5, 97.5]) - resampled.mean()
        return {
            "value": float(value),
            "low": float(low),
            "high": float(high),
            "n": self.n,
            "bootstrap": self.resamples,
            "seed": self.seed,
            "higher_is_better": higher_is_better,
        }
