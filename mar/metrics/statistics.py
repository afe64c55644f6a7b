"""Step 2 of an evaluation: features to mean and covariance, part by part, in float64 throughout. Needs no torch.

A file statistics/<extractor>/<set>.npz has the mean mu (F,) and the covariance sigma (F, F) of the features and, if the
network has spatial features (for sFID), theirs as mu_s and sigma_s. It also says what they were computed from: `n`
images, `extractor`, `weights`, `source` (checksum of the images), and `about`, a StatisticsRecord as JSON text, which
has the checksum of the arrays themselves.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mar.features import references
from mar.features.features import Features, check_name
from mar.metrics.moments import NAMES, Moments, Statistics
from mar.runtime import files
from mar.runtime.files import atomic, remove_abandoned
from mar.study import layout
from mar.study.records import FeaturesManifest, ImageSource, MetricsFile, StatisticsRecord
from mar.study.study import Study

AGAIN = "delete it and run `mar statistics` again"


def read(root: Path, extractor: str, set_name: str) -> tuple[Statistics, StatisticsRecord]:
    """Statistics of a set of images, and the record of what they were computed from.

    Args:
        root: results of the study.
        extractor: name of the network.
        set_name: name of the set.

    Returns:
        mu, sigma and, if the file has them, mu_s and sigma_s; and the record.

    Raises:
        ValueError: the file is missing or damaged, or has no mean and covariance.
    """
    path = layout.statistics(root, extractor, set_name)
    if not path.exists():
        raise ValueError(f"{path}: missing; run `mar statistics` first")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in arrays.files if name in NAMES}
            text = str(arrays["about"])
    except Exception as error:  # from zipfile, from numpy, from the system, or a missing name
        raise ValueError(f"{path}: no file of statistics ({error}); {AGAIN}") from None
    about = files.parse(f"{path}: about", text, StatisticsRecord)
    _check(path, values)
    if about.arrays and about.arrays != checksum(values):
        raise ValueError(f"{path}: mean and covariance differ from their checksum in it (damaged or edited); {AGAIN}")
    return values, about


def of_real(
    study: Study, root: Path, extractor: str, set_name: str, features: Features
) -> tuple[Statistics, StatisticsRecord]:
    """Statistics of the real images, checked to be those of their features.

    Files of an older version have no checksum of their arrays. Such a file is accepted if metrics/reference.json was
    made with it; otherwise mean and covariance are computed from the features again and compared.

    Raises:
        ValueError: as in `read`; or the statistics are of other features.
    """
    path = layout.statistics(root, extractor, set_name)
    values, about = read(root, extractor, set_name)
    if about.features != features.sha256:
        raise ValueError(f"{path}: of other features than {features.folder}; run `mar statistics` again")
    if about.arrays is None and not _measured_with(root, extractor, path):
        expected = _stored(study, root, set_name)[0] or streamed(features)
        same = values.keys() == expected.keys() and all(values[key].shape == expected[key].shape for key in values)
        # the same sums in another order differ by rounding
        if not same or any(np.abs(values[k] - x).max() > 1e-6 * np.abs(x).max() for k, x in expected.items()):
            raise ValueError(
                f"{path}: mean and covariance are not those of the features in {features.folder}; accepted: these; "
                f"{AGAIN}"
            )
    return values, about


def _measured_with(root: Path, extractor: str, path: Path) -> bool:
    """Whether the metrics of the held-out images were computed with exactly this file of statistics."""
    report = layout.reference_metrics(root)
    return report.exists() and files.read(report, MetricsFile).inputs.get(f"real {extractor}") == files.sha256(path)


def checksum(statistics: Statistics) -> str:
    """SHA-256 of the names, shapes and values of mean and covariance."""
    digest = hashlib.sha256()
    for key in NAMES:
        if (values := statistics.get(key)) is not None:
            digest.update(f"{key} {values.shape} ".encode() + values.astype("<f8").tobytes())
    return digest.hexdigest()


def _check(path: Path, statistics: Statistics) -> None:
    for mean, spread in (("mu", "sigma"), ("mu_s", "sigma_s")):
        present = [name for name in (mean, spread) if name in statistics]
        if not present and mean == "mu_s":
            continue
        if len(present) < 2:
            raise ValueError(
                f"{path}: found {', '.join(statistics) or 'no statistics'}; accepted: {mean} with {spread}; {AGAIN}"
            )
        mu, sigma = statistics[mean], statistics[spread]
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


def statistics(study: Study, root: str | Path, extractor: str, set_name: str) -> None:
    """Write statistics/<extractor>/<set>.npz from the features of that set.

    The statistics in a reference file are copied as they are, since they are of more images than the file holds.

    Raises:
        ValueError: there is no such set, its features are missing or damaged, or there are fewer than two images.
    """
    root = Path(root)
    check_name(study, set_name)
    folder = layout.features(root, extractor, set_name)
    features = Features(folder, files.read(folder / layout.MANIFEST, FeaturesManifest))
    path = layout.statistics(root, extractor, set_name)
    if path.exists() and read(root, extractor, set_name)[1].features == features.sha256:
        print(f"{path}: complete", flush=True)
        return
    manifest, n = features.manifest, 0
    arrays, source, note = _stored(study, root, set_name)
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
    description = {"n": n, "extractor": extractor, "weights": manifest.extractor.weights}
    description |= {"source": source.sha256, "about": about.model_dump_json()}
    remove_abandoned(path.parent, f".{path.name}.*.tmp")
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{name: np.array(value) for name, value in description.items()})
    print(f"{path}: mean and covariance of {n or 'an unknown number of'} images", flush=True)


def _stored(study: Study, root: Path, set_name: str) -> tuple[Statistics, ImageSource | None, str]:
    """The statistics in the reference file, its identity and the note on it; empty for all other sets."""
    if set_name != "reference" or study.metrics.reference is None:
        return {}, None, ""
    reference = references.load(study.metrics.reference, layout.assets(root))
    kind = "folder" if reference.path.is_dir() else "npz"
    return reference.statistics, ImageSource(kind=kind, name=reference.name, sha256=reference.sha256), reference.note


def streamed(features: Features) -> Statistics:
    """mu, sigma and, if there are spatial features, mu_s, sigma_s; memory does not grow with the number of images."""
    statistics: Statistics = {}
    for key, suffix in (("features", ""), ("spatial", "_s")):
        if key in features.keys:
            moments = Moments()
            for part in features.parts(key):
                moments.add(part)
            statistics |= {name + suffix: value for name, value in moments.statistics().items()}
    return statistics
