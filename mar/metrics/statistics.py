"""Step 2 of an evaluation: features to mean and covariance, part by part, in float64 throughout. Needs no torch.

statistics/<extractor>/<set>.npz has mu (F,) and sigma (F, F), where the network has spatial features (sFID) mu_s and
sigma_s too, and of what they are: n images, extractor, weights, source (checksum of the images) and, as JSON, about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mar.metrics.moments import NAMES, Moments, Statistics
from mar.runtime.files import atomic
from mar.study import layout

if TYPE_CHECKING:
    from mar.features.features import Features
    from mar.study.study import Study


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
    path = layout.statistics(root, extractor, where)
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
    from mar.features.features import Features
    from mar.runtime.files import read_json

    root = Path(root)
    folder = layout.features(root, extractor, where)
    features = Features(folder, read_json(folder / layout.MANIFEST))
    path = layout.statistics(root, extractor, where)
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
    from mar.features import references

    found = references.load(study.metrics.reference, layout.assets(root))
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
