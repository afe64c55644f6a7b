"""Mean and covariance of features that come in parts, in float64 throughout. Needs no torch."""

from __future__ import annotations

import numpy as np

Statistics = dict[str, np.ndarray]  # "mu" (F,) and "sigma" (F, F), float64, as torch-fidelity names them
NAMES = ("mu", "sigma", "mu_s", "sigma_s")
BLOCK = 1000  # images at a time: their copies in float64 are small beside the features


class Moments:
    """Mean and covariance of features that come in parts, by the update of Chan, Golub and LeVeque (1983)."""

    def __init__(self) -> None:
        self.n, self.mean, self.scatter = 0, np.zeros(0), np.zeros((0, 0))

    def add(self, features: np.ndarray) -> None:
        """Count features (n, F) in."""
        for start in range(0, len(features), BLOCK):
            rows = features[start : start + BLOCK].astype(np.float64)
            if not self.n:
                self.mean, self.scatter = np.zeros(rows.shape[1]), np.zeros((rows.shape[1], rows.shape[1]))
            total, mean = self.n + len(rows), rows.mean(axis=0)
            rows -= mean
            away = mean - self.mean
            self.scatter += rows.T @ rows
            self.scatter += np.outer(away, away * (self.n * len(rows) / total))
            self.mean = self.mean + away * (len(rows) / total)
            self.n = total

    def statistics(self) -> Statistics:
        """Mean and unbiased covariance of all that was counted in."""
        return {"mu": self.mean, "sigma": self.scatter / (self.n - 1)}


def of(features: np.ndarray) -> Statistics:
    """Mean and unbiased covariance of features (N, F): torch-fidelity's (tested), which keeps the mean's type."""
    moments = Moments()
    moments.add(features)
    return moments.statistics()
