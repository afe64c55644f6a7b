"""Step 2 of an evaluation: features to mean and covariance, part by part, in float64 throughout. Needs no torch.

statistics/<extractor>/<set>.npz has mu (F,) and sigma (F, F), where the network has spatial features (sFID) mu_s and
sigma_s too, and of what they are: n images, extractor, weights, source (checksum of the images) and, as JSON, about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mar.files import atomic

if TYPE_CHECKING:
    from mar.config import Study
    from mar.metrics.features import Features

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


def read(root: Path, extractor: str, where: str) -> tuple[Statistics, dict[str, Any]]:
    """Statistics of a set, and what they are of.

    Args:
        root: results of the study.
        extractor: name of the network.
        where: name of the set.

    Returns:
        mu, sigma and, where there are any, mu_s and sigma_s; extractor (name, weights, note), role, source (kind, name,
        sha256), n (0 where a reference does not say), note, and the checksum of the features.

    Raises:
        ValueError: the file is missing or damaged; the message names it.
    """
    path = root / "statistics" / extractor / f"{where}.npz"
    if not path.exists():
        raise ValueError(f"{path}: missing; run `mar statistics` first")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in NAMES}
            about = json.loads(str(arrays["about"]))
    except Exception as error:  # of zip, of numpy's format, of the system, of a name that is not there
        raise ValueError(f"{path}: no file of statistics ({error}); delete it and run `mar statistics` again") from None
    return found, about


def statistics(study: Study, root: str | Path, extractor: str, where: str) -> None:
    """Write statistics/<extractor>/<set>.npz from the features of that set.

    Of a reference that brings statistics these are taken as they are: they are of more images than it brings.

    Raises:
        ValueError: the features are missing or damaged, or are of fewer than two images.
    """
    from mar.files import read_json
    from mar.metrics.features import Features

    root = Path(root)
    folder = root / "features" / extractor / where
    features = Features(folder, read_json(folder / "manifest.json"))
    path = root / "statistics" / extractor / f"{where}.npz"
    if path.exists() and read(root, extractor, where)[1]["features"] == features.sha256:
        print(f"{path}: complete", flush=True)
        return
    arrays, told = _stored(study, root, where)
    if not arrays:
        if features.count < 2:
            raise ValueError(f"{folder}: {features.count} images have no covariance; accepted: at least 2")
        arrays = streamed(features)
        told |= {"n": features.count}
    about = {key: features.manifest[key] for key in ("extractor", "role", "source")}
    about |= {"n": 0, "note": "", **told, "features": features.sha256}
    said = {"n": about["n"], "extractor": extractor, "weights": about["extractor"]["weights"]}
    said |= {"source": about["source"]["sha256"], "about": json.dumps(about)}
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{name: np.array(value) for name, value in said.items()})
    print(f"{path}: mean and covariance of {about['n'] or 'an unknown number of'} images", flush=True)


def _stored(study: Study, root: Path, where: str) -> tuple[Statistics, dict[str, Any]]:
    """Statistics that a reference brings, and what is to be said of it; nothing of other sets."""
    if where != "reference" or study.metrics.reference is None:
        return {}, {}
    from mar.metrics import references

    found = references.load(study.metrics.reference, root.parent / "assets")
    kind = "folder" if found.path.is_dir() else "npz"
    source = {"kind": kind, "name": found.name, "sha256": found.sha256}
    return found.statistics, {"source": source, "note": found.note}


def streamed(features: Features) -> Statistics:
    """mu and sigma, and mu_s and sigma_s where there are spatial features; memory does not grow with the images."""
    found: Statistics = {}
    for key, suffix in (("features", ""), ("spatial", "_s")):
        if key in features.keys:
            moments = Moments()
            for part in features.parts(key):
                moments.add(part)
            found |= {name + suffix: value for name, value in moments.statistics().items()}
    return found
