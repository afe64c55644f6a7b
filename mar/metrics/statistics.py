"""Step 2 of an evaluation: features to mean and covariance, in float64 throughout."""

from __future__ import annotations

import numpy as np

Statistics = dict[str, np.ndarray]  # "mu" (F,) and "sigma" (F, F), float64, as torch-fidelity names them

BLOCK = 1000  # images at a time: their copies in float64 are small beside the features


def of(features: np.ndarray) -> Statistics:
    """Mean and unbiased covariance of features (N, F): torch-fidelity's (tested), which keeps the mean's type."""
    mean = features.mean(axis=0, dtype=np.float64)
    sigma = np.zeros((len(mean), len(mean)))
    for start in range(0, len(features), BLOCK):
        centred = features[start : start + BLOCK] - mean
        sigma += centred.T @ centred
    return {"mu": mean, "sigma": sigma / (len(features) - 1)}
