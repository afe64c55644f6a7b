"""Where the time of the demo goes, of a run that is there: `make demo`, then `python -m benchmarks demo`.

Wall seconds are Snakemake's, from the start of a job to its end, summed over jobs, of which as many run at a time as
there are cores; CPU seconds those of the jobs' own processes, where a job has a record.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from benchmarks.tables import Cell, Parts, Table
from mar.cluster.records import JOB, read_job
from mar.study import layout

STUDIES = ("demo", "demo-digits")
RESULTS, METADATA = Path("results"), Path(".snakemake/metadata")
PARTS = {
    "tokenizers and judge": ("classifier", "rejecter", "tokenizer"),
    "training": ("train",),
    "loss on held-out images along training": ("learning",),
    "sweeps": ("sweep",),
    "sampling": ("sample", "tasks"),
    "images to tokens": ("prepare", "encode"),
    "features and metrics": ("features", "statistics", "reference", "rfid", "evaluate"),
    "timing of sampling": ("speed",),
    "tables, figures, report, MLflow": ("table", "figure", "alias", "claims", "report", "track"),
}


class Ran(NamedTuple):
    """A job that Snakemake ran: its stage, and when it began and ended, in seconds since 1970."""

    stage: str
    begin: float
    end: float


def report() -> Parts:
    """Seconds by part of the study.

    Raises:
        ValueError: there is no finished demo in this folder.
    """
    ran = {name: jobs for name in STUDIES if (jobs := found(METADATA, RESULTS / name))}
    if not ran:
        names = " or ".join(STUDIES)
        raise ValueError(f"{METADATA}: found no job of {names}; accepted: a folder in which `make demo` has run")
    name = max(ran, key=lambda one: max(job.end for job in ran[one]))
    jobs, cpu = ran[name], cpu_seconds(RESULTS / name)
    elapsed = max(job.end for job in jobs) - min(job.begin for job in jobs)
    busy = sum(job.end - job.begin for job in jobs)
    rows: list[list[Cell]] = []
    for part, stages in PARTS.items():
        of_part = [job for job in jobs if job.stage in stages]
        wall = sum(job.end - job.begin for job in of_part)
        rows.append([part, len(of_part), sum(cpu[stage] for stage in stages), wall, wall / busy])
    rows.append(["all jobs", len(jobs), sum(cpu.values()), busy, 1.0])
    head = ["", "jobs", "CPU s", "wall s of the jobs", "share"]
    said = f"Study {name}: from the start of the first job to the end of the last {elapsed / 60:.1f} min."
    return [said, Table(head=head, form=["", ".0f", ".0f", ".0f", ".0%"], rows=rows)]


def found(metadata: Path, root: Path) -> list[Ran]:
    """The jobs of a study: what Snakemake keeps of each output names the job's log, logs/STAGE.log or logs/STAGE/..."""
    jobs: dict[str, Ran] = {}
    for file in metadata.rglob("*"):
        if file.is_file():
            job = json.loads(file.read_text(encoding="utf-8"))
            for log in job["log"]:
                if root / "logs" in Path(log).parents:
                    stage = Path(log).relative_to(root / "logs").parts[0].removesuffix(".log")
                    jobs[log] = Ran(stage, job["starttime"], job["endtime"])
    return list(jobs.values())


def cpu_seconds(root: Path) -> dict[str, float]:
    """What the jobs on record have computed, by stage."""
    seconds: dict[str, float] = defaultdict(float)
    for file in layout.jobs(root).rglob(JOB):
        job = read_job(file.parent)
        stage = file.relative_to(layout.jobs(root)).parts[0]
        seconds[stage] += (job.cpu_seconds if job else None) or 0.0
    return seconds
