"""What of a study is done, runs, waits and has failed, since when, and the GPU hours that it has had; no torch."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mar.analysis import code_changes
from mar.cluster import jobs as cluster
from mar.cluster import queue, slurm, spent
from mar.cluster.records import JOB, LocalJob, SlurmJob
from mar.planning import kept_costs, plan
from mar.planning.minutes import DRAWN, OUTPUTS, key, span
from mar.runtime.files import read, write
from mar.study import layout
from mar.study.products import figure_names, table_names
from mar.study.records import GpuHours, GpuHoursRecord
from mar.study.study import Study

STATES = ("done", "runs", "waits", "stopped", "failed")
# What `mar jobs` calls the states of a job.
WORDS = {"running": "runs", "queued": "waits", "failed": "failed", "lost": "failed", "stopped": "stopped"}


@dataclass(frozen=True)
class Step:
    """One job of the workflow: its state, empty where nobody has begun it, since when, and what is said of it."""

    stage: str
    name: str
    state: str = ""
    since: float = 0.0
    said: str = ""


def steps(study: Study, root: Path) -> list[Step]:
    """The jobs of a study in the order of its stages; those that were begun alone, as long as nobody has planned it."""
    images = plan.count_images(study, root)
    counts = kept_costs.find(study, root, images.classes)
    planned = [(job.stage, job.name) for job in plan.jobs(study, images, counts)] if counts else []
    drawn = {"table": table_names(study), "figure": figure_names(study), "claims": [""], "report": [""], "track": [""]}
    planned += [(stage, name) for stage, names in drawn.items() for name in names]
    states = cluster.seen(root)
    folders = {str(folder.relative_to(layout.jobs(root))): folder for folder in cluster.folders(root)}
    known = {key(stage, name) for stage, name in planned}
    begun = [tuple(name.partition("/")[::2]) for name in folders if name not in known and not counts]
    found = [_step(root, stage, name, folders.get(key(stage, name)), states) for stage, name in [*begun, *planned]]
    return sorted(found, key=lambda step: list(OUTPUTS).index(step.stage) if step.stage in OUTPUTS else len(OUTPUTS))


def _step(root: Path, stage: str, name: str, folder: Path | None, states: dict[str, queue.State] | None) -> Step:
    output = OUTPUTS[stage](root, name) if stage in OUTPUTS else None
    there = output is not None and output.exists()
    record = cluster.record_of(folder) if folder else None
    if folder is None or (there and (record is None or record.state not in ("running", "submitting", "left"))):
        return Step(stage, name, "done" if there else "")
    if record is None:
        return Step(stage, name, "failed", (folder / JOB).stat().st_mtime, f"{folder / JOB} is damaged")
    if record.state == "finished":
        return Step(stage, name, "" if output is not None else "done")  # its output was removed since
    said = cluster.state(folder, record, states)
    words = [word for word in WORDS if word in said]
    state = WORDS[words[0]] if words else "waits"
    since = datetime.fromisoformat(record.submitted).timestamp()
    if state in ("stopped", "failed"):
        return Step(stage, name, state, (folder / JOB).stat().st_mtime, f"{said}; {_log(root, stage, name)}")
    if isinstance(record, SlurmJob):
        found = [queue.find(states or {}, job, slurm.script_of(folder)) for job in record.jobs]
        began = [_time(one.since) for one in found if one and not one.waits and not one.over]
        since = min([moment for moment in began if moment] or [since])
    number = f"process {record.pid}" if isinstance(record, LocalJob) else f"job {record.job or 'not yet submitted'}"
    return Step(stage, name, state, since, f"{number}, {said}")


def _log(root: Path, stage: str, name: str) -> str:
    return str(layout.log(root, *key(stage, name).split("/")))


def _time(text: str) -> float | None:
    """Seconds since 1970 of a time that Slurm prints in the zone of this machine; None where it prints none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def hours(study: Study, root: Path) -> GpuHoursRecord:
    """GPU hours of each stage, spent and planned, written to gpu_hours.json.

    What the accounting once told of a stage stays where it later tells less, since clusters forget.
    """
    path = layout.gpu_hours(root)
    images = plan.count_images(study, root)
    counts = kept_costs.find(study, root, images.classes)
    planned: dict[str, float] = defaultdict(float)
    for job in plan.jobs(study, images, counts) if counts else ():
        planned[job.stage] += job.hours(plan.UTILISATION)
    told = spent.gpu_hours(root)
    before = read(path, GpuHoursRecord).stages if path.exists() else {}
    stages = list(dict.fromkeys([*planned, *(told or ()), *before]))
    rows = {}
    for stage in stages:
        old = before[stage].spent if stage in before else None
        new = told.get(stage) if told is not None else None
        had = max(old or 0.0, new) if new is not None else old
        rows[stage] = GpuHours(spent=had, planned=planned[stage] if counts else None)
    record = GpuHoursRecord(accounted=told is not None, stages=rows)
    if any(row.spent is not None for row in rows.values()):
        write(path, record)
    return record


def text(study: Study, root: Path) -> str:
    """The stages with what is done, runs, waits and failed, and their GPU hours; then each job that is none of done."""
    found, costs = steps(study, root), hours(study, root)
    totals = Counter(step.state for step in found)
    said = [
        f"{totals[state]} {word}"
        for state, word in zip(STATES, ("done", "running", "waiting", "stopped", "failed"), strict=True)
    ]
    counted = any(row.planned for row in costs.stages.values())
    jobs = f"{len(found)} jobs" if counted else f"the {len(found)} jobs that are known so far,"
    lines = [f"{study.study}: of {jobs} {', '.join(said)}", ""]
    head = ("stage", "jobs", *STATES, "GPU hours", "planned")
    rows: list[tuple[str, ...]] = [head]
    stages = list(dict.fromkeys("figures and report" if step.stage in DRAWN else step.stage for step in found))
    for stage in stages:
        of = [step for step in found if step.stage == stage or (step.stage in DRAWN and stage == "figures and report")]
        counts = Counter(step.state for step in of)
        row = costs.stages.get(stage, GpuHours())
        numbers = [str(counts[state] or "") for state in STATES]
        rows.append((stage, str(len(of)), *numbers, _number(row.spent), _number(row.planned)))
    everything = costs.stages.values()
    spent_, planned = sum(row.spent or 0 for row in everything), sum(row.planned or 0 for row in everything)
    rows.append(("total", str(len(found)), *(str(totals[s] or "") for s in STATES), _number(spent_), _number(planned)))
    widths = [max(len(line[i]) for line in rows) for i in range(len(head))]
    for line in rows:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    lines.append("")
    if not costs.accounted:
        lines.append("GPU hours: Slurm's accounting (sacct) does not tell them here")
    if not counted:
        lines.append("planned: not counted yet, which `mar plan` does, and the workflow's first jobs")
    else:
        lines.append("planned: A100 hours (`mar plan`)")
    now = time.time()
    for state in STATES[1:]:
        for step in found:
            if step.state == state:
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime(step.since))
                ago = span(max(0.0, now - step.since))
                lines.append(f"{state:<7}  {key(step.stage, step.name)}  since {when} ({ago})  {step.said}")
    lines += [f"code     {line}" for line in code_changes.lines(study, root)]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if not value else f"{value:,.1f}" if value >= 0.05 else "<0.1"
