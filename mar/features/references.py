"""References: published real images, or their statistics, that replace the train split as the real side of FID.

A reference is identified by its checksum, because files of one name may differ. The statistics in such a file are those
of Inception's features as torch-fidelity and the ADM suite compute them; other networks need the images.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mar.data import published
from mar.data.image_files import SUFFIXES, files_under, why_no_image
from mar.runtime import npz
from mar.runtime.files import read_json, sha256
from mar.runtime.text import one_line
from mar.study import layout
from mar.study.sections import Reference as Section

WIDTHS = {"mu": 2048, "mu_s": 2023}  # number of Inception's features: of the last pooling, and spatial (sFID)
ROUNDING = 1e-6  # by how much, as a share of its trace, a covariance may be asymmetric or have eigenvalues below 0


@dataclass(frozen=True)
class Reference:
    """A reference whose checksum was compared with the one that the study or config/assets.csv gives, if any.

    Attributes:
        name: `metrics.reference.file` of the study.
        path: an .npz or a folder of images.
        sha256: checksum of the file; for a folder, of the names and checksums of its images.
        note: a warning that is printed with all numbers that compare with this reference; empty if there is none.
        statistics: the statistics in the file, float64: mu (2048,), sigma (2048, 2048) and, for sFID, mu_s (2023,),
            sigma_s (2023, 2023). Empty if the file has none; they are then computed from its images.
        count: number of images that it holds, for precision, recall and KID
            (`mar.features.image_sets.of_reference`); 0 if it has statistics alone.
    """

    name: str
    path: Path
    sha256: str
    note: str
    statistics: dict[str, np.ndarray]
    count: int


def load(section: Section, folder: Path = published.FOLDER) -> Reference:
    """Find a reference, compare its checksum and check its content; its images stay on disk.

    Args:
        section: `metrics.reference` of a study.
        folder: where fetched files lie.

    Raises:
        ValueError: the file is missing, its checksum is another or is unknown without `unknown_hash`, it holds
            generated images, or it has neither images nor statistics of the accepted shapes.
    """
    where, expected, path = f"metrics.reference.file {section.file}", "", Path(section.file)
    known = {name: row for name, row in published.table(published.TABLE).items() if row.path(folder).suffix == ".npz"}
    if section.file in known:
        expected = known[section.file].sha256
        path, digest = published.locate(section.file, published.TABLE, folder)
    elif path.is_dir():
        digest = sha256_of_images(path, images_in(path))
    elif path.is_file():
        digest = sha256(path)
    else:
        raise ValueError(f"{where}: accepted: {', '.join(known)} (config/assets.csv), an .npz, or a folder of images")
    expected = section.sha256 or expected
    if expected and digest != expected:
        raise ValueError(f"{where}: sha256 {digest}; accepted: {expected}")
    if not expected and not section.unknown_hash:
        raise ValueError(
            f"{where}: nothing says what its sha256 has to be; found {digest}. Accepted: it as reference.sha256, "
            "after a look at where the file comes from; or unknown_hash: true, by which any file is taken and the "
            "numbers carry a note"
        )
    statistics, count = ({}, len(images_in(path))) if path.is_dir() else _content(path)
    note = "" if expected else f"reference {section.file} of unknown hash"
    return Reference(section.file, path, digest, note, statistics, count)


def images_in(folder: Path) -> list[Path]:
    """The image files under a folder in the order of their names, without hidden ones.

    What has the name of an image and is no file (a broken link, a pipe) is named and passed over, as are links to
    folders.

    Raises:
        ValueError: there are none, or the folder holds samples of a study.
    """
    manifest = folder / layout.MANIFEST
    content = read_json(manifest) if manifest.exists() else None
    if isinstance(content, dict) and "checkpoint" in content:
        raise ValueError(f"{folder}: holds images that a study generated; accepted as a reference: real ones")
    images = []
    for path in map(Path, files_under(folder)):
        if (why := why_no_image(path)) is None:
            images.append(path)
        elif path.suffix.lower() in SUFFIXES or path.is_dir():
            print(f"passed over {one_line(path)}: {why}", flush=True)
    if not images:
        raise ValueError(f"{folder}: holds no images; accepted: {', '.join(SUFFIXES)}")
    return sorted(images)


def sha256_of_images(folder: Path, images: list[Path]) -> str:
    """Checksum of the names and contents of the images under a folder."""
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in images]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _content(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Statistics and number of images of an .npz, both checked."""
    members = npz.headers(path)
    if "role" in members and str(npz.read(path, "role")) == "generated":
        raise ValueError(
            f"{path}: holds generated images (`mar export-adm` wrote it); accepted as a reference: real ones"
        )
    if not {"mu", "arr_0"} & set(members):
        raise ValueError(f"{path}: found {', '.join(members)}; accepted: mu and sigma, or images as arr_0, or both")
    statistics: dict[str, np.ndarray] = {}
    for mean, width in WIDTHS.items():
        if mean in members:
            spread = mean.replace("mu", "sigma")
            if spread not in members:
                raise ValueError(f"{path}: has {mean} without {spread}")
            statistics |= {mean: _statistic(path, mean, (width,)), spread: _statistic(path, spread, (width, width))}
    if "arr_0" not in members:
        return statistics, 0
    shape, dtype = members["arr_0"]
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
        raise ValueError(f"{path}: {name} holds numbers that are not finite; accepted: finite ones")
    if value.ndim == 2 and not is_covariance(value):
        raise ValueError(
            f"{path}: {name} is no covariance: not symmetric, or not positive semi-definite; accepted: one"
        )
    return value


def is_covariance(matrix: np.ndarray) -> bool:
    """Whether a finite matrix (F, F) is symmetric and positive semi-definite, up to ROUNDING of its trace."""
    slack = ROUNDING * np.trace(matrix)
    if slack < 0 or np.abs(matrix - matrix.T).max() > slack:
        return False
    try:
        np.linalg.cholesky(matrix + (slack or 1.0) * np.eye(len(matrix)))
    except np.linalg.LinAlgError:
        return False
    return True
