"""Token shards, read back through memory maps."""

from __future__ import annotations

import math
import mmap
import resource
from pathlib import Path

import numpy as np
import torch

from mar.data.latents import patchify, sample_posterior
from mar.runtime.files import load_array, read, sha256
from mar.runtime.noise import Noise
from mar.study import layout
from mar.study.records import DataManifest, TokenManifest, Tokens

QUANTIZER = "quantizer.safetensors"  # beside the shards of a multi-scale tokenizer


class TokenSet:
    """The encoded images of one split, read through mmap.

    Attributes:
        manifest: record that `mar encode` wrote (kind, count, classes, grid, scale, shards).
        labels: class of each image, int64 (N,).
        sha256: checksum of the manifest file, by which records of later stages name these tokens.
        folder: folder of the shards, and of the quantiser of a multi-scale tokenizer.
    """

    def __init__(
        self,
        manifest: TokenManifest,
        digest: str,
        labels: np.ndarray,
        shards: list[np.memmap],
        folder: Path,
    ) -> None:
        self.manifest, self.folder = manifest, folder
        self.sha256 = digest
        self.labels = torch.from_numpy(labels)
        self._files: list[tuple[mmap.mmap, int]] = [(shard.base, shard.offset) for shard in shards]  # type: ignore[misc]
        self._shards = [shard.view(np.ndarray).reshape(-1, shard[0, 0].size) for shard in shards]  # (count * views, n)
        self._starts = np.cumsum([0] + [len(shard) for shard in shards])
        self._blocks = -1  # blocks that this process had read from a disk at the last batch; -1 before the first

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> TokenSet:
        """Open a folder that `mar encode` finished.

        Args:
            folder: tokens/<tokenizer>/<split>.
            verify: compare every shard with its checksum, which reads all of them once.

        Raises:
            ValueError: a file is missing, truncated or differs from the manifest; the message names it.
        """
        folder = Path(folder)
        file = folder / layout.MANIFEST
        manifest = read(file, TokenManifest)
        again = f"delete {folder} and run `mar encode` again"
        labels = _load(folder / layout.LABELS, (manifest.count,), "int64", manifest.labels_sha256 * verify, again)
        if len(labels) and not 0 <= labels.min() <= labels.max() < manifest.classes:
            found = f"{labels.min()} to {labels.max()}"
            raise ValueError(
                f"{folder / layout.LABELS}: found labels {found}; accepted: 0 to {manifest.classes - 1}, as {file} has "
                f"{manifest.classes} classes; {again}"
            )
        shape, dtype = shard_shape(manifest), shard_dtype(manifest)
        shards = [_load(folder / s.file, (s.count, *shape), dtype, s.sha256 * verify, again) for s in manifest.shards]
        check_quantizer(folder, manifest)
        return cls(manifest, sha256(file), np.array(labels), shards, folder)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Tokens of images (B,) in views (B,): int64 ids (B, L), or moments (B, 2C, h, w), or latents (B, C, h, w).

        While shards still come from a disk, all pages of the batch are requested before the first is read, so that the
        disk works on several at a time. Once they are in memory, requests are left out: they would take as long as
        copying.

        Args:
            indices: (B,) images.
            views: (B,) which view of each: 0 is the image, 1 its mirror image.
        """
        rows, shape = indices.numpy(), shard_shape(self.manifest)
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        places = ((rows - self._starts[shard_of]) * shape[0] + views.numpy()).tolist()
        values = np.empty((len(rows), math.prod(shape[1:])), dtype=shard_dtype(self.manifest))
        positions = list(zip(shard_of.tolist(), places, strict=True))
        blocks_before, self._blocks = self._blocks, resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        if self._blocks != blocks_before:
            self._request_pages(positions, values[0].nbytes)
        for i, (shard, place) in enumerate(positions):
            values[i] = self._shards[shard][place]
        tokens = torch.from_numpy(values).view(-1, *shape[1:])
        return tokens.long() if self.manifest.kind == "ids" else tokens

    def _request_pages(self, positions: list[tuple[int, int]], size: int) -> None:
        """Ask the kernel to read the items at these (shard, row) of `size` bytes each, without waiting for them."""
        for shard, place in positions:
            mapped, offset = self._files[shard]
            start = offset + place * size
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def check_split(tokens: TokenSet, root: Path, split: str) -> None:
    """Refuse tokens of other images than those of a split, such as the held-out ones in the place of the others.

    Imported tokens may have no images beside them, and then nothing is compared.

    Raises:
        ValueError: the numbers of images of each class differ from those of the data that they were made of.
    """
    file = layout.data_manifest(root)
    if not file.exists() or sha256(file) != tokens.manifest.data:
        return
    wanted = read(file, DataManifest).splits[split].per_class
    if (found := tuple(torch.bincount(tokens.labels, minlength=len(wanted)).tolist())) != wanted:
        raise ValueError(
            f"{tokens.folder}: holds {sum(found)} images, {found[:10]} of the first classes; accepted: the {split} "
            f"split of {file}, {sum(wanted)}, {wanted[:10]}; delete {tokens.folder} and run `mar encode` again"
        )


def as_tokens(stored: torch.Tensor, manifest: TokenManifest, noise: Noise) -> torch.Tensor:
    """What a model takes, of a batch as it is stored: ids (B, L), or scaled latents (B, L, D).

    Args:
        stored: as `TokenSet.batch` gives it, on the device of `noise`.
        manifest: what it is.
        noise: stream of the posterior, from which latents are drawn if its moments are stored.
    """
    if manifest.kind == "ids":
        return stored
    if manifest.kind == "moments":
        b, c, h, w = stored.shape
        stored = sample_posterior(stored, noise.normal(b, c // 2, h, w))
    return patchify(stored * manifest.scale, manifest.group)


def check_quantizer(folder: Path, manifest: TokenManifest) -> None:
    """Refuse ids of a multi-scale tokenizer whose quantiser is not beside them.

    Raises:
        ValueError: it is missing, or not the one that the manifest names.
    """
    file = folder / QUANTIZER
    if manifest.scales and not (file.exists() and sha256(file) == manifest.quantizer_sha256):
        raise ValueError(
            f"{file}: missing or differs from its checksum in the manifest; delete {folder} and run `mar encode` again"
        )


def shard_shape(tokens: Tokens) -> tuple[int, ...]:
    """Shape of one image in a shard: ids (views, L), moments (views, 2C, h, w) or latents (views, C, h, w)."""
    if tokens.kind == "ids":
        return (tokens.views, tokens.tokens)
    side, channels = tokens.grid * tokens.group, tokens.token_dim // tokens.group**2
    return (tokens.views, 2 * channels if tokens.kind == "moments" else channels, side, side)


def shard_dtype(tokens: Tokens) -> str:
    """NumPy type of the numbers in a shard."""
    return "int32" if tokens.kind == "ids" else "float32"


def _load(path: Path, shape: tuple[int, ...], dtype: str, digest: str, again: str) -> np.memmap:
    array = load_array(path, again, mapped=True)
    assert isinstance(array, np.memmap)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path}: holds {array.dtype} {array.shape}, the manifest says {dtype} {shape}; {again}")
    if digest and sha256(path) != digest:
        raise ValueError(f"{path}: differs from its checksum in the manifest; {again}")
    return array
