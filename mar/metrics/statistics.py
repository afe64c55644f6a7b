"""Step 2 of an evaluation: features to mean and covariance, part by part, in float64 throughout.

statistics/<extractor>/<key>.npz has mu (F,) and sigma (F, F), where the network has spatial features (sFID) mu_s and
sigma_s too, and of what they are: n images, extractor, weights, source (checksum of the images), role.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mar.files import atomic, sha256

if TYPE_CHECKING:
    from mar.config import Study
    from mar.metrics.features import Features

Statistics = dict[str, np.ndarray]  # "mu" (F,) and "sigma" (F, F), float64, as torch-fidelity names them

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


@dataclass(frozen=True)
class Saved:
    """A file of statistics.

    Attributes:
        path: of the file.
        features: of the network's features.
        spatial: of its spatial features, or None.
        n: how many images; 0 where a reference does not say.
        extractor: the network's name.
        weights: checksum of its weights, or "random".
        source: checksum of the images.
        role: generated or real.
        made_of: checksum of the manifest of the features.
    """

    path: Path
    features: Statistics
    spatial: Statistics | None
    n: int
    extractor: str
    weights: str
    source: str
    role: str
    made_of: str


def read(path: Path) -> Saved:
    """Read a file of statistics.

    Raises:
        ValueError: it is missing or damaged; the message names it.
    """
    if not path.exists():
        raise ValueError(f"{path}: missing; run `mar statistics` first")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        spatial = {"mu": found["mu_s"], "sigma": found["sigma_s"]} if "mu_s" in found else None
        said = {name: str(found[name]) for name in ("extractor", "weights", "source", "role", "made_of")}
        return Saved(path, {"mu": found["mu"], "sigma": found["sigma"]}, spatial, int(found["n"]), **said)
    except Exception as error:  # of zip, of numpy's format, of the system, of a name that is not there
        raise ValueError(f"{path}: no file of statistics ({error}); delete it and run `mar statistics` again") from None


def compute(study: Study, root: str | Path, extractor: str, key: str) -> None:
    """Write statistics/<extractor>/<key>.npz from the features of that key.

    Of a reference that brings statistics these are taken as they are: they are of more images than it brings.

    Raises:
        ValueError: the features are missing or damaged, or are of fewer than two images.
    """
    from mar.metrics.features import Features

    root = Path(root)
    features = Features.open(root / "features" / extractor / key)
    path = root / "statistics" / extractor / f"{key}.npz"
    digest = sha256(features.folder / "manifest.json")
    if path.exists() and read(path).made_of == digest:
        print(f"{path}: complete", flush=True)
        return
    arrays, n = _stored(study, root, key), 0
    if not arrays:
        n = features.count
        if n < 2:
            raise ValueError(f"{features.folder}: {n} images have no covariance; accepted: at least 2")
        arrays = _streamed(features)
    weights, source = features.manifest["extractor"]["weights"], features.manifest["source"]["sha256"]
    about = {"n": n, "extractor": extractor, "weights": weights, "source": source}
    about |= {"role": features.manifest["role"], "made_of": digest}
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{name: np.array(value) for name, value in about.items()})
    print(f"{path}: mean and covariance of {n or 'an unknown number of'} images", flush=True)


def _stored(study: Study, root: Path, key: str) -> Statistics:
    """Statistics that a reference brings; none of other keys."""
    if key != "reference" or study.metrics.reference is None:
        return {}
    from mar.metrics import references

    return references.load(study.metrics.reference, root.parent / "assets").statistics


def _streamed(features: Features) -> Statistics:
    """mu and sigma, and mu_s and sigma_s where there are spatial features; memory does not grow with the images."""
    names = [name for name in ("features", "spatial") if features.has(name)]
    moments = {name: Moments() for name in names}
    for part in features.parts(*names):
        for name in names:
            moments[name].add(part[name])
    found = moments["features"].statistics()
    if "spatial" in moments:
        spatial = moments["spatial"].statistics()
        found |= {"mu_s": spatial["mu"], "sigma_s": spatial["sigma"]}
    return found
