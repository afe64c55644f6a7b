"""Step 2 of an evaluation: features to mean and covariance, part by part, in float64 throughout. Needs no torch.

statistics/<extractor>/<set>.npz has mu (F,) and sigma (F, F), where the network has spatial features (sFID) mu_s and
sigma_s too, and of what they are: n images, extractor, weights, source (checksum of the images) and the text `about`,
a StatisticsRecord, which also has the checksum of the arrays themselves.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mar.features import references
from mar.features.features import Features
from mar.metrics.moments import NAMES, Moments, Statistics
from mar.runtime import files
from mar.runtime.files import atomic
from mar.study import layout
from mar.study.records import FeaturesManifest, ImageSource, MetricsFile, StatisticsRecord
from mar.study.study import Study

AGAIN = "delete it and run `mar statistics` again"


def read(root: Path, extractor: str, where: str) -> tuple[Statistics, StatisticsRecord]:
    """Statistics of a set, and what they are of.

    Args:
        root: results of the study.
        extractor: name of the network.
        where: name of the set.

    Returns:
        mu, sigma and, where there are any, mu_s and sigma_s; and the record of them.

    Raises:
        ValueError: the file is missing or damaged, or holds no mean and covariance; the message names it.
    """
    path = layout.statistics(root, extractor, where)
    if not path.exists():
        raise ValueError(f"{path}: missing; run `mar statistics` first")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in NAMES}
            text = str(arrays["about"])
    except Exception as error:  # of zip, of numpy's format, of the system, of a name that is not there
        raise ValueError(f"{path}: no file of statistics ({error}); {AGAIN}") from None
    about = files.parse(f"{path}: about", text, StatisticsRecord)
    _check(path, found)
    if about.arrays and about.arrays != checksum(found):
        raise ValueError(f"{path}: mean and covariance differ from their checksum in it (damaged or edited); {AGAIN}")
    return found, about


def of_real(
    study: Study, root: Path, extractor: str, where: str, features: Features
) -> tuple[Statistics, StatisticsRecord]:
    """Statistics of the real side, which must be those of its features.

    Older files have no checksum. One that metrics/reference.json was not made with is computed once more from the
    features, and compared.

    Raises:
        ValueError: as of `read`; or they are of other features.
    """
    path = layout.statistics(root, extractor, where)
    found, about = read(root, extractor, where)
    if about.features != features.sha256:
        raise ValueError(f"{path}: of other features than {features.folder}; run `mar statistics` again")
    if about.arrays is None and not _measured_with(root, extractor, path):
        expected = _stored(study, root, where)[0] or streamed(features)
        same = found.keys() == expected.keys() and all(found[key].shape == expected[key].shape for key in found)
        # sums in another order differ by rounding
        if not same or any(np.abs(found[k] - x).max() > 1e-6 * np.abs(x).max() for k, x in expected.items()):
            raise ValueError(
                f"{path}: mean and covariance are not those of the features in {features.folder}; accepted: these; "
                f"{AGAIN}"
            )
    return found, about


def _measured_with(root: Path, extractor: str, path: Path) -> bool:
    """Whether the metrics of the held-out images were made with just this file."""
    report = layout.reference_metrics(root)
    return report.exists() and files.read(report, MetricsFile).inputs.get(f"real {extractor}") == files.sha256(path)


def checksum(found: Statistics) -> str:
    """SHA-256 of mean and covariance: names, shapes and values."""
    digest = hashlib.sha256()
    for name in NAMES:
        if name in found:
            digest.update(f"{name} {found[name].shape} ".encode() + found[name].astype("<f8").tobytes())
    return digest.hexdigest()


def _check(path: Path, found: Statistics) -> None:
    for mean, spread in (("mu", "sigma"), ("mu_s", "sigma_s")):
        here = [name for name in (mean, spread) if name in found]
        if not here and mean == "mu_s":
            continue
        if len(here) < 2:
            raise ValueError(
                f"{path}: found {', '.join(found) or 'no statistics'}; accepted: {mean} with {spread}; {AGAIN}"
            )
        mu, sigma = found[mean], found[spread]
        if mu.dtype != np.float64 or sigma.dtype != np.float64 or mu.ndim != 1 or sigma.shape != 2 * mu.shape:
            raise ValueError(
                f"{path}: {mean} is {mu.dtype} {mu.shape}, {spread} {sigma.dtype} {sigma.shape}; accepted: float64 "
                f"(F,) and (F, F); {AGAIN}"
            )
        if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
            raise ValueError(f"{path}: {mean} or {spread} holds numbers that are not finite; {AGAIN}")
        if not references.is_covariance(sigma):
            raise ValueError(
                f"{path}: {spread} is no covariance: not symmetric, or not positive semi-definite; {AGAIN}"
            )


def statistics(study: Study, root: str | Path, extractor: str, where: str) -> None:
    """Write statistics/<extractor>/<set>.npz from the features of that set.

    Of a reference that brings statistics these are taken as they are: they are of more images than it brings.

    Raises:
        ValueError: the features are missing or damaged, or are of fewer than two images.
    """
    root = Path(root)
    folder = layout.features(root, extractor, where)
    features = Features(folder, files.read(folder / layout.MANIFEST, FeaturesManifest))
    path = layout.statistics(root, extractor, where)
    if path.exists() and read(root, extractor, where)[1].features == features.sha256:
        print(f"{path}: complete", flush=True)
        return
    manifest, n = features.manifest, 0
    arrays, source, note = _stored(study, root, where)
    if not arrays:
        if features.count < 2:
            raise ValueError(f"{folder}: {features.count} images have no covariance; accepted: at least 2")
        arrays, source, n = streamed(features), manifest.source, features.count
    if source is None:
        raise ValueError(
            f"{folder / layout.MANIFEST}: source: found null; accepted: the images that it has features of"
        )
    about = StatisticsRecord(
        extractor=manifest.extractor,
        role=manifest.role,
        source=source,
        n=n,
        note=note,
        features=features.sha256,
        arrays=checksum(arrays),
    )
    said = {"n": n, "extractor": extractor, "weights": manifest.extractor.weights}
    said |= {"source": source.sha256, "about": about.model_dump_json()}
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{name: np.array(value) for name, value in said.items()})
    print(f"{path}: mean and covariance of {n or 'an unknown number of'} images", flush=True)


def _stored(study: Study, root: Path, where: str) -> tuple[Statistics, ImageSource | None, str]:
    """Statistics that a reference brings, its name and what is to be said of it; nothing of other sets."""
    if where != "reference" or study.metrics.reference is None:
        return {}, None, ""
    found = references.load(study.metrics.reference, layout.assets(root))
    kind = "folder" if found.path.is_dir() else "npz"
    return found.statistics, ImageSource(kind=kind, name=found.name, sha256=found.sha256), found.note


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
