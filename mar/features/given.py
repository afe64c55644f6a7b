"""Sample sets that others drew, such as an .npz of the images of a paper, which a study shows beside its own.

They are judged as the study's own: as many images of the same size, in pieces as large as its chunks, so that equal
images have equal features to the bit. Their classes are those of the study where all are, else none: without classes
all images are of one stratum, and the share that the classifier names rightly is not measured.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mar.data.image_files import files_under
from mar.features import image_sets
from mar.runtime.files import read, write_if_changed
from mar.study import layout
from mar.study.mistakes import Mistakes
from mar.study.records import DataManifest
from mar.study.study import Study


def opened(study: Study, root: Path, name: str) -> image_sets.Images:
    """The images of a given set, with the classes that they are of, if they are known.

    Raises:
        ValueError: as `check`; or the file has another checksum than the study says, holds real images, or is damaged.
    """
    _check(study, name)
    section = study.given[name]
    where = f"given.{name}.file {section.file}"
    images = image_sets.open_set(Path(section.file), study.metrics.chunk, as_drawn=True)
    if section.sha256 and images.sha256 != section.sha256:
        raise ValueError(f"{where}: sha256 {images.sha256}; accepted: {section.sha256}, as given.{name}.sha256 says")
    if images.role == "real":
        raise ValueError(f"{where}: holds real images or their statistics; accepted: images that a model drew")
    classes = list(read(layout.data_manifest(root), DataManifest).classes)
    labels = _classes(where, images, classes)
    return replace(images, source=section.file, role="generated", labels=labels, names=classes)


def _classes(where: str, images: image_sets.Images, classes: list[str]) -> np.ndarray | None:
    """The class of each image by the numbers of the study, int64 (N,); None if they are not known."""
    labels = images.labels
    if labels is None or images.names is None:
        if labels is not None and not (labels.min() >= 0 and labels.max() < len(classes)):
            found = f"classes {labels.min()} to {labels.max()}"
            raise ValueError(f"{where}: {found}; accepted: 0 to {len(classes) - 1}, the study's, or none at all")
        return labels
    if not set(images.names) <= set(classes):
        return None  # subfolders that are no classes
    return np.array([classes.index(name) for name in images.names])[labels]


def check(study: Study, root: Path) -> None:
    """Refuse given sets that cannot be judged, before anything runs; of a set that was judged the file may be gone.

    Raises:
        MistakesError: a file is missing, is no set of images, or has another number or size of images than the study.
    """
    mistakes = Mistakes()
    for name, section in study.given.items():
        judged = layout.metrics(root, layout.given_set(name)).exists()
        if not judged or Path(section.file).exists():
            with mistakes.at("given", name, "file"):
                _check(study, name)
    mistakes.refuse()


def _check(study: Study, name: str) -> None:
    where, side = f"given.{name}.file {study.given[name].file}", study.data.image_size
    try:
        count, height, width = image_sets.size_of(Path(study.given[name].file))
    except ValueError as error:
        raise ValueError(f"given.{name}.file: {error}") from None
    if (count, height, width) != (study.metrics.samples, side, side):
        raise ValueError(
            f"{where}: holds {count:,} images of {width}x{height}; accepted: {study.metrics.samples:,} of "
            f"{side}x{side}, as metrics.samples and data.image_size say"
        )


def note_states(study: Study, root: Path) -> None:
    """Write which files the given sets are now, each into a file that changes when they do.

    By names, sizes and times of change, not by content, which takes reading all images. What is not there is passed
    over: that what was judged of it stays.
    """
    for name, section in study.given.items():
        path = Path(section.file)
        if path.exists():
            state = hashlib.sha256(json.dumps(list(_states(path))).encode()).hexdigest()
            lines = (section.file, section.sha256 or "", f"pieces of {study.metrics.chunk}", state)
            write_if_changed(layout.given(root, name), "".join(f"{line}\n" for line in lines))


def _states(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, size in bytes and time of change of each file of a set."""
    files = [path / layout.MANIFEST]
    if not files[0].exists():
        files = sorted(map(Path, files_under(path))) if path.is_dir() else [path]
    for file in files:
        state = file.stat() if file.exists() else file.lstat()  # of a broken link its own
        yield file.name if file == path else file.relative_to(path).as_posix(), state.st_size, state.st_mtime_ns
