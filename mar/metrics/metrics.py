"""Step 3 of an evaluation: statistics to metrics, by torch-fidelity's functions, with bootstrap intervals.

Input 1 is always the generated set and input 2 the real one (torch-fidelity 0.4.0; swapping them swaps precision
and recall).

Intervals. The images of the judged set are drawn again with replacement, `resamples` times. A resample holds fewer
distinct images, which biases its FID upwards (and its Inception score a little), so that the raw percentiles need
not even contain the value. The interval is therefore the percentiles 2.5 and 97.5 of the resampled values, shifted
so that their mean is the value. It tells the spread of the metric at this number of images; the bias that the value
itself has at this number stays in it, as in the floor beside it, which is taken at equal number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from mar.metrics import statistics
from mar.metrics.statistics import Statistics

Metric = dict[str, Any]  # value, low, high, n, bootstrap, seed, higher_is_better


def fid(generated: Statistics, real: Statistics) -> float:
    """Frechet distance of two Gaussians, by torch-fidelity."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    return float(fid_statistics_to_metric(generated, real, False)[KEY_METRIC_FID])


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
        self.n, self.resamples, self.seed = len(labels), resamples, seed
        self.rng = np.random.default_rng(seed)
        members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        draws = np.concatenate([self.rng.choice(rows, size=(resamples, len(rows))) for rows in members], axis=1)
        self.counts = np.stack([np.bincount(draw, minlength=self.n) for draw in draws]).astype(np.float64)  # (R, n)

    def fid(self, features: np.ndarray, real: Statistics) -> Metric:
        """FID of features (n, F) against real statistics.

        The resamples use tr sqrt(S1 S2) = tr sqrt(R S1 R) with R = sqrt(S2), which is symmetric and ten times as
        fast to resolve; equal to torch-fidelity's value (tested).
        """
        rows, root = features.astype(np.float64), symmetric_root(real["sigma"])
        values = [frechet(statistics.weighted(rows, counts), real, root) for counts in self.counts]
        return self._metric(fid(statistics.of(features), real), values, higher_is_better=False)

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
