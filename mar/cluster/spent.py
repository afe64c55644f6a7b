"""GPU hours that the jobs of a study have had from Slurm, by its accounting."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from mar.cluster.jobs import folders, record_of
from mar.cluster.queue import ask
from mar.cluster.records import SlurmJob
from mar.cluster.slurm import job_name

FIELDS = "JobID,JobName,ElapsedRaw,AllocTRES"
MANY = 500  # ids of one question


def submissions(root: Path) -> dict[str, Path]:
    """Folder of every job of Slurm that ever started, by its id: each has left what it printed."""
    found: dict[str, Path] = {}
    for folder in folders(root):
        if isinstance(record_of(folder), SlurmJob):
            names = [re.fullmatch(r"(\d+(?:_\d+)?)_\d+_log\.out", path.name) for path in folder.glob("*_log.out")]
            found |= {match[1]: folder for match in names if match}
    return found


def gpu_hours(root: Path) -> dict[str, float] | None:
    """GPU hours of each stage, requeued slots and failed jobs among them.

    A stage whose jobs had no GPU has 0. None where the accounting does not answer or does not count GPUs.
    """
    started = submissions(root)
    hours: dict[str, float] = defaultdict(float)
    counted = not started
    ids = sorted(started)
    for start in range(0, len(ids), MANY):
        few = ids[start : start + MANY]
        # -D: a job that was requeued has a row for each of its slots
        answer = ask(["sacct", "-a", "-X", "-D", "-n", "-P", "-o", FIELDS, "-j", ",".join(few)], timeout=60)
        if answer is None:
            return None
        for job, name, seconds, gpus in _rows(answer):
            folder = started.get(job)
            if folder is None or name not in (job_name(folder), "mar"):
                continue  # a stranger's, since ids were counted anew
            counted |= gpus is not None
            hours[folder.relative_to(root / "jobs").parts[0]] += seconds * (gpus or 0) / 3600
    return dict(hours) if counted else None


def _rows(answer: str) -> Iterator[tuple[str, str, int, int | None]]:
    """Id, name, seconds and GPUs of each job; None where the accounting tells of no GPUs."""
    for line in answer.splitlines():
        job, name, seconds, resources = [*line.strip().split("|"), "", "", ""][:4]
        if not seconds.isdecimal() or not resources:
            continue
        # gres/gpu counts all, gres/gpu:a100 those of a kind
        counts = dict(re.findall(r"gres/gpu(:[^=,]+)?=(\d+)", resources))
        total = counts.get("", sum(int(n) for kind, n in counts.items() if kind)) if counts else None
        yield job, name, int(seconds), None if total is None else int(total)
