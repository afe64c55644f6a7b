"""The jobs of a study: what `mar jobs` lists and `mar cancel` ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mar.cluster import slurm
from mar.cluster.processes import alive, stop
from mar.runtime.files import read_json, write_json
from mar.runtime.folders import lock


def records(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and record of every job of a study, in the order of their submission."""
    files = [(path.parent, read_json(path)) for path in (root / "jobs").rglob("job.json")]
    yield from sorted(files, key=lambda item: item[1]["submitted"])


def state(folder: Path, record: dict[str, Any], queue: dict[str, slurm.State] | None) -> str:
    """What a job is doing: queued, running, done, failed, stopped or lost; an array says how many of each."""
    if record["state"] not in ("running", "submitting"):
        return {"finished": "done", "left": "queued"}.get(record["state"], record["state"])
    if record["cluster"] != "slurm":
        return "running" if alive({**record, "folder": folder}) else "lost"
    if queue is None:
        return "unknown"
    counts: Counter[str] = Counter()
    where = ""
    for job in record["jobs"] or [None]:
        value = slurm.result(folder, job) if job else None
        found = queue.get(job) if job else None
        if value == 0:
            counts["done"] += 1
        elif value is not None and value != slurm.LEFT:
            counts["failed"] += 1
        elif found is None or found.state in slurm.OVER:
            counts["lost"] += 1
        else:
            counts["queued" if found.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD") else "running"] += 1
            where = found.where
    if len(record["jobs"]) > 1:
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return next(iter(counts)) + (f" ({where})" if where else "")


def table(root: Path) -> list[tuple[str, str, str, str]]:
    """Of every job of a study: state, id, time of submission and folder."""
    found = list(records(root))
    unseen = any(r["cluster"] == "slurm" and r["state"] in ("running", "submitting") for _, r in found)
    queue = slurm.queue() if unseen else {}
    return [
        (state(folder, record, queue), str(record["job"] or "-"), record["submitted"][:19], str(folder))
        for folder, record in found
    ]


def cancel(root: Path) -> list[str]:
    """End the jobs of a study that wait or run; returns their ids. The same workflow goes on from their checkpoints."""
    ended: list[str] = []
    remote: list[str] = []
    for folder, record in records(root):
        if record["state"] not in ("running", "submitting"):
            continue
        if record["cluster"] == "slurm":
            jobs = record["jobs"] or slurm.find(record["token"], 0.0) or []
            remote += jobs
            ended += jobs
        elif alive({**record, "folder": folder}):
            stop({**record, "folder": folder})
            ended.append(record["job"])
        with lock(folder):
            if read_json(folder / "job.json") == record:
                write_json(folder / "job.json", {**record, "state": "stopped"})
    if remote:
        slurm.cancel(remote)
    return ended
