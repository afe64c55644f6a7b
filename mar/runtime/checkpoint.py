"""Checkpoints of a training run: atomic, checksummed, the last two kept, the newest intact one resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mar.runtime.distributed import ALONE, World
from mar.runtime.files import atomic, read_json, sha256, write_json

KEPT = 2
INDEX = "index.json"  # names the checkpoints of a folder


def save(folder: Path, images: int, state: dict[str, Any]) -> None:
    """Write the state after `images` images, then the index that names it; older ones beyond the last two go.

    A crash at any point leaves an index whose files are all complete.
    """
    index = _index(folder)
    name = f"{images:010d}.pt"
    with atomic(folder / name) as temporary:
        torch.save(state, temporary)
    entries = [e for e in index if e["images"] < images] + [
        {"file": name, "images": images, "sha256": sha256(folder / name)}
    ]
    write_json(folder / INDEX, entries[-KEPT:])
    for entry in entries[:-KEPT]:
        (folder / entry["file"]).unlink(missing_ok=True)


def load_latest(folder: Path, world: World = ALONE) -> dict[str, Any] | None:
    """State of the newest intact checkpoint; None if none was ever written.

    Its tensors are mapped from the file, not read: copy them, and only what is copied takes memory. The first process
    looks which one is intact, for all.

    Raises:
        ValueError: there are checkpoints, but none is intact.
    """
    path: Path | None = world.first(lambda: _newest(folder))
    if path is None:
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state


def _newest(folder: Path) -> Path | None:
    """The newest intact checkpoint; a corrupt one is named and passed over for the one before."""
    entries = _index(folder)
    for entry in reversed(entries):
        path = folder / entry["file"]
        if path.exists() and sha256(path) == entry["sha256"]:
            return path
        print(
            f"{path}: corrupt or missing (checksum differs from index.json); going back to the one before", flush=True
        )
    if entries:
        raise ValueError(
            f"{folder}: none of its {len(entries)} checkpoints is intact; move the folder away to start anew"
        )
    return None


def _index(folder: Path) -> list[dict[str, Any]]:
    file = folder / INDEX
    entries: list[dict[str, Any]] = read_json(file) if file.exists() else []
    return entries
