"""Token shards: reading them back, and the plain functions between latents and tokens."""

from __future__ import annotations

import math
import mmap
import resource
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from mar.files import read_json, sha256
from mar.multiscale import MultiScaleQuantizer

QUANTIZER = "quantizer.safetensors"  # beside the shards of a multi-scale tokenizer


class TokenSet:
    """The encoded images of one split, read through mmap.

    Attributes:
        manifest: what `mar encode` wrote down (kind, count, classes, grid, scale, shards).
        labels: class of each image, int64 (N,).
        sha256: of the manifest file; the name of these tokens in later files.
        quantizer: of a multi-scale tokenizer, which a model needs to make one scale's input of those before; else None.
    """

    def __init__(
        self,
        manifest: dict[str, Any],
        digest: str,
        labels: np.ndarray,
        shards: list[np.memmap],
        quantizer: MultiScaleQuantizer | None = None,
    ) -> None:
        self.manifest, self.quantizer = manifest, quantizer
        self.sha256 = digest
        self.labels = torch.from_numpy(labels)
        self._files: list[tuple[mmap.mmap, int]] = [(shard.base, shard.offset) for shard in shards]  # type: ignore[misc]
        self._shards = [shard.view(np.ndarray).reshape(-1, shard[0, 0].size) for shard in shards]  # (count * views, n)
        self._starts = np.cumsum([0] + [len(shard) for shard in shards])
        self._blocks = -1  # read from a disk by this process when the last batch was asked for

    @classmethod
    def open(cls, folder: str | Path, verify: bool = True) -> TokenSet:
        """Open a folder that `mar encode` finished.

        Args:
            verify: compare every shard with its checksum too (reads all of them once).

        Raises:
            ValueError: a file is missing, truncated or differs from the manifest; the message names it.
        """
        folder = Path(folder)
        file = folder / "manifest.json"
        manifest = read_json(file)
        again = f"delete {folder} and run `mar encode` again"
        labels = _load(folder / "labels.npy", (manifest["count"],), "int64", manifest["labels_sha256"] * verify, again)
        shards = [
            _load(
                folder / s["file"],
                (s["count"], *shard_shape(manifest)),
                shard_dtype(manifest),
                s["sha256"] * verify,
                again,
            )
            for s in manifest["shards"]
        ]
        count = sum(len(shard) for shard in shards)
        if count != manifest["count"]:
            raise ValueError(f"{file}: the shards hold {count} images, count says {manifest['count']}; {again}")
        return cls(manifest, sha256(file), np.array(labels), shards, load_quantizer(folder, manifest))

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor, views: torch.Tensor) -> torch.Tensor:
        """Tokens of images (B,) in views (B,): int64 ids (B, L), or moments (B, 2C, h, w), or latents (B, C, h, w).

        As long as a disk is read, all pages are asked for before the first is waited for: it then works at several of
        them at a time. Pages that are in memory need no asking, which would take as long as copying them.
        """
        rows, shape = indices.numpy(), shard_shape(self.manifest)
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        places = ((rows - self._starts[shard_of]) * shape[0] + views.numpy()).tolist()
        found = np.empty((len(rows), math.prod(shape[1:])), dtype=shard_dtype(self.manifest))
        wanted = list(zip(shard_of.tolist(), places, strict=True))
        before, self._blocks = self._blocks, resource.getrusage(resource.RUSAGE_SELF).ru_inblock
        if self._blocks != before:
            self._ask_for(wanted, found[0].nbytes)
        for i, (shard, place) in enumerate(wanted):
            found[i] = self._shards[shard][place]
        tokens = torch.from_numpy(found).view(-1, *shape[1:])
        return tokens.long() if self.manifest["kind"] == "ids" else tokens

    def _ask_for(self, wanted: list[tuple[int, int]], size: int) -> None:
        """Let the system read these (shard, place in it) of `size` bytes each, without waiting."""
        for shard, place in wanted:
            mapped, offset = self._files[shard]
            start = offset + place * size
            page = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, page, start + size - page)


def load_quantizer(folder: Path, manifest: dict[str, Any]) -> MultiScaleQuantizer | None:
    """The quantiser that `mar encode` put beside the ids of a multi-scale tokenizer; None with other tokens.

    Raises:
        ValueError: it is missing, or not the one that the manifest names.
    """
    if "scales" not in manifest:
        return None
    file = folder / QUANTIZER
    if not file.exists() or sha256(file) != manifest["quantizer_sha256"]:
        raise ValueError(
            f"{file}: missing or differs from its checksum in the manifest; delete {folder} and run `mar encode` again"
        )
    quantizer = MultiScaleQuantizer(manifest["codebook_size"], manifest["code_width"], tuple(manifest["scales"]))
    quantizer.load_state_dict(load_file(file))
    return quantizer.eval().requires_grad_(False)


def shard_shape(manifest: dict[str, Any]) -> tuple[int, ...]:
    """Shape of one image in a shard: (views, L) of ids, (views, 2C, h, w) of moments or (views, C, h, w) of latents."""
    if manifest["kind"] == "ids":
        return (manifest["views"], manifest["tokens"])
    side, channels = manifest["grid"] * manifest["group"], manifest["token_dim"] // manifest["group"] ** 2
    return (manifest["views"], 2 * channels if manifest["kind"] == "moments" else channels, side, side)


def shard_dtype(manifest: dict[str, Any]) -> str:
    """Number type of a shard."""
    return "int32" if manifest["kind"] == "ids" else "float32"


def _load(path: Path, shape: tuple[int, ...], dtype: str, digest: str, again: str) -> np.memmap:
    if not path.exists():
        raise ValueError(f"{path}: missing; {again}")
    try:
        array: np.memmap = np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: truncated or no .npy file ({error}); {again}") from None
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path}: holds {array.dtype} {array.shape}, the manifest says {dtype} {shape}; {again}")
    if digest and sha256(path) != digest:
        raise ValueError(f"{path}: differs from its checksum in the manifest; {again}")
    return array


def patchify(latents: torch.Tensor, group: int) -> torch.Tensor:
    """Latents (B, C, h, w) to tokens (B, L, C*g*g), raster order, channel slowest within a token, as published."""
    batch, channels, height, width = latents.shape
    split = latents.reshape(batch, channels, height // group, group, width // group, group)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * group**2)


def unpatchify(tokens: torch.Tensor, group: int, channels: int) -> torch.Tensor:
    """Tokens (B, L, C*g*g) back to latents (B, C, h, w); the grid is square."""
    batch, count, _ = tokens.shape
    side = round(count**0.5)
    split = tokens.reshape(batch, side, side, channels, group, group)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, side * group, side * group)


def sample_posterior(moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw from the posterior: mean + std * noise; moments (B, 2C, h, w) stack mean and log variance."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise
