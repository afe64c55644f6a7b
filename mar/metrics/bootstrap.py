"""Intervals of metrics: the images of the judged set drawn again.

The interval is the percentiles 2.5 and 97.5 of the resampled values, shifted so that their mean is the value: a
resample holds fewer distinct images, which biases its Inception score (and would its FID). It tells how far the
metric moves with the images that were drawn, at this number of images and against these real images. The bias that the
value itself has at this number stays in it, as in the floor beside it, which is taken at equal number.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mar.metrics import fid_infinity, formulas, jackknife
from mar.metrics.moments import Statistics
from mar.study.records import Metric


class Bootstrap:
    """The same resamples of n images for every metric of a set, drawn within each class.

    A sample set has equally many images of each class by design, so the shares of the classes are no part of the
    noise; drawn freely they would move FID more than anything else. Of m images of a class the draws have
    (m - 1) / m of the variance that fresh images have, so what a draw changes is scaled up by sqrt(m / (m - 1));
    classes of a single image are drawn together as one.

    Args:
        labels: class of each image of the judged set, int64 (n,).
        resamples: how often they are drawn again.
        seed: of the draws.
    """

    def __init__(self, labels: np.ndarray, resamples: int, seed: int) -> None:
        self.labels, self.n, self.resamples, self.seed = labels, len(labels), resamples, seed
        rng = np.random.default_rng(seed)
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        single = [rows for rows in members if len(rows) == 1]
        members = [rows for rows in members if len(rows) > 1] + ([np.concatenate(single)] if single else [])
        draws = np.concatenate([rng.choice(rows, size=(resamples, len(rows))) for rows in members], axis=1)
        counts = np.stack([np.bincount(draw, minlength=self.n) for draw in draws]).astype(np.float64)  # (R, n)
        scale = np.ones(self.n)
        for rows in members:
            scale[rows] = np.sqrt(len(rows) / max(1, len(rows) - 1))
        self.counts = 1.0 + (counts - 1.0) * scale  # weights, whose sum is n

    def fid(self, features: np.ndarray, real: Statistics) -> Metric:
        """Frechet distance of features (n, F) to real statistics.

        A resample moves it by the sum of what its images move (`influence.fid`), which takes one
        eigendecomposition for all of them. This neglects that images act together, so the interval is symmetric
        where that of repeated rows is a little skewed. The variance is the jackknife's, in the mean never too small
        (Efron and Stein 1981): about right where FID is well above its floor, up to twice too large at the floor.
        Repeated rows do worse with fewer images than some features, where the interval would be several times too wide:
        their covariance loses a third of its directions, and no fresh set of images does.

        With fewer images than features the value is mostly the bias of their number. The interval still tells how far
        it moves with the images, so it compares sets of equal number and says nothing about infinitely many.
        """
        value, moves = jackknife.fid(features, real)
        return self._metric(value, self.counts @ moves / self.n, higher_is_better=False)

    def fid_infinity(self, features: np.ndarray, real: Statistics) -> Metric | None:
        """FID extrapolated to infinitely many images; None with fewer than infinite.LEAST images a feature.

        The interval holds both noises: the images' as in `fid`, whose first order the line leaves as it is, and the
        fit's, as Student's t with its standard error.
        """
        if self.n < fid_infinity.LEAST * features.shape[1]:
            return None
        _, moves = jackknife.fid(features, real)
        rng = self._rng()
        value, error = fid_infinity.fid(features, dealt(self.labels, rng), real, moves)
        fit = error * rng.standard_t(fid_infinity.FREEDOM, self.resamples)
        return self._metric(value, self.counts @ moves / self.n + fit, higher_is_better=False)

    def inception_score(self, logits: np.ndarray) -> Metric:
        """Inception score of logits (n, K); the interval as that of FID, from what each image moves in its split."""
        resampled = self.counts @ jackknife.inception_score(logits) / self.n
        return self._metric(formulas.inception_score(logits), resampled, higher_is_better=True)

    def precision_recall(self, generated: np.ndarray, real: np.ndarray, neighbours: int) -> tuple[Metric, Metric]:
        """Precision and recall of features (n, F) against (M, F).

        Precision is a mean over generated images. Of recall these are the balls: drawing them twice would shrink the
        balls to nothing, so recall is that of halves of each class, drawn without replacement. From one half to
        another it moves as much as from one fresh set of n images to another (the jackknife that leaves out half:
        Shao and Wu 1989).
        """
        within = formulas.inside(generated, real, neighbours)
        rng = self._rng()
        halves = np.zeros((self.resamples, self.n), bool)
        for i, half in enumerate(halves):
            half[dealt(self.labels, rng)[i % 2 :: 2]] = True
        whole = np.ones((1, self.n), bool)
        covered = formulas.inside(real, generated, neighbours, np.concatenate([whole, halves])).mean(1)
        recall = self._metric(covered[0], covered[1:], higher_is_better=True)
        return self.share(within, higher_is_better=True), moved(recall, max(0.0, recall.low), min(1.0, recall.high))

    def kid(self, generated: np.ndarray, real: np.ndarray) -> Metric:
        """KID of features (n, F) against (M, F).

        Of a set with equally many images of each class it is too low where its subsets are nearly the whole set: pairs
        of one class are rarer within it than across. Sets of equal number compare; the floor of fewer images does not.

        The interval holds two noises: the images', in first order (`influence.kid`), and that of the subsets that the
        value is the mean of, drawn again. The first is nearly all where the set is hardly larger than a subset; the
        second is, where KID of 50,000 images is near 0.
        """
        subsets = formulas.kid(generated, real)
        again = subsets[self._rng().integers(len(subsets), size=(self.resamples, len(subsets)))].mean(1)
        moves = jackknife.kid(generated, real, self.seed)
        return self._metric(subsets.mean(), self.counts @ moves / self.n + again, higher_is_better=False)

    def mean(self, values: np.ndarray, higher_is_better: bool | None) -> Metric:
        """Mean of one value per image (n,)."""
        rows = values.astype(np.float64)
        return self._metric(rows.mean(), self.counts @ rows / self.n, higher_is_better)

    def share(self, values: np.ndarray, higher_is_better: bool | None) -> Metric:
        """Share of images for which something holds, bool (n,).

        Where it holds for all or none, all resamples are alike; the interval is then that of Clopper and Pearson.
        """
        metric, far = self.mean(values, higher_is_better), 1.0 - 0.025 ** (1.0 / self.n)
        if metric.value in (0.0, 1.0):
            return moved(metric, max(0.0, metric.value - far), min(1.0, metric.value + far))
        return metric

    def single(self, value: float, higher_is_better: bool | None) -> Metric:
        """A value without an interval: low and high are the value, bootstrap is 0."""
        return self._metric(value, [value], higher_is_better).model_copy(update={"bootstrap": 0})

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1])  # whichever metrics were asked for before

    def _metric(self, value: float, resampled: Any, higher_is_better: bool | None) -> Metric:
        resampled = np.asarray(resampled)
        low, high = value + np.percentile(resampled, [2.5, 97.5]) - resampled.mean()
        return Metric(
            value=float(value),
            low=float(low),
            high=float(high),
            n=self.n,
            bootstrap=self.resamples,
            seed=self.seed,
            higher_is_better=higher_is_better,
        )


def moved(metric: Metric, low: float, high: float) -> Metric:
    """The metric with other ends of its interval."""
    return metric.model_copy(update={"low": low, "high": high})


def dealt(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order of the images (n,), shuffled within each class: every k-th image of it are a part with equal classes."""
    return np.lexsort((rng.random(len(labels)), labels))
