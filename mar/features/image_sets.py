"""Sets of images to judge: samples of a study, a split of its data, a folder, an .npz. Read piece by piece.

Whoever reads a set learns at once what keeps it from being judged: fewer images than it says, another size or type,
labels that are not those asked for, images that no generator means to draw.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mar.data.image_files import decode, printable
from mar.data.read_ahead import read_ahead
from mar.features import references
from mar.runtime import npz
from mar.runtime.files import load_array, parse, read, sha256
from mar.study import layout
from mar.study.records import DataManifest, ImageSource, Piece, RunRecord, SampleManifest
from mar.study.study import Study

if TYPE_CHECKING:
    import torch

PIECE = 250  # images


@dataclass(frozen=True)
class Images:
    """A set of images, which stay on disk.

    Attributes:
        source: where they are, for messages.
        kind: samples, split, folder or npz.
        role: generated, real, or unknown.
        sha256: what makes this set this set: of its manifest, or of the names and contents of its files.
        count: images.
        labels: class of each image (asked for, if generated), int64 (N,), or None where nobody knows.
        names: of the classes, where the set has names.
        piece: images in a piece, but for the last.
        stream: of the pieces from a number on each so many-th one, uint8 (B, H, W, 3), by so many worker processes.
        asked: a checksum says that the labels are those which the generator was asked for.
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
    asked: bool = False

    @property
    def identity(self) -> ImageSource:
        """How records name the set."""
        return ImageSource(kind=self.kind, name=self.source, sha256=self.sha256)

    @property
    def sizes(self) -> list[int]:
        """Images in each piece."""
        return [min(self.piece, self.count - start) for start in range(0, self.count, self.piece)]

    def pieces(self, first: int = 0, step: int = 1, workers: int = 0) -> Iterator[np.ndarray]:
        """Pieces number first, first + step, first + 2 step, ..., uint8 (B, H, W, 3), checked.

        Workers read and decode ahead of who takes the pieces.

        Raises:
            ValueError: a piece is missing, damaged, of another type or size, or an image that should be generated is of
                one value only, as those of a failed run are.
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
    """The sample set of a variant, seed and setting, of the present checkpoint and whole.

    Raises:
        ValueError: it is not whole, not of the present checkpoint or tokenizer, of a model that was never trained, or
            its labels are not those that were asked for.
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
    weights = layout.tokenizer_weights(root, study.variants[variant].tokenizer)
    if weights.exists() and manifest.tokenizer != sha256(weights):
        raise ValueError(f"{path}: decoded by another tokenizer than {weights}; run `mar train` and `mar sample` again")
    return of_chunks(folder, study.data.image_size, list(read(layout.data_manifest(root), DataManifest).classes))


def of_chunks(folder: Path, side: int | None = None, names: list[str] | None = None) -> Images:
    """The sample set in a folder, whichever study it is of.

    Args:
        folder: of `mar sample`.
        side: of the images in pixels; None takes what is there.
        names: of the classes, if known; image i of a set has class i mod their number.

    Raises:
        ValueError: the manifest is missing, or the labels are not those that were asked for.
    """
    manifest = read(folder / layout.MANIFEST, SampleManifest)
    labels, count, asked_for = labels_of(folder, manifest), manifest.count, manifest.labels_sha256 is not None
    classes = len(names) if names else int(labels.max()) + 1
    asked = np.arange(count) % classes
    if (labels != asked).any():
        wrong = int((labels != asked).argmax())
        raise ValueError(
            f"{folder / 'labels.npy'}: image {wrong} has class {labels[wrong]}, {asked[wrong]} was asked for (image i "
            f"has class i mod {classes}): mislabelled; delete manifest.json beside it and run `mar sample` again"
        )

    def chunk(piece: Piece) -> np.ndarray:
        return chunk_of(folder, piece, side)

    def stream(first: int, step: int, workers: int) -> Iterator[np.ndarray]:
        return read_ahead(chunk, manifest.chunks[first::step], workers)

    digest = sha256(folder / layout.MANIFEST)
    piece = manifest.chunks[0].count
    return Images(str(folder), "samples", "generated", digest, count, labels, names, piece, stream, asked_for)


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
        folder: of the sample set.
        piece: the manifest's entry of it.
        side: of the images in pixels; None takes what is there.
        mapped: read no more than what is looked at, so that the checksum is not compared.

    Raises:
        ValueError: it is missing or damaged, or of another shape.
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
    """Real images of the study's data.

    Raises:
        ValueError: `prepare` has not run.
    """
    from mar.data.images import open_split

    images = open_split(study, root, split)

    def stream(first: int, step: int, workers: int) -> Iterator[np.ndarray]:
        pieces = [range(len(images))[start : start + PIECE] for start in range(0, len(images), PIECE)]
        return read_ahead(images.arrays, pieces[first::step], workers if study.data.kind == "imagefolder" else 0)

    digest = sha256(layout.data_manifest(root))
    return Images(f"{split} split", "split", "real", digest, len(images), images.labels, images.classes, PIECE, stream)


