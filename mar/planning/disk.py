"""`mar disk` and `mar clean`: what of a study takes how much room, and what of it nothing needs any more."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from mar.cluster import jobs
from mar.cluster.records import LocalJob
from mar.runtime.files import TEMPORARY, abandoned, read, sha256
from mar.runtime.folders import lock
from mar.study import layout
from mar.study.records import RunRecord, SweepRecord
from mar.study.study import Study

ASIDE = re.compile(r"\.old-\d{8}-\d{6}-\d+$")  # end of the name of a folder that another recipe's result was moved to
# What the first folder of a path below the results says of a file, in the order in which it is printed.
PLACES = {
    "data": "images as they were prepared",
    "classifier": "classifier",
    "rejecter": "rejecter",
    "tokenizers": "tokenizers",
    "tokens": "tokens",
    "runs": "weights and logs of trainings",
    "sweeps": "sweeps",
    "samples": "samples",
    "tasks": "pictures of zero-shot tasks",
    "features": "features",
    "statistics": "statistics",
    "jobs": "records and output of jobs",
    "logs": "logs",
    "drill": "drill",
}
CHECKPOINTS, MOVED, CODE, LEFT = "checkpoints", "moved aside", "code of jobs", "left by killed processes"
REST, FIGURES = "tables, metrics and the rest", "figures"


@dataclass(frozen=True)
class Use:
    """Room on the disk: number of files, and bytes that they take, links to one file counted once."""

    files: int
    size: int


@dataclass(frozen=True)
class Removable:
    """What nothing needs any more.

    Attributes:
        path: a folder or file.
        why: why nothing needs it.
        guard: the folder whose lock says that someone works there; None where no stage locks it.
        size: bytes that are free without it.
    """

    path: Path
    why: str
    guard: Path | None
    size: int


def uses(root: Path) -> dict[str, Use]:
    """What of a study takes how much room, by kind."""
    found: dict[str, list[int]] = {}
    seen: set[tuple[int, int]] = set()
    for home in (root, layout.figures(root)):
        for path, state in _files(home):
            key = (state.st_dev, state.st_ino)
            size = 0 if key in seen else state.st_blocks * 512
            seen.add(key)
            found.setdefault(_kind(path, root), []).append(size)
    order = [*PLACES.values(), CHECKPOINTS, MOVED, CODE, LEFT, FIGURES, REST]
    return {kind: Use(len(found[kind]), sum(found[kind])) for kind in order if kind in found}


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below a folder, links not followed."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            with suppress(FileNotFoundError):  # somebody works there
                yield path, path.lstat()


def _kind(path: Path, root: Path) -> str:
    if not path.is_relative_to(root):
        return FIGURES
    parts = path.relative_to(root).parts
    if any(ASIDE.search(part) for part in parts[:-1]):
        return MOVED
    if TEMPORARY.match(path.name):
        return LEFT
    if layout.CHECKPOINTS in parts[:-1]:
        return CHECKPOINTS
    if parts[:2] == (layout.jobs(root).name, "code"):
        return CODE
    return PLACES.get(parts[0], REST) if len(parts) > 1 else REST


def text(study: Study, root: Path) -> str:
    """What `mar disk` prints."""
    found = uses(root)
    width = max([*map(len, found), len("in all")])
    lines = [f"{kind:<{width}}  {use.files:>7} files  {size(use.size):>9}" for kind, use in found.items()]
    total = Use(sum(use.files for use in found.values()), sum(use.size for use in found.values()))
    lines.append(f"{'in all':<{width}}  {total.files:>7} files  {size(total.size):>9}")
    free = sum(one.size for one in removable(study, root))
    lines.append(f"`mar clean --study {study.study}` would free {size(free)}")
    return "\n".join(lines)


def size(count: float) -> str:
    """Bytes for readers, as 12.3 MB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            break
        if unit != "GB":
            count /= 1000
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"


