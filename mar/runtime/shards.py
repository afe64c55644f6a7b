"""Stages that can be stopped and resumed, and files that several workers make together.

A stage locks its folder, claims it for its recipe and checks whether anything is left to do. The files of a large stage
are shared among n workers: worker i makes files i, i + n, i + 2 n, ... The worker that completes the set writes the
report; where a report exists, the folder is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mar.runtime.files import atomic, remove_abandoned
from mar.runtime.folders import claim, lock, still_ours

Recipe = Mapping[str, str | int]  # what the content of a folder depends on: stage keys and checksums by name
Share = tuple[int, int]  # (i, n): worker i of n
Whole = Callable[[int], bool]  # whether the file of this number is on disk and complete
# Takes the numbers of files, yields each number with the function that writes that file to a path.
Make = Callable[[list[int]], Iterable[tuple[int, Callable[[Path], None]]]]


def unfinished(
    report: Path,
    sound: Callable[[], bool],
    recipe: Recipe | None = None,
    twin: Path | None = None,
    folder: Path | None = None,
    said: str = "complete",
) -> bool:
    """Whether a stage has anything to do; if not, this is printed. Call it under the lock of the folder.

    Args:
        report: the file that the stage writes last.
        sound: tells whether the existing report is of the present inputs and all files behind it are complete.
        recipe: what the folder is claimed for; None where the report itself holds what it depends on.
        twin: the corresponding folder of the study to reuse.
        folder: the folder of the stage, by default that of its report.
        said: the word that is printed when there is nothing to do.
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
    """Hold the lock of the folder of a stage; yield whether anything is left to do. Arguments as in `unfinished`."""
    with lock(folder or report.parent):
        yield unfinished(report, sound, recipe, twin, folder)


def fill(folder: Path, recipe: Recipe, files: Sequence[Path], share: Share, whole: Whole, make: Make) -> None:
    """Make the missing files of one worker in ascending order, each by an atomic write.

    Args:
        folder: the folder, claimed for the recipe.
        recipe: what the files depend on.
        files: paths of the files of all workers, by number.
        share: (i, n): the worker makes files i, i + n, i + 2 n, ...
        whole: tells whether the file of a number is complete.
        make: yields each of the given numbers with the function that writes its file; not called without numbers.

    Raises:
        ValueError: another process claimed the folder for another recipe meanwhile.
    """
    with lock(folder / f"shard-{share[0]}-of-{share[1]}"):
        missing = [number for number in range(share[0], len(files), share[1]) if not whole(number)]
        for number, write in make(missing) if missing else ():
            with atomic(files[number]) as temporary:
                write(temporary)
                still_ours(folder, recipe)


def finish(report: Path, recipe: Recipe, files: Sequence[Path], whole: Whole, write: Callable[[], None]) -> None:
    """Write the report of a set if it is missing and the files of all workers are complete.

    Raises:
        ValueError: another process claimed the folder for another recipe meanwhile.
    """
    with lock(report.parent):
        still_ours(report.parent, recipe)
        if not report.exists() and all(whole(number) for number in range(len(files))):
            write()
