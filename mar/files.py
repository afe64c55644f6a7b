"""Files that survive a crash: atomic writes, checksums, folder locks, and the guard of resumable folders."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

UMASK = os.umask(0o022)
os.umask(UMASK)  # there is no other way to read it


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed, on failure removed.

    Raises:
        OSError: the disk is full; torch and numpy raise errors that do not say so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)  # safetensors makes files that a group cannot read
        os.replace(temporary, path)
    except Exception as error:
        if path.parent.exists() and os.statvfs(path.parent).f_bavail == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_if_changed(path: str | Path, text: str) -> None:
    """Write text atomically unless the file says the same already (its time stays)."""
    path = Path(path)
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: the file is missing or is no JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; the stage that writes it has not run") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no valid JSON ({error}); delete it and run the same command again") from None


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether an array is on disk and uncut, its dimensions beginning with `shape`; a bad file is named."""
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        return False
    except (ValueError, OSError, EOFError) as error:
        print(f"{path}: truncated or no .npy file ({error}); making it again", flush=True)
        return False
    return bool(array.shape[: len(shape)] == shape and array.dtype == dtype)


@contextlib.contextmanager
def lock(folder: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold a folder alone. The kernel frees the lock when its process dies, however it dies.

    A killed head of the workflow leaves its stage command running: the same command started again waits here
    until the first is done, then finds the work finished.

    Raises:
        BlockingIOError: `wait` is false and another process holds the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            print(f"{folder}: another process works here; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def claim(folder: str | Path, recipe: dict[str, Any], last: str = "", twin: Path | None = None) -> None:
    """Make a folder ours: same recipe, go on in it; another recipe, move its content aside, never resume it.

    The recipe (slices and hashes of inputs) is kept in recipe.json. Call it under `lock`.

    Args:
        folder: the folder of one result.
        recipe: what the result depends on.
        last: name of the file that its stage writes last, when all others are whole.
        twin: the same folder of the study whose results may be taken over; its files are taken where it is finished
            and of the same recipe.
    """
    folder = Path(folder)
    file = folder / "recipe.json"
    recipe = json.loads(json.dumps(recipe))
    if file.exists() and read_json(file) != recipe:
        aside = folder.with_name(f"{folder.name}.old-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        aside.mkdir()
        # recipe.json goes last: killed in between, the next claim still sees the old recipe and moves the rest
        for entry in sorted(folder.iterdir(), key=lambda entry: entry == file):
            if entry.name != ".lock":
                os.replace(entry, aside / entry.name)
        print(f"{folder}: was made by another recipe; moved to {aside}", flush=True)
    if twin and not (folder / last).exists() and (twin / last).exists() and read_json(twin / file.name) == recipe:
        _take_over(folder, twin, last)
    if not file.exists():
        write_json(file, recipe)


def still_ours(folder: str | Path, recipe: dict[str, Any]) -> None:
    """Refuse to go on in a folder that somebody claimed for another recipe meanwhile.

    Raises:
        ValueError: it is of another recipe.
    """
    if read_json(Path(folder) / "recipe.json") != json.loads(json.dumps(recipe)):
        raise ValueError(f"{folder}: another recipe took this folder over; run the command again")


def _take_over(folder: Path, twin: Path, last: str) -> None:
    """Files of a finished folder as our own: chunks and shards by hard link where the file system can, else copied.

    What the workflow declares as an output is copied: it sets the times of its outputs, a link's on both sides.
    """
    names = [entry.name for entry in twin.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    for name in sorted(names, key=lambda name: name == last):
        with atomic(folder / name) as temporary:
            if name.endswith(".npy"):  # written once and renamed, never changed in place
                try:
                    os.link(twin / name, temporary)
                    continue
                except OSError:
                    pass
            shutil.copyfile(twin / name, temporary)
    print(f"{folder}: taken over from {twin}", flush=True)