def removable(study: Study, root: Path) -> list[Removable]:
    """What nothing needs any more, but for what someone works on.

    Folders that were moved aside, checkpoints of finished trainings, images of finished sweeps, copies of the code of
    jobs that have ended, and what killed processes left.
    """
    found = [*_aside(root), *_checkpoints(study, root), *_sweeps(study, root), *_job_code(root), *_abandoned(root)]
    return [one for one in found if one.guard is None or not _held(one.guard)]


def _taken(path: Path) -> int:
    """Bytes that are free when a file or folder is gone: a file with other names elsewhere frees nothing."""
    files = _files(path) if path.is_dir() else [(path, path.lstat())]
    return sum(state.st_blocks * 512 for _, state in files if state.st_nlink == 1)


def _held(folder: Path) -> bool:
    """Whether a process works in a folder."""
    if not folder.is_dir() or not (folder / ".lock").exists():
        return False
    try:
        with lock(folder, wait=False):
            return False
    except BlockingIOError:
        return True


def _aside(root: Path) -> Iterator[Removable]:
    for place, folders, _ in os.walk(root):
        for name in sorted(folders):
            if ASIDE.search(name):
                folders.remove(name)
                path = Path(place) / name
                guard = path.with_name(ASIDE.sub("", name))  # it may still be moving things there
                yield Removable(path, "was moved aside: nothing reads it", guard, _taken(path))


def _checkpoints(study: Study, root: Path) -> Iterator[Removable]:
    """Checkpoints of trainings that are finished, their weights sound."""
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            folder = layout.run(root, name, seed)
            checkpoints, record, weights = (
                folder / part for part in (layout.CHECKPOINTS, layout.RECORD, layout.AVERAGE)
            )
            if not (checkpoints.is_dir() and record.exists() and weights.exists()):
                continue
            if read(record, RunRecord).checkpoint == sha256(weights):
                why = "its training is finished: only `mar train --from` would read it"
                yield Removable(checkpoints, why, folder, _taken(checkpoints))


def _sweeps(study: Study, root: Path) -> Iterator[Removable]:
    """Features of the images of points that are measured, which a kill may have left."""
    for name, variant in study.variants.items():
        for setting in variant.sampling if variant.seeds else ():
            report = layout.sweep(root, name, setting)
            if not report.exists() or not read(report, SweepRecord).grid:
                continue
            folder = report.with_suffix("")
            for path in sorted(folder.glob("guidance*")):
                if path.is_dir() and path.with_name(f"{path.name}.json").exists():
                    yield Removable(path, "its point is measured", folder, _taken(path))


def _job_code(root: Path) -> Iterator[Removable]:
    """Copies of the package that no job of the study runs any more."""
    home = layout.jobs(root) / "code"
    if not home.is_dir():
        return
    ended = {"done", "failed", "stopped", "lost"}
    states = jobs.seen(root)
    for folder, record in jobs.records(root):
        words = {word.split()[-1] for word in jobs.state(folder, record, states).split(", ")}
        if not isinstance(record, LocalJob) and not words <= ended:
            return  # which copy it runs is known to the queue alone
    for path in sorted(path for path in home.iterdir() if path.is_dir()):
        yield Removable(path, "no job runs it any more", None, _taken(path))


def _abandoned(root: Path) -> Iterator[Removable]:
    for path, state in _files(root):
        aside = any(ASIDE.search(part) for part in path.relative_to(root).parts)
        if abandoned(path) and not aside:
            yield Removable(path, "a process that was killed left it", None, state.st_blocks * 512)


def clean(found: list[Removable]) -> list[str]:
    """Remove what `removable` found; returns what was left after all, as someone works there now."""
    left = []
    for one in found:
        with ExitStack() as stack:
            try:
                if one.guard and one.guard.is_dir():
                    stack.enter_context(lock(one.guard, wait=False))
            except BlockingIOError:
                left.append(f"{one.path}: someone works there now; left")
                continue
            if one.path.is_dir():
                shutil.rmtree(one.path)
            elif abandoned(one.path):
                one.path.unlink()
    return left
