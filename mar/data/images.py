"""The images of a study, as `mar prepare` listed them, read as square RGB arrays."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mar.data import sources
from mar.data.heldout import rows_of
from mar.data.image_files import decode, from_json
from mar.runtime import npz
from mar.runtime.files import read, sha256
from mar.runtime.folders import recipe_of
from mar.runtime.text import one_line
from mar.study import layout
from mar.study.real_sets import PARTS
from mar.study.records import ArraysRecord, DataManifest, Entry, FileLists
from mar.study.stage_keys import data_key
from mar.study.study import Study

if TYPE_CHECKING:  # `prepare` and the figures read images without waiting for torch
    import torch

SPLITS = ("train", "heldout")  # as `prepare` lists them; the parts of the held-out one are drawn when it is opened


class ImageSet:
    """One split of the data: labels in memory, images read from disk on demand.

    Args:
        labels: class of each image, (N,).
        classes: names of the classes.
        read: the images of some rows, int64 (B,) -> uint8 (B, H, W, 3).

    Attributes:
        labels: class of each image, int64 (N,).
        classes: names of the classes; a label is an index into them.
    """

    def __init__(
        self, labels: Sequence[int] | np.ndarray, classes: list[str], read: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = classes
        self._read = read

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Images at `indices`, uint8 (B, 3, H, W)."""
        import torch

        return torch.from_numpy(self.arrays(indices)).permute(0, 3, 1, 2).contiguous()

    def arrays(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
        """Images at `indices`, uint8 (B, H, W, 3)."""
        return self._read(np.asarray(indices, dtype=np.int64))


def open_split(study: Study, root: str | Path, split: str) -> ImageSet:
    """The images of a split, "train" or "heldout", as `prepare` recorded them, or of a part of the held-out ones.

    Raises:
        ValueError: `prepare` has not run for this data section, its manifest is of other images, or a part has no image
            of some class. When an image is read: it can be read no longer.
    """
    if split in PARTS:
        whole = open_split(study, root, "heldout")
        rows = rows_of(whole.labels, split)
        return ImageSet(whole.labels[rows], whole.classes, lambda some: whole.arrays(rows[some]))
    if split not in SPLITS:
        raise ValueError(f"split {split!r}; accepted: {', '.join((*SPLITS, *PARTS))}")
    folder, size = layout.data(Path(root)), study.data.image_size
    manifest = read(file := folder / layout.MANIFEST, DataManifest)
    if recipe_of(folder) != {"data": data_key(study)}:
        raise ValueError(f"{folder}: was made for another data section of the study; run `mar prepare` again")
    for key in ("kind", "image_size"):
        if (found := getattr(manifest, key)) != (accepted := getattr(study.data, key)):
            raise ValueError(
                f"{file}: {key}: found {found!r}; accepted: {accepted}; delete it and run `mar prepare` again"
            )
    classes = list(manifest.classes)

    def listed(labels: Sequence[int] | np.ndarray, read: Callable[[np.ndarray], np.ndarray]) -> ImageSet:
        """The images, if they are those that the manifest counts."""
        array, split_of = np.asarray(labels, np.int64), manifest.splits[split]
        found = np.bincount(array[array >= 0], minlength=len(classes)).tolist()
        if found != list(split_of.per_class) or split_of.count != len(array) or len(found) > len(classes):
            counted = f"{split_of.count}, {list(split_of.per_class)[:10]} of the first of {len(classes)} classes"
            raise ValueError(
                f"{file}: splits.{split}: found {counted}; accepted: {len(array)}, {found[:10]}, as {folder} holds; "
                "delete it and run `mar prepare` again"
            )
        return ImageSet(labels, classes, read)

    if study.data.unread:
        return ImageSet([], classes, lambda rows: np.empty(0))
    if not study.data.decoded:
        images, labels = _arrays(folder / study.data.archive, split)
        if images.ndim == 3:  # grey
            return listed(labels, lambda rows: np.stack([images[rows]] * 3, axis=-1))
        return listed(labels, lambda rows: images[rows])

    lists = read(folder / layout.FILES, FileLists)
    files: tuple[Entry, ...] = lists.train if split == "train" else lists.heldout
    base = Path(str(study.data.folder))

    def read_image(i: int) -> np.ndarray:
        try:
            content = sources.read(base, folder, lists, split, i)
            return np.asarray(center_crop(decode(io.BytesIO(content)), size))
        except Exception as error:
            why = one_line(f"{base / from_json(files[i][0])}: cannot be read any more ({error})")
            raise ValueError(f"{why}; run `mar prepare` again") from error

    return listed([label for _, label, _ in files], lambda rows: np.stack([read_image(i) for i in rows.tolist()]))


def _arrays(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split in the file that `prepare` wrote; older versions recorded no checksum of it."""
    record = path.with_name(layout.ARRAYS)
    if record.exists() and path.exists() and sha256(path) != read(record, ArraysRecord).sha256:
        raise ValueError(
            f"{path}: differs from its checksum in {record.name}; accepted: the file that `mar prepare` wrote; delete "
            f"{layout.MANIFEST} beside it and run `mar prepare` again"
        )
    return npz.read(path, f"{split}_images"), npz.read(path, f"{split}_labels")


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Centre crop to size x size pixels, as in ADM (Dhariwal and Nichol 2021) and MAR.

    The image is halved with BOX while its short side has at least 2 size pixels, then resized with BICUBIC until the
    short side has `size`, then cropped.
    """
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Images of any shape, uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images of any shape, float to uint8: clipped to [-1, 1], scaled, and rounded to the nearest."""
    return ((images.float().clamp(-1.0, 1.0) + 1.0) * 127.5).round().byte()


def shuffled(count: int, batch: int, total: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield batches of indices (B,) from one permutation of `count` images after another, `total` indices in all."""
    import torch

    remaining, order = total, torch.empty(0, dtype=torch.int64)
    while remaining:
        indices, order = draw_indices(order, min(batch, remaining), count, generator)
        yield indices
        remaining -= len(indices)


def draw_indices(
    order: torch.Tensor, need: int, count: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next `need` indices, and those that remain of the present permutation: `order` of the next call.

    Args:
        order: (n,) indices that remain of the present permutation of `count` images; when they do not suffice, a new
            permutation is drawn.
        need: how many indices to return.
        count: number of images.
        generator: draws the permutations.
    """
    import torch

    while len(order) < need:
        order = torch.cat([order, torch.randperm(count, generator=generator)])
    return order[:need], order[need:]


def sha256_of_data(root: Path) -> str:
    """Checksum of the data manifest, which names every image of the study."""
    manifest = layout.data_manifest(root)
    read(manifest, DataManifest)
    return sha256(manifest)