def of_reference(reference: references.Reference) -> Images:
    """The images of a reference.

    Raises:
        ValueError: it has none.
    """
    if not reference.count:
        raise ValueError(f"{reference.path}: has statistics and no images")
    found = open_set(reference.path)
    return Images(reference.name, found.kind, "real", reference.sha256, *_rest(found))


def _rest(images: Images) -> tuple[Any, ...]:
    return images.count, images.labels, images.names, images.piece, images.stream


def open_set(path: Path) -> Images:
    """A set by its path: a folder of `mar sample`, a folder of image files, or an .npz with arr_0.

    Raises:
        ValueError: it is none of these.
    """
    if (path / layout.MANIFEST).exists():
        return of_chunks(path)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        return _of_npz(path)
    raise ValueError(f"{path}: missing; accepted: a folder of `mar sample`, a folder of images, an .npz with arr_0")


def _of_folder(folder: Path) -> Images:
    """Image files in the order of their names; their folders, if all are in one, are their classes."""
    files = references.images_in(folder)
    parents = [path.parent.relative_to(folder).as_posix() for path in files]
    classes = None if "." in parents else sorted(set(parents))
    labels = np.array([classes.index(parent) for parent in parents], dtype=np.int64) if classes else None
    names = [printable(name) for name in classes] if classes else None

    def read_piece(start: int) -> np.ndarray:
        rows = []
        for path in files[start : start + PIECE]:
            try:
                rows.append(np.asarray(decode(path)))
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(printable(f"{path}: cannot be read as an image ({error})")) from None
            if rows[-1].shape != rows[0].shape:
                shapes = f"is {rows[-1].shape}, others are {rows[0].shape}"
                raise ValueError(f"{printable(path)}: {shapes}; accepted: one size")
        return np.stack(rows)

    def stream(first: int, step: int, workers: int) -> Iterator[np.ndarray]:
        return read_ahead(read_piece, range(first * PIECE, len(files), step * PIECE), workers)

    digest = references.sha256_of_images(folder, files)
    return Images(str(folder), "folder", "unknown", digest, len(files), labels, names, PIECE, stream)


def _of_npz(path: Path) -> Images:
    """Images arr_0 of an .npz, in its order; arr_1, if it is there, are their classes."""
    there = npz.headers(path)
    if "arr_0" not in there:
        raise ValueError(f"{path}: found {', '.join(there)}; accepted: images as arr_0")
    shape, dtype = there["arr_0"]
    if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or not shape[0]:
        raise ValueError(f"{path}: arr_0 is {dtype} {shape}; accepted: images, uint8 (N, H, W, 3)")
    labels, asked = None, "arr_1_sha256" in there
    if "arr_1" in there:
        labels = npz.read(path, "arr_1").astype(np.int64)
        if labels.shape != (shape[0],):
            raise ValueError(f"{path}: arr_1 is {labels.shape}; accepted: the classes of {shape[0]} images")
        if asked and sha256_of_labels(labels) != str(npz.read(path, "arr_1_sha256")):
            raise ValueError(f"{path}: arr_1 differs from its checksum: mislabelled; run `mar export-adm` again")
    role = str(npz.read(path, "role")) if "role" in there else "unknown"
    if "mu" in there:
        role = "real"  # a reference of the ADM suite: images beside statistics of all real ones

    def stream(first: int, step: int, workers: int) -> Iterator[np.ndarray]:  # one after the other, by no worker
        yield from itertools.islice(npz.stream(path, "arr_0", PIECE), first, None, step)

    source = parse(f"{path}: source", str(npz.read(path, "source")), ImageSource).name if "source" in there else ""
    shown = f"{path} (exported from {source})" if source else str(path)
    return Images(shown, "npz", role, sha256(path), shape[0], labels, None, PIECE, stream, asked)


def sha256_of_labels(labels: np.ndarray) -> str:
    """Checksum of classes in the order of a file."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()


def at_least(images: Images, count: int) -> None:
    """Refuse a set with fewer images than asked for."""
    if images.count < count:
        raise ValueError(f"{images.source}: holds {images.count} images; accepted: at least the {count} asked for")
