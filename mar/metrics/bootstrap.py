"""95% intervals of metrics by the bootstrap (Efron 1979): the images of the evaluated set are drawn again.

*What is estimated.* How far a metric would move if the same model had drawn n other images, with the number n and the
real images unchanged. The bias that a metric has at n images (FID is too high, the more so the smaller n) stays in the
value; it is in the real-versus-real floor beside it too, which is measured with as many images.

*Interval.* From the 2.5th to the 97.5th percentile of the R resampled values, on the metric's own scale, shifted so
that the mean of the resampled values is the metric's value. The shift is needed because a resample has fewer distinct
images than the set, which biases its Inception score (and would bias its FID).

*Symbols.* n images of the evaluated set, M real images, F features for each image, K classes of logits, R resamples.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mar.metrics import fid_infinity, formulas, jackknife
from mar.metrics.moments import Statistics
from mar.study.records import Metric


class Bootstrap:
    """R resamples of the n images of a set, the same for all of its metrics, drawn with replacement within each class.

    The draws keep the number of images of each class, since a sample set has equally many of each by design: it is no
    part of the noise, and if it varied it would move FID more than anything else. Draws from the m images of a class
    have only (m - 1) / m of the variance of fresh images, so the change that a draw makes is scaled up by
    sqrt(m / (m - 1)). Classes with a single image are pooled and drawn from together.

    Args:
        labels: class of each image of the evaluated set, int64 (n,).
        resamples: number R of resamples.
        seed: seed of the draws.

    Attributes:
        counts: weight of each image in each resample, float64 (R, n): how often the image was drawn, with its distance
            from 1 scaled up as above. The weights of a resample sum to n.
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
        self.counts = 1.0 + (counts - 1.0) * scale  # (R, n)

    def fid(self, features: np.ndarray, real: Statistics) -> Metric:
        """Frechet distance of features (n, F) to the real statistics, with its interval.

        FID of a resample is taken to first order: FID of the set plus the weighted mean of what each image moves it
        (`jackknife.fid`). That needs one eigendecomposition for all resamples together. It neglects that images act
        together, so this interval is symmetric, while that of FID computed from resampled rows is slightly skewed.

        The variance is that of the jackknife, whose expectation is never too small (Efron and Stein 1981): it is about
        right if FID is well above its real-versus-real floor, and up to twice too large at the floor. With few images
        for each feature, FID of resampled rows would do worse, with an interval several times too wide: a third of the
        images is missing from a resample, so that its covariance has a lower rank than that of any fresh set of images.

        With fewer images than features (n < F) the value is mostly bias from the small n. The interval still tells how
        far FID moves with the images, so sets of equal n can be compared, but not with FID at infinitely many images.
        """
        value, moves = jackknife.fid(features, real)
        # A distance is not below 0, but its sum of four terms may be, by rounding, for the reference's own images.
        return self._metric(max(0.0, value), self.counts @ moves / self.n, higher_is_better=False)

    def fid_infinity(self, features: np.ndarray, real: Statistics) -> Metric | None:
        """FID extrapolated to infinitely many images; None with fewer than `fid_infinity.LEAST` images per feature.

        The interval contains two kinds of noise: that of the images, as in `fid` (the fitted line leaves its first
        order unchanged), and that of the fit, drawn from Student's t distribution with the fit's standard error.
        """
        if self.n < fid_infinity.LEAST * features.shape[1]:
            return None
        _, moves = jackknife.fid(features, real)
        rng = self._rng()
        value, error = fid_infinity.fid(features, dealt(self.labels, rng), real, moves)
        fit = error * rng.standard_t(fid_infinity.FREEDOM, self.resamples)
        return self._metric(value, self.counts @ moves / self.n + fit, higher_is_better=False)

    def inception_score(self, logits: np.ndarray) -> Metric:
        """Inception score of logits (n, K), with an interval to first order as in `fid`."""
        resampled = self.counts @ jackknife.inception_score(logits) / self.n
        return self._metric(formulas.inception_score(logits), resampled, higher_is_better=True)

    def precision_recall(
        self, generated: np.ndarray, real: np.ndarray, neighbours: int, nearest: np.ndarray | None = None
    ) -> tuple[Metric, Metric]:
        """Precision and recall of generated features (n, F) against real ones (M, F), with k = `neighbours`.

        `nearest` are squared distances of each real image to its k nearest others, (M, k), if they are known.

        Precision is a share of the generated images and is resampled as such. Recall is the share of real images that
        lie in the balls around the generated images. An image drawn twice would be its own nearest neighbour and its
        ball a point, so recall is recomputed from random halves of each class instead, drawn without replacement. From
        one half to another it varies as much as from one fresh set of n images to another (the delete-half jackknife:
        Shao and Wu 1989).
        """
        within = formulas.inside(generated, real, neighbours, nearest=nearest)
        covered = self.covered(generated, real, neighbours)
        recall = self._metric(covered[0], covered[1:], higher_is_better=True)
        return self.share(within, higher_is_better=True), moved(recall, max(0.0, recall.low), min(1.0, recall.high))

    def covered(self, generated: np.ndarray, real: np.ndarray, neighbours: int) -> np.ndarray:
        """Recall of all images, and then of R random halves of each class, (1 + R,); see `precision_recall`."""
        rng = self._rng()
        halves = np.zeros((self.resamples, self.n), bool)
        for i, half in enumerate(halves):
            half[dealt(self.labels, rng)[i % 2 :: 2]] = True
        all_images = np.ones((1, self.n), bool)
        recalls: np.ndarray = formulas.inside(real, generated, neighbours, np.concatenate([all_images, halves])).mean(1)
        return recalls

    def kid(
        self, generated: np.ndarray, real: np.ndarray, bias: float = 0.0, real_kernels: np.ndarray | None = None
    ) -> Metric:
        """KID of generated features (n, F) against real ones (M, F).

        Sets with a fixed number of images of each class bias KID low (`formulas.class_bias`); that of the generated set
        is added here, estimated with at most `jackknife.WITNESSES` of its images, and that of the real one is `bias`.
        `real_kernels` are those of `formulas.real_kernels`, if they are known.

        The interval contains two kinds of noise: that of the images, to first order (`jackknife.kid`), and that of the
        random subsets, whose values are drawn again. The first dominates if n is hardly larger than a subset, the
        second for 50,000 images whose KID is near 0.
        """
        subsets = formulas.kid(generated, real, real_kernels=real_kernels)
        again = subsets[self._rng().integers(len(subsets), size=(self.resamples, len(subsets)))].mean(1)
        moves = jackknife.kid(generated, real, self.seed)
        chosen = np.random.default_rng(self.seed).permutation(self.n)[: jackknife.WITNESSES]
        shift = formulas.class_bias(generated[chosen], self.labels[chosen], self.n) + bias
        return self._metric(
            subsets.mean() + shift, self.counts @ moves / self.n + again + shift, higher_is_better=False
        )

    def mean(self, values: np.ndarray, higher_is_better: bool | None) -> Metric:
        """Mean over the images of one value for each, (n,)."""
        rows = values.astype(np.float64)
        return self._metric(rows.mean(), self.counts @ rows / self.n, higher_is_better)

    def share(self, values: np.ndarray, higher_is_better: bool | None) -> Metric:
        """Share of the images for which `values` (n,) is true.

        If it is true for all or for none, all resamples are alike and the interval is that of Clopper and Pearson
        (1934): its inner end is the share itself, its outer end 1 - 0.025^(1/n) away.
        """
        metric, far = self.mean(values, higher_is_better), 1.0 - 0.025 ** (1.0 / self.n)
        if metric.value in (0.0, 1.0):
            return moved(metric, max(0.0, metric.value - far), min(1.0, metric.value + far))
        return metric

    def single(self, value: float, higher_is_better: bool | None) -> Metric:
        """A value without an interval: `low` and `high` equal the value, and `bootstrap` is 0."""
        return self._metric(value, [value], higher_is_better).model_copy(update={"bootstrap": 0})

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, 1])  # the same draws whichever metrics were computed before

    def _metric(self, value: float, resampled: Any, higher_is_better: bool | None) -> Metric:
        resampled = np.asarray(resampled)
        low, high = value + np.percentile(resampled, [2.5, 97.5]) - resampled.mean()
        low, high = min(low, value), max(high, value)  # of values that are nearly all alike the mean may lie outside
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
    """The metric with another interval."""
    return metric.model_copy(update={"low": low, "high": high})


def dealt(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images (n,) sorted by class and shuffled within each class.

    Taking every k-th image from it, with k different starts, deals the images into k disjoint parts that have equally
    many images of each class (up to one).
    """
    return np.lexsort((rng.random(len(labels)), labels))
