"""Folders of results that a stopped stage resumes: locks, and the recipe.json that says what is in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from pydantic import ConfigDict, RootModel

from mar.runtime.files import HOST, a_file, atomic, link, read, write
from mar.runtime.text import printable

_HELD: list[IO[str]] = []  # files that this process holds until it ends
RECIPE = "recipe.json"  # holds what the content of a folder depends on


class Recipe(RootModel[dict[str, str | int]]):
    """recipe.json: what the content of a folder depends on, stage keys and checksums of inputs, each by its name."""

    model_config = ConfigDict(frozen=True, strict=True)


@contextlib.contextmanager
def lock(folder: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a folder, which one process has at a time. The kernel frees it when the process ends or dies.

    When Snakemake is killed, the command that it started goes on. The same command, started again, waits here until
    the first one is done and then finds the result.

    Raises:
        BlockingIOError: `wait` is false and another process holds the lock.
        ValueError: `.lock` is a link, which might lead out of the folder, or another thing that is no file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    if path.is_symlink():
        raise ValueError(f"{path}: found a link; accepted: a file, which is made where it is missing; delete it")
    with open(a_file(path), "ab", opener=_no_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            print(f"{folder}: another process works here; waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, or say that someone works there.

    Raises:
        ValueError: another process holds it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(folder, wait=False))
        except BlockingIOError:
            raise ValueError(f"{folder}: another process works here; accepted: when it has ended") from None
        yield


def hold(file: str | Path, what: str) -> None:
    """Hold a file as its only process until this process ends, however that is; the file says who holds it.

    Raises:
        ValueError: another process holds it, or it is a link; the message says who works there with `what`.
    """
    path = a_file(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    held = open(path, "a+", encoding="utf-8", errors="replace", opener=_no_link)  # noqa: SIM115
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        held.seek(0)
        who = printable(held.read(200)).strip() or "another process"
        raise ValueError(
            f"{path.parent}: {what} works here already: {who}; accepted: one at a time, so wait for it, or end it"
        ) from None
    held.truncate(0)
    held.write(f"process {os.getpid()} of user {os.getuid()} on {HOST}, since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
    held.flush()
    _HELD.append(held)  # closed by the kernel


def _no_link(path: str, flags: int) -> int:
    """Open a file, but no link, whatever was put there since it was looked at."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def recipe_of(folder: str | Path) -> dict[str, str | int]:
    """What the content of a folder depends on, from its recipe.json.

    Raises:
        ValueError: recipe.json is missing, since no stage has claimed the folder, or damaged.
    """
    return read(Path(folder) / RECIPE, Recipe).root


def claim(folder: str | Path, recipe: Mapping[str, str | int], last: str = "", twin: Path | None = None) -> None:
    """Claim a folder: go on in it if its recipe.json has the same recipe, otherwise move its content aside.

    Call it under `lock`.

    Args:
        folder: the folder of one result.
        recipe: what the result depends on: stage keys and checksums of inputs.
        last: name of the file that the stage writes last, when all others are complete.
        twin: the corresponding folder of the study to reuse; its files are taken over if it is finished and has the
            same recipe.
    """
    folder = Path(folder)
    file = folder / RECIPE
    if file.exists() and recipe_of(folder) != recipe:
        print(f"{folder}: was made by another recipe; moved to {move_aside(folder)}", flush=True)
    if twin and not (folder / last).exists() and (twin / last).exists() and recipe_of(twin) == recipe:
        _take_over(folder, twin, last)
    if not file.exists():
        write(file, Recipe(dict(recipe)))


def move_aside(folder: Path) -> Path:
    """Move the content of a folder to a new one beside it, and return that one. Call it under `lock`."""
    aside = folder.with_name(f"{folder.name}.old-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    aside.mkdir()
    # recipe.json is moved last: after a kill in between, the next claim finds the old recipe and moves the rest.
    for entry in sorted(folder.iterdir(), key=lambda entry: entry == folder / RECIPE):
        if entry.name != ".lock":
            os.replace(entry, aside / entry.name)
    return aside


def begun(
    folder: Path,
    recipe: Mapping[str, str | int],
    free: Collection[str],
    files: Iterable[Path],
    twin: Path | None = None,
) -> Mapping[str, str | int]:
    """The recipe by which a folder goes on: its own, if it has files and another recipe in the keys `free` alone.

    Those keys change a result by no more than rounding, so that no work is thrown away for them; but a folder never
    holds files of two values. The same of the corresponding folder of the study to reuse, if this one is new.

    Args:
        folder: the folder of one result.
        recipe: what the study says now.
        free: keys that may differ; where one is missing, the result was made without it.
        files: what shows that the folder is begun, if any is there.
        twin: the corresponding folder of the study to reuse.
    """

    def rest(values: Mapping[str, str | int]) -> dict[str, str | int]:
        return {key: value for key, value in values.items() if key not in free}

    started = any(path.exists() for path in files)
    place = folder if started or (folder / RECIPE).exists() else twin
    if place is None or not (place / RECIPE).exists() or (place == folder and not started):
        return recipe
    found = recipe_of(place)
    if found == recipe or rest(found) != rest(recipe):
        return recipe
    was, now = (
        {key: values.get(key, "all") for key in free if key in {**found, **recipe}} for values in (found, recipe)
    )
    print(f"{place}: begun with {_said(was)}, and goes on so; the study now says {_said(now)}", flush=True)
    return found


def _said(values: Mapping[str, str | int]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items())


def still_ours(folder: str | Path, recipe: Mapping[str, str | int]) -> None:
    """Refuse to go on in a folder that another process has claimed for another recipe meanwhile.

    Raises:
        ValueError: recipe.json has another recipe.
    """
    if recipe_of(folder) != recipe:
        raise ValueError(f"{folder}: another recipe took this folder over; run the command again")


def _take_over(folder: Path, twin: Path, last: str) -> None:
    """Take over the files of a finished folder: .npy files as hard links where the file system can, others as copies.

    Outputs that the workflow declares are copied: Snakemake sets the modification time of its outputs, which would
    change the file of the other study too if it were a link.
    """
    names = [entry.name for entry in twin.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    for name in sorted(names, key=lambda name: name == last):
        with atomic(folder / name) as temporary:
            take = link if name.endswith(".npy") else shutil.copyfile  # an .npy is never changed once it is written
            take(twin / name, temporary)
    print(f"{folder}: taken over from {twin}", flush=True)
