"""Stages that can be stopped and resumed: the guard of all of them, and files that several workers make.

Whoever runs a stage locks its folder, claims it for the recipe and looks whether anything is left to do. A stage that
makes many files shares them out: worker i of n makes files i, i + n, i + 2 n, ..., and the one that completes the set
writes the report, which says that the folder is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mar.runtime.files import atomic, remove_abandoned
from mar.runtime.folders import claim, lock, still_ours

Recipe = Mapping[str, str | int]
Share = tuple[int, int]  # (i, n): worker i of n
Whole = Callable[[int], bool]  # whether the file of that number is on disk and uncut
Make = Callable[[list[int]], Iterable[tuple[int, Callable[[Path], None]]]]  # of numbers: each with what writes its file


def unfinished(
    report: Path,
    sound: Callable[[], bool],
    recipe: Recipe | None = None,
    twin: Path | None = None,
    folder: Path | None = None,
    said: str = "complete",
) -> bool:
    """Whether a stage has anything to do; if not, it is said. Call it under the lock of the folder.

    Args:
        report: the file that the stage writes last.
        sound: whether the report that exists is of these inputs, and all that it stands for is whole.
        recipe: what the folder is claimed for; None where the report alone says what it was made from.
        twin: the same folder of the study whose results may be taken over.
        folder: the folder of the stage, by default that of its report.
        said: of a stage with nothing to do.
    """
    folder = folder or report.parent
    remove_abandoned(folder)
    remove_abandoned(report.parent, f".{report.name}.*.tmp")
    if recipe is not None:
        claim(folder, recipe, report.name, twin)
    if not report.exists() or not sound():
        return True
    print(f"{report}: {said}", flush=True)
    return False


@contextlib.contextmanager
def stage(
    report: Path,
    sound: Callable[[], bool],
    recipe: Recipe | None = None,
    twin: Path | None = None,
    folder: Path | None = None,
) -> Iterator[bool]:
    """Hold the folder of a stage alone, and tell whether anything is left to do; arguments as of `unfinished`."""
    with lock(folder or report.parent):
        yield unfinished(report, sound, recipe, twin, folder)


def fill(folder: Path, recipe: Recipe, files: Sequence[Path], share: Share, whole: Whole, make: Make) -> None:
    """Make the files of a share that are not there yet, in their order, each by an atomic write.

    Args:
        folder: claimed for the recipe.
        recipe: what the files are made from.
        files: of all workers.
        share: (i, n) is files i, i + n, i + 2 n, ...
        whole: tells of a number whether its file is there.
        make: yields each of the numbers that it is given with a function that writes that file; not called of none.

    Raises:
        ValueError: somebody claimed the folder for another recipe meanwhile.
    """
    with lock(folder / f"shard-{share[0]}-of-{share[1]}"):
        missing = [number for number in range(share[0], len(files), share[1]) if not whole(number)]
        for number, write in make(missing) if missing else ():
            with atomic(files[number]) as temporary:
                write(temporary)
                still_ours(folder, recipe)


def finish(report: Path, recipe: Recipe, files: Sequence[Path], whole: Whole, write: Callable[[], None]) -> None:
    """Write the report of a set if all its files are there, whoever made them, and it is not.

    Raises:
        ValueError: somebody claimed the folder for another recipe meanwhile.
    """
    with lock(report.parent):
        still_ours(report.parent, recipe)
        if not report.exists() and all(whole(number) for number in range(len(files))):
            write()
