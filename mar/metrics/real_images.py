"""The real side of a comparison: statistics, features, and what precision and KID need of the real images alone.

That last part takes longer than all that is computed of a set of a thousand images, and is equal for all sets of a
study. So it is kept beside the statistics, in `.<set>.nearest.npz` and `.<set>.kernels-<n>.npz`, for the next set.
They are no results: where they are missing, damaged, or of other features or formulas, they are computed anew.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mar.features import features
from mar.metrics import formulas, jackknife, statistics
from mar.metrics.moments import Statistics
from mar.runtime.code_digest import digest_of
from mar.runtime.files import a_file, atomic, remove_abandoned
from mar.study import layout
from mar.study.canonical import canonical
from mar.study.limits import REAL
from mar.study.real_sets import real_side
from mar.study.records import Judge, RealSide
from mar.study.study import Study


@dataclass(frozen=True)
class Real:
    """The real side of a comparison, by one extractor.

    Attributes:
        identity: name and checksum of the real images.
        extractor: name and weights of the network.
        statistics: mean and covariance of its features.
        spatial: mean and covariance of its spatial features, for sFID; None if it has none.
        features: features of at most REAL of the images, (M, F), for precision, recall and KID; None if they were not
            read, or if the reference has statistics and no images.
        class_bias: what its fixed numbers of images of each class take off KID; 0 if their classes are not known.
        nearest: squared distances of each image to its k nearest others, (M, k); None: not yet known.
        kernels: `formulas.real_kernels` for sets of one number of images; None: not yet known.
    """

    identity: RealSide
    extractor: Judge
    statistics: Statistics
    spatial: Statistics | None
    features: np.ndarray | None
    class_bias: float = 0.0
    nearest: np.ndarray | None = None
    kernels: np.ndarray | None = None


def real(study: Study, root: Path, extractor: str, images: bool = True) -> Real:
    """The real side that the metrics of an extractor compare with; `images`: with features, for precision and the like.

    Raises:
        ValueError: `mar features` or `mar statistics` has not run for the real images, or the statistics are not those
            of the features.
    """
    set_name = real_side(study, extractor)
    stored = features.read(root, extractor, set_name, "real")
    arrays, about = statistics.of_real(study, root, extractor, set_name, stored)
    rows, bias = None, 0.0
    if images and stored.count:
        chosen = np.random.default_rng(study.seed).choice(stored.count, min(REAL, stored.count), replace=False)
        rows = stored.rows("features", np.sort(chosen))
        if "labels" in stored.keys:
            few = np.sort(chosen[: jackknife.WITNESSES])
            bias = formulas.class_bias(stored.rows("features", few), stored.rows("labels", few), stored.count)
    spatial = {key[:-2]: arrays[key] for key in ("mu_s", "sigma_s")} if "mu_s" in arrays else None
    name = "train split" if set_name == "train" else about.source.name
    main = {"mu": arrays["mu"], "sigma": arrays["sigma"]}
    identity = RealSide(name=name, sha256=about.source.sha256, **({"note": about.note} if about.note else {}))
    return Real(identity, about.extractor, main, spatial, rows, bias)


def with_kept(study: Study, root: Path, side: Real, n: int) -> Real:
    """The real side with what precision and KID need of its images alone, computed or read.

    Args:
        study: the study.
        root: its results folder.
        side: the real side by the first extractor.
        n: number of images of the set that is compared with it.
    """
    rows, neighbours = side.features, study.metrics.neighbours
    if rows is None or len(rows) <= neighbours or n < 2:
        return side
    main = study.metrics.extractors[0]  # further ones have the Frechet distance alone
    path = layout.statistics(root, main, real_side(study, main))
    key = {"features": _checksum(rows), "code": _formulas()}
    nearest = _kept(
        path.with_name(f".{path.stem}.nearest.npz"),
        canonical(key | {"neighbours": neighbours}),
        lambda: formulas.nearest_others(rows, neighbours)[0],
    )
    kernels = _kept(
        path.with_name(f".{path.stem}.kernels-{n}.npz"), canonical(key), lambda: formulas.real_kernels(rows, n)
    )
    return replace(side, nearest=nearest, kernels=kernels)


def _formulas() -> str:
    """Digest of the code that computes what is kept."""
    return digest_of(Path(formulas.__file__).read_text(encoding="utf-8"))


def _checksum(values: np.ndarray) -> str:
    """SHA-256 of type, shape and values of an array."""
    return hashlib.sha256(f"{values.dtype.str} {values.shape} ".encode() + values.tobytes()).hexdigest()


def _kept(path: Path, key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """The array of a file that was written with the same key and is whole; else it is computed and written."""
    try:
        with np.load(a_file(path), allow_pickle=False) as arrays:
            values: np.ndarray = arrays["values"]
            if (str(arrays["key"]), str(arrays["sha256"])) == (key, _checksum(values)):
                return values
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass  # missing or damaged
    values = compute()
    remove_abandoned(path.parent, f".{path.name}.*.tmp")
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, values=values, key=np.array(key), sha256=np.array(_checksum(values)))
    return values
