"""Published real images or their statistics, against which Inception's numbers are taken in place of the train split.

Known by its checksum: two files of one name are two references, and what was compared with which has to be told apart.
The statistics of such a file are those of Inception as torch-fidelity and the ADM suite have it, of no other network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mar.data import published
from mar.data.image_files import SUFFIXES, files_under, printable, why_no_image
from mar.runtime import npz
from mar.runtime.files import read_json, sha256
from mar.study import layout
from mar.study.sections import Reference as Asked

WIDTHS = {"mu": 2048, "mu_s": 2023}  # of Inception's features: of the last pooling, and spatial (sFID)
ROUNDING = 1e-6  # how far a covariance may be from its transpose and from positive, as a share of its trace


@dataclass(frozen=True)
class Reference:
    """A reference whose checksum is the one that was asked for.

    Attributes:
        name: as the study writes it.
        path: an .npz or a folder of images.
        sha256: of the file; of a folder, of the names and checksums of its images.
        note: what a reader must know, or nothing.
        statistics: as the file has them, float64: mu (2048,), sigma (2048, 2048) and, for sFID, mu_s (2023,), sigma_s
            (2023, 2023); empty where it has none, and they are those of its images.
        count: how many images it brings, for precision and recall (`mar.features.image_sets.of_reference`); 0 where it
        is
            statistics alone.
    """

    name: str
    path: Path
    sha256: str
    note: str
    statistics: dict[str, np.ndarray]
    count: int


def load(asked: Asked, folder: Path = published.FOLDER) -> Reference:
    """Find a reference, identify and check it; its images stay on disk.

    Args:
        asked: `metrics.reference` of a study.
        folder: of fetched files.

    Raises:
        ValueError: it is not there, not the file that is asked for, of unknown checksum without `unknown_hash`, made of
            generated images, or not what a reference looks like.
    """
    where, expected, path = f"metrics.reference.file {asked.file}", "", Path(asked.file)
    known = {name: row for name, row in published.table(published.TABLE).items() if row.path(folder).suffix == ".npz"}
    if asked.file in known:
        expected = known[asked.file].sha256
        path, digest = published.locate(asked.file, published.TABLE, folder)
    elif path.is_dir():
        digest = sha256_of_images(path, images_in(path))
    elif path.is_file():
        digest = sha256(path)
    else:
        raise ValueError(f"{where}: accepted: {', '.join(known)} (config/assets.csv), an .npz, or a folder of images")
    expected = asked.sha256 or expected
    if expected and digest != expected:
        raise ValueError(f"{where}: sha256 {digest}; accepted: {expected}")
    if not expected and not asked.unknown_hash:
        raise ValueError(
            f"{where}: nothing says what its sha256 has to be; found {digest}. Accepted: it as reference.sha256, "
            "after a look at where the file comes from; or unknown_hash: true, by which any file is taken and the "
            "numbers carry a note"
        )
    statistics, count = ({}, len(images_in(path))) if path.is_dir() else _content(path)
    note = "" if expected else f"reference {asked.file} of unknown hash"
    return Reference(asked.file, path, digest, note, statistics, count)


def images_in(folder: Path) -> list[Path]:
    """The image files under a folder in the order of their names, without hidden ones.

    What has the name of an image and is no file (a broken link, a pipe) is named and passed over, as are links to
    folders.

    Raises:
        ValueError: there are none, or the folder holds samples of a study.
    """
    manifest = folder / layout.MANIFEST
    said = read_json(manifest) if manifest.exists() else None
    if isinstance(said, dict) and "checkpoint" in said:
        raise ValueError(f"{folder}: holds images that a study generated; accepted as a reference: real ones")
    images = []
    for path in map(Path, files_under(folder)):
        if (why := why_no_image(path)) is None:
            images.append(path)
        elif path.suffix.lower() in SUFFIXES or path.is_dir():
            print(f"passed over {printable(path)}: {why}", flush=True)
    if not images:
        raise ValueError(f"{folder}: holds no images; accepted: {', '.join(SUFFIXES)}")
    return sorted(images)


def sha256_of_images(folder: Path, images: list[Path]) -> str:
    """Checksum of the names and contents of the images under a folder."""
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in images]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _content(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Statistics of an .npz and its number of images, both checked."""
    there = npz.headers(path)
    if "role" in there and str(npz.read(path, "role")) == "generated":
        raise ValueError(
            f"{path}: holds generated images (`mar export-adm` wrote it); accepted as a reference: real ones"
        )
    if not {"mu", "arr_0"} & set(there):
        raise ValueError(f"{path}: found {', '.join(there)}; accepted: mu and sigma, or images as arr_0, or both")
    statistics: dict[str, np.ndarray] = {}
    for mean, width in WIDTHS.items():
        if mean in there:
            spread = mean.replace("mu", "sigma")
            if spread not in there:
                raise ValueError(f"{path}: has {mean} without {spread}")
            statistics |= {mean: _statistic(path, mean, (width,)), spread: _statistic(path, spread, (width, width))}
    if "arr_0" not in there:
        return statistics, 0
    shape, dtype = there["arr_0"]
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise ValueError(f"{path}: arr_0 is {dtype} {shape}; accepted: images, uint8 (N, H, W, 3)")
    return statistics, shape[0]


def _statistic(path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    value = npz.read(path, name)
    if value.shape != shape or value.dtype.kind != "f":
        raise ValueError(
            f"{path}: {name} is {value.dtype} {value.shape}; accepted: floating point {shape}, of Inception's features"
        )
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise ValueError(f"{path}: {name} holds numbers that are not finite")
    if value.ndim == 2 and not is_covariance(value):
        raise ValueError(f"{path}: {name} is no covariance: not symmetric, or not positive semi-definite")
    return value


def is_covariance(matrix: np.ndarray) -> bool:
    """Whether a finite matrix (F, F) is symmetric and positive semi-definite, beyond rounding."""
    slack = ROUNDING * np.trace(matrix)
    if slack < 0 or np.abs(matrix - matrix.T).max() > slack:
        return False
    try:
        np.linalg.cholesky(matrix + (slack or 1.0) * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True
