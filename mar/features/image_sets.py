"""Sets of images to evaluate: samples of a study, a split of its data, a folder, an .npz. Read piece by piece.

Reading a set that cannot be evaluated is an error that says why: it has fewer images than it says, or images of another
size or type, its labels are not those that the generator was given, or its images show that the generator failed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mar.data.image_files import open_image
from mar.data.read_ahead import read_ahead
from mar.features import references
from mar.runtime import npz
from mar.runtime.files import load_array, parse, read, sha256
from mar.runtime.text import one_line
from mar.study import layout
from mar.study.real_sets import PARTS, described
from mar.study.records import DataManifest, ImageSource, Piece, RunRecord, SampleManifest
from mar.study.study import Study

if TYPE_CHECKING:
    import torch

PIECE = 250  # images in a piece, where the set itself does not divide them


@dataclass(frozen=True)
class Images:
    """A set of images, which stay on disk.

    Attributes:
        source: name of the set in messages: a path, or the name of a split.
        kind: samples, split, folder or npz.
        role: generated, real, or unknown.
        sha256: checksum that identifies the set: of its manifest, or of the names and contents of its files.
        count: number of images N.
        labels: class of each image, int64 (N,); for a generated image the class it was generated for. None if unknown.
        names: names of the classes; None if unknown.
        piece: number of images in each piece but the last.
        stream: `stream(first, step, workers)` yields the pieces number first, first + step, first + 2 step, ..., each
            uint8 (B, H, W, 3), read ahead by that many worker processes.
        labels_checked: whether a checksum proves that `labels` are the classes that the generator was given.
    """

    source: str
    kind: str
    role: str
    sha256: str
    count: int
    labels: np.ndarray | None
    names: list[str] | None
    piece: int
    stream: Callable[[int, int, int], Iterator[np.ndarray]]
    labels_checked: bool = False

    @property
    def identity(self) -> ImageSource:
        """Kind, name and checksum of the set, as records name it."""
        return ImageSource(kind=self.kind, name=self.source, sha256=self.sha256)

    @property
    def sizes(self) -> list[int]:
        """Images in each piece."""
        return [min(self.piece, self.count - start) for start in range(0, self.count, self.piece)]

    def pieces(self, first: int = 0, step: int = 1, workers: int = 0) -> Iterator[np.ndarray]:
        """Yield the pieces number first, first + step, first + 2 step, ..., each uint8 (B, H, W, 3), and check them.

        Args:
            first: number of the first piece.
            step: distance to the next one.
            workers: processes that read and decode ahead of the caller.

        Raises:
            ValueError: a piece is missing, damaged, of another type or size; or generated images are constant or all
                equal, as those of a failed run are.
        """
        shape: tuple[int, ...] | None = None
        missing = sum(self.sizes[first::step])
        for number, rows in enumerate(self.stream(first, step, workers)):
            if rows.dtype != np.uint8 or rows.ndim != 4 or rows.shape[3] != 3:
                raise ValueError(
                    f"{self.source}: holds {rows.dtype} {rows.shape}; accepted: images, uint8 (N, H, W, 3)"
                )
            shape = shape or rows.shape[1:]
            if rows.shape[1:] != shape:
                raise ValueError(f"{self.source}: images of {rows.shape[1:]} after {shape}; accepted: one size")
            if self.role != "real":
                self._refuse_failed(rows, (first + number * step) * self.piece)
            missing -= len(rows)
            yield rows
        if missing:
            raise ValueError(f"{self.source}: holds {self.count - missing} images; accepted: {self.count}, as it says")

    def batches(self, size: int = PIECE) -> Iterator[torch.Tensor]:
        """All images, uint8 (B, 3, H, W), at most `size` at a time; raises as `pieces`."""
        import torch

        for rows in self.pieces():
            yield from torch.from_numpy(rows).permute(0, 3, 1, 2).contiguous().split(size)

    def _refuse_failed(self, rows: np.ndarray, start: int) -> None:
        flat = rows.reshape(len(rows), -1)
        constant = (flat == flat[:, :1]).all(1)
        if constant.any():
            raise ValueError(
                f"{self.source}: {constant.sum()} of images {start} to {start + len(rows) - 1} are of one value; the "
                f"first is image {start + constant.argmax()}, all {flat[constant.argmax(), 0]}: the run that made them "
                "has failed"
            )
        if len(rows) > 1 and (flat == flat[0]).all():
            raise ValueError(
                f"{self.source}: images {start} to {start + len(rows) - 1} are all equal; the run that made "
                "them has failed"
            )


def of_samples(study: Study, root: Path, variant: str, seed: int, setting: str) -> Images:
    """The sample set of a variant, training seed and setting.

    Raises:
        ValueError: the set is incomplete, was made with another checkpoint or tokenizer than the present ones or by a
            model that was never trained, or its labels are not those that the generator was given.
    """
    folder = layout.samples(root, layout.sample_set(variant, seed, setting))
    path, run_file = folder / layout.MANIFEST, layout.run_record(root, variant, seed)
    manifest, run = read(path, SampleManifest), read(run_file, RunRecord)
    if manifest.count != study.metrics.samples:
        raise ValueError(f"{path}: holds {manifest.count} images; accepted: metrics.samples {study.metrics.samples}")
    if not run.images and run.pretrained is None:
        raise ValueError(f"{run_file}: says 0 images of training; accepted: samples of a model that was trained")
    if manifest.checkpoint != run.checkpoint:
        raise ValueError(
            f"{path}: drawn from checkpoint {manifest.checkpoint[:12]}, {run_file} says {run.checkpoint[:12]}; "
            f"run `mar sample` again"
        )
    weights = layout.tokenizer_weights(root, study.tokenizer_of(variant, seed))
    if weights.exists() and manifest.tokenizer != sha256(weights):
        raise ValueError(f"{path}: decoded by another tokenizer than {weights}; run `mar train` and `mar sample` again")
    return of_chunks(folder, study.data.image_size, list(read(layout.data_manifest(root), DataManifest).classes))


def of_chunks(folder: Path, side: int | None = None, names: list[str] | None = None) -> Images:
    """The sample set in a folder, of whichever study.

    Args:
        folder: written by `mar sample`.
        side: height and width that the images must have, in pixels; None accepts any.
        names: names of the classes, if known. Image i of a sample set has class i mod the number of classes.

    Raises:
        ValueError: the manifest is missing, or the labels are not those that the generator was given.
    """
    manifest = read(folder / layout.MANIFEST, SampleManifest)
    labels, count, labels_checked = labels_of(folder, manifest), manifest.count, manifest.labels_sha256 is not None
    classes = len(names) if names else int(labels.max()) + 1
    expected = np.arange(count) % classes
    if (labels != expected).any():
        wrong = int((labels != expected).argmax())
        raise ValueError(
            f"{folder / 'labels.npy'}: image {wrong} has class {labels[wrong]}, {expected[wrong]} was asked for (image "
            f"i has class i mod {classes}): mislabelled; delete manifest.json beside it and run `mar sample` again"
        )

    def chunk(piece: Piece) -> np.ndarray:
        return chunk_of(folder, piece, side)

    def stream(first: int, step: int, workers: int) -> Iterator[np.ndarray]:
        return read_ahead(chunk, manifest.chunks[first::step], workers)

    digest = sha256(folder / layout.MANIFEST)
    piece = manifest.chunks[0].count
    return Images(str(folder), "samples", "generated", digest, count, labels, names, piece, stream, labels_checked)


def labels_of(folder: Path, manifest: SampleManifest) -> np.ndarray:
    """Classes of the images of a sample set, int64 (N,).

    Raises:
        ValueError: labels.npy is missing or no such array, or differs from its checksum.
    """
    path, again = folder / layout.LABELS, "run `mar sample` again"
    labels = load_array(path, f"delete manifest.json beside it and {again}")
    if labels.shape != (manifest.count,):
        raise ValueError(f"{path}: labels {labels.shape}; the manifest says {manifest.count} images; {again}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels are {labels.dtype}; accepted: whole numbers; {again}")
    if manifest.labels_sha256 and sha256(path) != manifest.labels_sha256:
        raise ValueError(f"{path}: differs from its checksum in the manifest: mislabelled; {again}")
    return labels.astype(np.int64)


def chunk_of(folder: Path, piece: Piece, side: int | None = None, mapped: bool = False) -> np.ndarray:
    """A chunk of a sample set, uint8 (B, H, W, 3).

    Args:
        folder: folder of the sample set.
        piece: the chunk's entry in the manifest.
        side: height and width that the images must have, in pixels; None accepts any.
        mapped: read from disk only the images that are used; the checksum is then not compared.

    Raises:
        ValueError: the chunk is missing or damaged, or has another shape.
    """
    path, again = folder / piece.file, "delete it and the manifest, and run `mar sample` again"
    if not path.exists():
        raise ValueError(f"{path}: missing; run `mar sample` again")
    if not mapped and sha256(path) != piece.sha256:
        raise ValueError(f"{path}: differs from its checksum in the manifest (damaged or cut off); {again}")
    chunk = load_array(path, again, mapped)
    height, width = (side, side) if side else chunk.shape[1:3] if chunk.ndim == 4 else (0, 0)
    shape = (piece.count, height, width, 3)
    if chunk.shape != shape or chunk.dtype != np.uint8:
        accepted = shape if height else f"({piece.count}, H, W, 3)"
        raise ValueError(f"{path}: holds {chunk.dtype} {chunk.shape}; accepted: uint8 {accepted}; {again}")
    return chunk


def of_split(study: Study, root: Path, split: str) -> Images:
    """The real images of a split of the study's data, or of a part of the held-out ones.

    A part is identified by the checksum of the data, its name and its images, so that no two real sides look alike.

    Raises:
        ValueError: `prepare` has not run, or the part has no image of some class.
    """
    from mar.data.heldout import rows_of
    from mar.data.images import open_split

    images = open_split(study, root, split)

    def stream(first: int, step: int, workers: int) -> Iterator[np.ndarray]:
        pieces = [range(len(images))[start : start + PIECE] for start in range(0, len(images), PIECE)]
        return read_ahead(images.arrays, pieces[first::step], workers if study.data.decoded else 0)

    digest = sha256(layout.data_manifest(root))
    if split in PARTS:
        rows = rows_of(open_split(study, root, "heldout").labels, split)
        digest = hashlib.sha256(f"{digest} {split} {rows.tolist()}".encode()).hexdigest()
    return Images(described(split), "split", "real", digest, len(images), images.labels, images.classes, PIECE, stream)


def of_reference(reference: references.Reference) -> Images:
    """The images of a reference.

    Raises:
        ValueError: it has none.
    """
    if not reference.count:
        raise ValueError(f"{reference.path}: has statistics and no images")
    images = open_set(reference.path)
    return replace(images, source=reference.name, role="real", sha256=reference.sha256, labels_checked=False)


def open_set(path: Path, piece: int | None = None, as_drawn: bool = False) -> Images:
    """A set by its path: a folder of `mar sample`, a folder of image files, or an .npz with arr_0.

    Args:
        path: where it is.
        piece: number of images in each piece, of a set that is in no pieces itself.
        as_drawn: of an .npz that `mar export-adm` shuffled, take the images in the order in which they were drawn,
            unless it was compressed since.

    Raises:
        ValueError: it is none of these.
    """
    if (path / layout.MANIFEST).exists():
        return of_chunks(path)
    if path.is_dir():
        return _of_folder(path, piece or PIECE)
    if path.is_file():
        return _of_npz(path, piece or PIECE, as_drawn)
    raise ValueError(f"{path}: missing; accepted: a folder of `mar sample`, a folder of images, an .npz with arr_0")


def size_of(path: Path) -> tuple[int, int, int]:
    """Number of images of a set by its path, and height and width of the first; it is not read as a whole.

    Raises:
        ValueError: as `open_set`.
    """
    if (path / layout.MANIFEST).exists():
        manifest = read(path / layout.MANIFEST, SampleManifest)
        height, width = chunk_of(path, manifest.chunks[0], mapped=True).shape[1:3]
        return manifest.count, height, width
    if path.is_dir():
        files = references.images_in(path)
        height, width, _ = np.asarray(open_image(files[0])).shape
        return len(files), height, width
    if path.is_file():
        count, height, width, _ = _shape(path, npz.headers(path))
        return count, height, width
    raise ValueError(f"{path}: missing; accepted: a folder of `mar sample`, a folder of images, an .npz with arr_0")


def _of_folder(folder: Path, piece: int) -> Images:
    """Image files in the order of their names. If each lies in a subfolder, the subfolders are the classes."""
    files = references.images_in(folder)
    parents = [path.parent.relative_to(folder).as_posix() for path in files]
    classes = None if "." in parents else sorted(set(parents))
    labels = np.array([classes.index(parent) for parent in parents], dtype=np.int64) if classes else None
    names = [one_line(name) for name in classes] if classes else None

    def read_piece(start: int) -> np.ndarray:
        rows = []
        for path in files[start : start + piece]:
            rows.append(np.asarray(open_image(path)))
            if rows[-1].shape != rows[0].shape:
                shapes = f"is {rows[-1].shape}, others are {rows[0].shape}"
                raise ValueError(f"{one_line(path)}: {shapes}; accepted: one size")
        return np.stack(rows)

    def stream(first: int, step: int, workers: int) -> Iterator[np.ndarray]:
        return read_ahead(read_piece, range(first * piece, len(files), step * piece), workers)

    digest = references.sha256_of_images(folder, files)
    return Images(str(folder), "folder", "unknown", digest, len(files), labels, names, piece, stream)


def _shape(path: Path, members: dict[str, tuple[tuple[int, ...], np.dtype]]) -> tuple[int, ...]:
    """Shape (N, H, W, 3) of the images `arr_0` of an .npz, whose members have these shapes and types."""
    if "arr_0" not in members:
        raise ValueError(f"{path}: found {', '.join(members)}; accepted: images as arr_0")
    shape, dtype = members["arr_0"]
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise ValueError(f"{path}: arr_0 is {dtype} {shape}; accepted: images, uint8 (N, H, W, 3)")
    return shape


def _of_npz(path: Path, piece: int, as_drawn: bool) -> Images:
    """The images `arr_0` of an .npz in the order of the file, with `arr_1`, if the file has it, as their classes."""
    members = npz.headers(path)
    shape = _shape(path, members)
    labels, checked = None, "arr_1_sha256" in members
    if "arr_1" in members:
        found, dtype = members["arr_1"]
        if found != shape[:1] or dtype.kind not in "iu":
            accepted = f"the classes of {shape[0]} images, whole numbers ({shape[0]},)"
            raise ValueError(f"{path}: arr_1 is {dtype} {found}; accepted: {accepted}")
        labels = npz.read(path, "arr_1").astype(np.int64)
        if checked and sha256_of_labels(labels) != str(npz.read(path, "arr_1_sha256")):
            raise ValueError(f"{path}: arr_1 differs from its checksum: mislabelled; run `mar export-adm` again")
    role = str(npz.read(path, "role")) if "role" in members else "unknown"
    if "mu" in members:
        role = "real"  # a reference of the ADM suite: images beside statistics of all real ones

    shuffled = {"order", "order_seed"} <= set(members)
    places = _places(path, members, shape[0]) if as_drawn and shuffled else None
    pixels = npz.mapped(path, "arr_0") if places is not None else None

    def stream(first: int, step: int, workers: int) -> Iterator[np.ndarray]:  # read in order, so by no workers
        if pixels is None or places is None:
            yield from itertools.islice(npz.stream(path, "arr_0", piece), first, None, step)
            return
        for start in range(first * piece, shape[0], step * piece):
            yield pixels[places[start : start + piece]]

    if pixels is not None and labels is not None:
        labels = labels[places]

    source = parse(f"{path}: source", str(npz.read(path, "source")), ImageSource).name if "source" in members else ""
    shown = f"{path} (exported from {source})" if source else str(path)
    return Images(shown, "npz", role, sha256(path), shape[0], labels, None, piece, stream, checked)


def _places(path: Path, members: dict[str, tuple[tuple[int, ...], np.dtype]], count: int) -> np.ndarray:
    """The place in an .npz of `mar export-adm` at which the first, second, ... image of its source stands, (N,)."""
    shape, dtype = members["order"]
    order = npz.read(path, "order") if shape == (count,) and dtype.kind in "iu" else np.empty(0)
    if not np.array_equal(np.sort(order), np.arange(count)):
        raise ValueError(f"{path}: order is {dtype} {shape}; accepted: the numbers 0 to {count - 1}, each once")
    return np.argsort(order)


def sha256_of_labels(labels: np.ndarray) -> str:
    """Checksum of the classes (N,) of images, in their order."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def at_least(images: Images, count: int) -> None:
    """Refuse a set with fewer than `count` images."""
    if images.count < count:
        raise ValueError(f"{images.source}: holds {images.count} images; accepted: at least the {count} asked for")
