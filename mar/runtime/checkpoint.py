"""Checkpoints of a training: written atomically with a checksum; the last two are kept, the newest intact one resumed.

A training goes on while a copy of its state is written (`Writer`). The checksum is taken of the bytes on their way to
the file, which is not read again.

Weights and checkpoints of another model are refused in one message, whatever error torch or safetensors raises.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, BinaryIO

import torch
from pydantic import ConfigDict, NonNegativeInt, RootModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mar.runtime.distributed import ALONE, World
from mar.runtime.files import FileName, Part, Sha256, a_file, atomic, read, sha256, write

KEPT = 2  # checkpoints in a folder
INDEX = "index.json"  # lists the checkpoints of a folder
# Errors of torch for a file that is no checkpoint, that needs unpickling, or whose tensors do not fit the model.
MISFITS = (pickle.UnpicklingError, AttributeError, EOFError, LookupError, RuntimeError, TypeError, ValueError)


class Checkpoint(Part):
    """A checkpoint: its file, the number of images seen before it, and the checksum of the file."""

    file: FileName
    images: NonNegativeInt
    sha256: Sha256


class Index(RootModel[tuple[Checkpoint, ...]]):
    """index.json: the checkpoints of a folder, oldest first."""

    model_config = ConfigDict(frozen=True, strict=True)


def save(folder: Path, images: int, state: dict[str, Any]) -> None:
    """Write the state after `images` images, then the index that lists it; checkpoints before the last two are deleted.

    After a crash at any point, all files that the index lists are complete.
    """
    before = [entry for entry in checkpoints(folder) if entry.images < images]
    name = f"{images:010d}.pt"
    with atomic(folder / name) as temporary, open(temporary, "wb") as file:
        hashed = _Hashed(file)
        torch.save(state, hashed)  # type: ignore[arg-type]  # of a file it needs these methods
    entries = (*before, Checkpoint(file=name, images=images, sha256=hashed.digest.hexdigest()))
    write(folder / INDEX, Index(entries[-KEPT:]))
    for entry in entries[:-KEPT]:
        (folder / entry.file).unlink(missing_ok=True)


class _Hashed:
    """A file that torch writes from its beginning to its end, and the checksum of what it wrote."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


class Writer:
    """Writes the checkpoints of one training beside it, one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future[None] | None = None

    def save(self, images: int, state: dict[str, Any]) -> None:
        """Begin to write the state after `images` images, a copy that nobody changes (`copied`).

        Raises:
            OSError: the checkpoint before this one could not be written.
        """
        self.wait()
        self._under_way = self._thread.submit(save, self.folder, images, state)

    def wait(self) -> None:
        """Wait until the checkpoint that was begun is on disk.

        Raises:
            OSError: it could not be written.
        """
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()


def copied(state: Any, keep: bool = True) -> Any:
    """A copy in main memory of a training state: dicts and lists of tensors and plain values.

    Where a training is split among processes, all of them call it, and one keeps the copy: the others get no tensors.
    """
    if isinstance(state, Tensor):
        tensor = whole(state)
        return tensor.detach().to("cpu", copy=True) if keep else None
    if isinstance(state, dict):
        return {key: copied(value, keep) for key, value in state.items()}
    return [copied(value, keep) for value in state] if isinstance(state, list) else state


def whole(tensor: Tensor) -> Tensor:
    """A tensor; of one that is split among processes all of it, for which all of them have to call this."""
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full


@contextmanager
def latest(folder: Path, world: World = ALONE) -> Iterator[dict[str, Any] | None]:
    """State of the newest intact checkpoint, to be copied inside the context; None if none was ever written.

    Its tensors are mapped from the file, so that only copies of them take memory. The first process of a training
    verifies the checksums for all processes.

    Raises:
        ValueError: there are checkpoints, but none is intact; or the state does not fit what the context copies it
            to.
    """
    name = world.first(lambda: str(newest(folder) or ""))
    if not name:
        yield None
        return
    path = Path(str(name))
    try:
        yield torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except torch.OutOfMemoryError:
        raise
    except MISFITS as error:
        raise ValueError(
            f"{path}: no checkpoint of this training ({shorten(f'{type(error).__name__}: {error}', 200)}); accepted: "
            f"one that this command wrote for this study; move {folder} away and run the same command again"
        ) from None


def checkpoints(folder: Path) -> tuple[Checkpoint, ...]:
    """The checkpoints that the index of a folder lists, oldest first; none where there is no index.

    Raises:
        ValueError: the index is damaged.
    """
    return read(folder / INDEX, Index).root if (folder / INDEX).exists() else ()


def newest(folder: Path) -> Path | None:
    """The newest intact checkpoint; a corrupt one is reported, and the one before it is taken. None without any.

    Raises:
        ValueError: there are checkpoints, but none is intact.
    """
    entries = checkpoints(folder)
    for entry in reversed(entries):
        path = folder / entry.file
        if path.exists() and sha256(path) == entry.sha256:
            return path
        print(
            f"{path}: corrupt or missing (checksum differs from index.json); going back to the one before", flush=True
        )
    if entries:
        raise ValueError(
            f"{folder}: none of its {len(entries)} checkpoints is intact; accepted: one with the checksum in "
            f"{INDEX}; move the folder away to start anew"
        )
    return None


def load_weights(network: nn.Module, file: Path, again: str, assign: bool = False) -> None:
    """Load a safetensors file into a network; its tensors have to be exactly those of the network.

    Args:
        network: the network.
        file: the weights.
        again: how a user gets the file made again, the end of the message.
        assign: put the loaded tensors into the network instead of copying them, as one on the meta device needs it.

    Raises:
        ValueError: the file is missing or no safetensors file, or its tensors are not those of the network, of other
            types, or not finite.
    """
    try:
        tensors = load_file(a_file(file))
    except FileNotFoundError:
        raise ValueError(f"{file}: missing; {again}") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: found {error}; accepted: a safetensors file; {again}") from None
    shapes, accepted = ({k: list(v.shape) for k, v in state.items()} for state in (tensors, network.state_dict()))
    misfits = [name for name in sorted(shapes.keys() | accepted.keys()) if shapes.get(name) != accepted.get(name)]
    if misfits:
        name = misfits[0]
        raise ValueError(
            f"{file}: {len(misfits)} tensors do not fit the model: {name}: found {shapes.get(name, 'none')}; accepted: "
            f"{accepted.get(name, 'none')}; {again}"
        )
    for name, wanted in network.state_dict().items():
        if tensors[name].dtype != wanted.dtype:
            found, accepted_type = tensors[name].dtype, wanted.dtype
            raise ValueError(f"{file}: {name}: found {found}; accepted: {accepted_type}; {again}")
        if not torch.isfinite(tensors[name]).all():
            raise ValueError(f"{file}: {name}: found numbers that are not finite; accepted: finite ones; {again}")
    network.load_state_dict(tensors, assign=assign)
