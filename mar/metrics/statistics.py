"""Step 2 of an evaluation: features to mean and covariance, in float64 throughout."""

from __future__ import annotations

import numpy as np
import torch

Statistics = dict[str, np.ndarray]  # "mu" (F,) and "sigma" (F, F), float64, as torch-fidelity names them


def of(features: np.ndarray) -> Statistics:
    """Mean and unbiased covariance of features (N, F).

    torch-fidelity leaves the mean in the type of the features and then refuses to compare it with another
    type, so the features are made float64 first.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics

    statistics: Statistics = fid_features_to_statistics(torch.from_numpy(features.astype(np.float64)))
    return statistics


def weighted(features: np.ndarray, counts: np.ndarray) -> Statistics:
    """The same of a resample in which row i occurs counts[i] times; features float64 (N, F), counts (N,)."""
    total = counts.sum()
    mean = counts @ features / total
    centred = (features - mean) * np.sqrt(counts)[:, None]
    return {"mu": mean, "sigma": centred.T @ centred / (total - 1)}
