"""The jobs of a study: what `mar jobs` lists and `mar cancel` ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from mar.cluster import queue, slurm
from mar.cluster.processes import alive, stop
from mar.cluster.records import JOB, LocalJob, SlurmJob, read_job, read_outcome, write_job
from mar.runtime.folders import lock
from mar.runtime.stop_signals import LEFT

SUBMITTING = 300.0  # seconds within which a launcher submits, or tries again
DAMAGED = "damaged"  # job.json is none, or is not ours to read


def folders(root: Path) -> list[Path]:
    """The folder of every job of a study."""
    return sorted(path.parent for path in (root / "jobs").rglob(JOB))


def record_of(folder: Path) -> LocalJob | SlurmJob | None:
    """The record of a folder, None if it is damaged: one such folder hides no other job."""
    try:
        return read_job(folder)
    except (OSError, ValueError):
        return None


def records(root: Path) -> Iterator[tuple[Path, LocalJob | SlurmJob]]:
    """Folder and record of every job of a study, in the order of their submission."""
    jobs = [(folder, job) for folder in folders(root) if (job := record_of(folder))]
    yield from sorted(jobs, key=lambda item: item[1].submitted)


def seen(root: Path) -> dict[str, queue.State] | None:
    """The queue, of all users whose jobs the study has; None: no answer. Not asked where the study has none."""
    jobs = [job for _, job in records(root) if isinstance(job, SlurmJob) and job.state in ("running", "submitting")]
    return queue.queue(*sorted({job.user for job in jobs} - {"", queue.me()})) if jobs else {}


def state(folder: Path, record: LocalJob | SlurmJob, states: dict[str, queue.State] | None) -> str:
    """What a job is doing: queued, running, done, failed, stopped or lost; an array says how many of each."""
    if record.state not in ("running", "submitting"):
        return {"finished": "done", "left": "queued"}.get(record.state, record.state)
    if isinstance(record, LocalJob):
        return "running" if alive(record) else "lost"
    if states is None:
        return "unknown"
    if not record.jobs and time.time() - datetime.fromisoformat(record.submitted).timestamp() < SUBMITTING:
        return "queued (not submitted yet)"
    counts: Counter[str] = Counter()
    where = ""
    for job in record.jobs or [None]:
        outcome = read_outcome(folder, job, of=record) if job else None
        queued = queue.find(states, job, slurm.script_of(folder), record.token) if job else None
        if outcome and outcome.status == 0:
            counts["done"] += 1
        elif outcome and outcome.status != LEFT:
            counts["failed"] += 1
        elif queued is None or queued.over:
            counts["lost"] += 1
        else:
            counts["queued" if queued.waits else "running"] += 1
            where = queued.where
    if len(record.jobs) > 1:
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return next(iter(counts)) + (f" ({where})" if where else "")


def table(root: Path) -> list[tuple[str, str, str, str]]:
    """Of every job of a study: state, id, time of submission and folder."""
    states = seen(root)
    rows = [
        (state(folder, job, states), job.job or "-", job.submitted[:19], str(folder)) for folder, job in records(root)
    ]
    for folder in folders(root):
        if record_of(folder) is None:
            changed = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime((folder / JOB).stat().st_mtime))
            rows.append((DAMAGED, "-", changed, str(folder)))
    return rows


def cancel(root: Path) -> list[str]:
    """End the jobs of a study that wait or run; returns their ids. The same workflow goes on from their checkpoints.

    Jobs of Slurm are found by their records and, where those are damaged, by their scripts, which lie in their folders.
    """
    ended: list[str] = []
    of_slurm: list[str] = []
    states: queue.States | None = None
    for folder in folders(root):
        record = record_of(folder)
        if record and record.state not in ("running", "submitting", "left"):
            continue
        if isinstance(record, LocalJob):
            if alive(record):
                stop(record)
                ended.append(record.job)
            with lock(folder):
                if read_job(folder) == record:
                    write_job(folder, record.model_copy(update={"state": "stopped"}))
            continue
        if record:
            # Not under the lock, which a launcher holds that tries to submit: it looks here whether it still should.
            write_job(folder, record.model_copy(update={"state": "stopped"}))
        states = (queue.queue() or {}) if states is None else states
        script = slurm.script_of(folder)
        if record and record.jobs:
            of_slurm += [job for job in record.jobs if not queue.strange(states, job, script, record.token)]
        else:
            of_slurm += [job for job, said in states.items() if queue.ours(said, script) and not said.over]
    if of_slurm:
        queue.cancel(of_slurm)
    return ended + of_slurm
