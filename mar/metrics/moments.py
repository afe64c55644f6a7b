"""Mean and covariance of features that come in parts, in float64 throughout. Needs no torch."""

from __future__ import annotations

import numpy as np

from mar.study.records import FeatureSpread

Statistics = dict[str, np.ndarray]  # mean "mu" (F,) and covariance "sigma" (F, F), float64, named as in torch-fidelity
NAMES = ("mu", "sigma", "mu_s", "sigma_s")
DEAD = 1e-3  # share of the root mean square of all standard deviations below which that of a dead feature lies
BLOCK = 1000  # images converted to float64 at a time, so that the copies are small beside the features


class Moments:
    """Mean and covariance of features that come in parts, by the update of Chan, Golub and LeVeque (1983).

    Attributes:
        n: number of images so far.
        mean: mean of their features, (F,).
        scatter: sum over the images of (x - mean) (x - mean)^T, (F, F).
    """

    def __init__(self) -> None:
        self.n, self.mean, self.scatter = 0, np.zeros(0), np.zeros((0, 0))

    def add(self, features: np.ndarray) -> None:
        """Add the features (n, F) of n more images."""
        for start in range(0, len(features), BLOCK):
            rows = features[start : start + BLOCK].astype(np.float64)
            if not self.n:
                self.mean, self.scatter = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
            total, mean = self.n + len(rows), rows.mean(axis=0)
            rows -= mean
            shift = mean - self.mean
            self.scatter += rows.T @ rows
            self.scatter += np.outer(shift, shift * (self.n * len(rows) / total))
            self.mean = self.mean + shift * (len(rows) / total)
            self.n = total

    def statistics(self) -> Statistics:
        """Mean and unbiased covariance (divisor n - 1) of all features that were added."""
        return {"mu": self.mean, "sigma": self.scatter / (self.n - 1)}


def of(features: np.ndarray) -> Statistics:
    """Mean and unbiased covariance of features (n, F), in float64; torch-fidelity's values (tested)."""
    moments = Moments()
    moments.add(features)
    return moments.statistics()


def spread(statistics: Statistics) -> FeatureSpread:
    """Effective dimension and number of dead features of a covariance; the dimension is 0 if nothing varies."""
    sigma = statistics["sigma"]
    variances, square = np.diag(sigma), float((sigma * sigma).sum())
    dead = variances <= DEAD**2 * variances.mean()
    effective = float(variances.sum()) ** 2 / square if square else 0.0
    return FeatureSpread(features=len(sigma), effective=effective, dead=int(dead.sum()))
