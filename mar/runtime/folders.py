"""Folders that survive a crash: locks, and the guard of folders that can be resumed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ConfigDict, RootModel

from mar.runtime.files import atomic, read, write

RECIPE = "recipe.json"  # what the content of a folder depends on


class Recipe(RootModel[dict[str, str | int]]):
    """recipe.json: slices of the study and checksums of inputs."""

    model_config = ConfigDict(frozen=True, strict=True)


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


def recipe_of(folder: str | Path) -> dict[str, str | int]:
    """What the content of a folder was made from.

    Raises:
        ValueError: nobody has claimed it, or its recipe.json is damaged.
    """
    return read(Path(folder) / RECIPE, Recipe).root


def claim(folder: str | Path, recipe: Mapping[str, str | int], last: str = "", twin: Path | None = None) -> None:
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
    file = folder / RECIPE
    if file.exists() and recipe_of(folder) != recipe:
        aside = folder.with_name(f"{folder.name}.old-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
        aside.mkdir()
        # recipe.json goes last: killed in between, the next claim still sees the old recipe and moves the rest
        for entry in sorted(folder.iterdir(), key=lambda entry: entry == file):
            if entry.name != ".lock":
                os.replace(entry, aside / entry.name)
        print(f"{folder}: was made by another recipe; moved to {aside}", flush=True)
    if twin and not (folder / last).exists() and (twin / last).exists() and recipe_of(twin) == recipe:
        _take_over(folder, twin, last)
    if not file.exists():
        write(file, Recipe(dict(recipe)))


def still_ours(folder: str | Path, recipe: Mapping[str, str | int]) -> None:
    """Refuse to go on in a folder that somebody claimed for another recipe meanwhile.

    Raises:
        ValueError: it is of another recipe.
    """
    if recipe_of(folder) != recipe:
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
