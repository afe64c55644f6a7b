"""The jobs of a study: what `mar jobs` lists and `mar cancel` ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mar.cluster import slurm
from mar.cluster.processes import alive, stop
from mar.cluster.records import JOB, LocalJob, SlurmJob, read_job, read_outcome, write_job
from mar.runtime.folders import lock


def records(root: Path) -> Iterator[tuple[Path, LocalJob | SlurmJob]]:
    """Folder and record of every job of a study, in the order of their submission."""
    folders = [path.parent for path in (root / "jobs").rglob(JOB)]
    jobs = [(folder, job) for folder in folders if (job := read_job(folder))]
    yield from sorted(jobs, key=lambda item: item[1].submitted)


def state(folder: Path, record: LocalJob | SlurmJob, queue: dict[str, slurm.State] | None) -> str:
    """What a job is doing: queued, running, done, failed, stopped or lost; an array says how many of each."""
    if record.state not in ("running", "submitting"):
        return {"finished": "done", "left": "queued"}.get(record.state, record.state)
    if isinstance(record, LocalJob):
        return "running" if alive(record) else "lost"
    if queue is None:
        return "unknown"
    counts: Counter[str] = Counter()
    where = ""
    for job in record.jobs or [None]:
        outcome = read_outcome(folder, job) if job else None
        queued = queue.get(job) if job else None
        if outcome and outcome.status == 0:
            counts["done"] += 1
        elif outcome and outcome.status != slurm.LEFT:
            counts["failed"] += 1
        elif queued is None or queued.state in slurm.OVER:
            counts["lost"] += 1
        else:
            counts["queued" if queued.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD") else "running"] += 1
            where = queued.where
    if len(record.jobs) > 1:
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return next(iter(counts)) + (f" ({where})" if where else "")


def table(root: Path) -> list[tuple[str, str, str, str]]:
    """Of every job of a study: state, id, time of submission and folder."""
    jobs = list(records(root))
    unseen = any(isinstance(job, SlurmJob) and job.state in ("running", "submitting") for _, job in jobs)
    queue = slurm.queue() if unseen else {}
    return [(state(folder, job, queue), job.job or "-", job.submitted[:19], str(folder)) for folder, job in jobs]


def cancel(root: Path) -> list[str]:
    """End the jobs of a study that wait or run; returns their ids. The same workflow goes on from their checkpoints."""
    ended: list[str] = []
    of_slurm: list[str] = []
    for folder, record in records(root):
        if record.state not in ("running", "submitting"):
            continue
        if isinstance(record, SlurmJob):
            jobs = record.jobs or slurm.find(record.token, 0.0) or ()
            of_slurm += jobs
            ended += jobs
        elif alive(record):
            stop(record)
            ended.append(record.job)
        with lock(folder):
            if read_job(folder) == record:
                write_job(folder, record.model_copy(update={"state": "stopped"}))
    if of_slurm:
        slurm.cancel(of_slurm)
    return ended
