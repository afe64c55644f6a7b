"""How long a study takes on this machine, stage by stage, and how much of it is done; no torch.

A job takes the time of its start, and its operations / what this machine computes in a second, which is tried on the
study's own networks (`mar/planning/probe.py`). The stages that have finished jobs, in this study or else in others of
the same results folder, are corrected by what those took. All is kept in times.json.
"""

from __future__ import annotations

import os
import socket
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mar.cluster.gpus import visible
from mar.cluster.records import read_job
from mar.planning import gpus
from mar.planning.plan import Images, Job, budget_of
from mar.runtime.files import read, write
from mar.study import layout, stage_keys
from mar.study.products import figure_names, table_names
from mar.study.records import PlanRecord, Rates, TimesRecord
from mar.study.study import Study
from mar.weights import shipped

# CPU seconds of a job beside its operations, in imports of torch: what it imports, reads and writes.
START = {
    **{"prepare": 0.8, "classifier": 1.6, "tokenizer": 2.0, "encode": 2.2, "train": 1.8, "sweep": 2.2, "sample": 2.1},
    **{"features": 1.0, "statistics": 0.3, "reference": 0.4, "rfid": 2.2, "evaluate": 0.4, "learning": 2.2},
    **{"tasks": 2.7, "rejecter": 1.6},
    **{"speed": 2.2, "table": 0.8, "figure": 1.0, "claims": 0.8, "report": 1.5, "track": 2.0},
}
# The same of a job that is forked, and so imports neither torch nor diffusers (`mar/cluster/fork_server.py`).
FORKED = {
    **{"classifier": 0.3, "tokenizer": 0.3, "encode": 0.2, "train": 0.5, "sweep": 0.4, "sample": 0.4, "features": 0.2},
    **{"reference": 0.2, "rfid": 0.3, "evaluate": 0.2, "learning": 0.4, "tasks": 0.5, "rejecter": 0.3, "speed": 0.4},
}
STATISTICS = 7e9  # operations a second of distances and covariances, and of what resamples them, by numpy
BOUNDS = 0.2, 5.0  # of a correction
LAUNCHER = 0.4  # CPU seconds of `mar launch`, which are not on a job's record
REUSED = ("tokenizer", "encode", "train")  # stages that take over what a study to `reuse` has
GPU_HOURS = 24.0  # A100 hours above which a study is for GPUs
DRAWN = ("table", "figure", "claims", "report", "track")  # stages without operations


@dataclass(frozen=True)
class Step:
    """One job of the workflow: seconds of one core, and whether its result is there."""

    stage: str
    name: str
    seconds: float
    done: bool

    @property
    def key(self) -> str:
        """Its path below jobs/ and logs/."""
        return key(self.stage, self.name)


def key(stage: str, name: str) -> str:
    """Stage and name of a job in one: its path below jobs/ and logs/."""
    return f"{stage}/{name}" if name else stage


def cores() -> int:
    """Cores that this process may use, as Snakemake counts them."""
    return len(os.sched_getaffinity(0))


def steps(study: Study, root: Path, found: list[Job], images: Images, counts: PlanRecord) -> list[Step]:
    """The jobs with the seconds that they take here; tries the networks where that has not been done on this machine.

    What they are expected to take is written to times.json, where a running workflow finds it.
    """
    rates = _rates(study, root, images, counts)
    drawn = {"table": table_names(study)}
    if not study.data.unread:  # such a study has tables alone
        drawn |= {"figure": figure_names(study), "claims": [""], "report": [""], "track": [""]}
    named = [(job, job.stage, job.name) for job in found]
    named += [(Job(stage, name, 0), stage, name) for stage, names in drawn.items() for name in names]
    starts = START if visible() else START | FORKED  # where there is a GPU no job is forked
    seconds = {key(stage, name): _seconds(study, root, job, rates, starts) for job, stage, name in named}
    write(
        layout.times(root),
        TimesRecord(key=counts.key, host=socket.gethostname(), rates=rates, seconds=seconds),
    )
    factors = corrections(root)
    return [
        Step(stage, name, factors.get(stage, 1.0) * seconds[key(stage, name)], OUTPUTS[stage](root, name).exists())
        for _, stage, name in named
    ]


def _rates(study: Study, root: Path, images: Images, counts: PlanRecord) -> Rates:
    path = layout.times(root)
    if path.exists():
        kept = read(path, TimesRecord)
        if (kept.key, kept.host) == (counts.key, socket.gethostname()):
            return kept.rates
    from mar.planning import probe

    return probe.rates(study, images.classes, counts)


def _seconds(study: Study, root: Path, job: Job, rates: Rates, starts: dict[str, float]) -> float:
    """Seconds of one core that a job takes, without corrections. Nothing else runs beside a timing."""
    launched = job.stage not in (*DRAWN, "prepare", "statistics")
    start = starts[job.stage] * rates.start + LAUNCHER * launched
    if _taken_over(study, root, job):
        return start
    first = job.name.partition("/")[0]
    if job.stage in ("classifier", "rejecter", "features"):
        rate = rates.judges[first or study.metrics.extractors[0]]
    elif job.stage in ("tokenizer", "encode", "rfid"):
        rate = rates.tokenizers[study.instances[first].section]
    elif job.stage in ("train", "learning"):
        rate = rates.training[first]
    elif job.stage in ("sweep", "sample", "tasks", "speed"):
        rate = rates.sampling[first]
    else:
        rate = STATISTICS
    return (start + job.flops / rate) * (cores() if job.stage == "speed" else 1)


def _taken_over(study: Study, root: Path, job: Job) -> bool:
    """Whether the result of a job ships, or is there in the study to `reuse`."""
    if study.shipped and job.stage == "classifier":
        return shipped.ships(stage_keys.classifier_key(study))
    if study.shipped and job.stage == "tokenizer" and shipped.ships(stage_keys.tokenizer_key(study, job.name)):
        return True
    twin = layout.twin(study, root, OUTPUTS[job.stage](root, job.name)) if job.stage in REUSED else None
    return twin is not None and twin.exists()


def corrections(root: Path) -> dict[str, float]:
    """What finished jobs of a stage took, in what was expected: of this study, of others where it has none.

    The median, as a job that found its work done, or went on in the middle of it, took less.
    """
    factors: dict[str, float] = {}
    for times in (layout.times(root), *sorted(root.parent.glob(f"*/{layout.times(root).name}"))):
        ratios = defaultdict(list)
        for name, took, expected in _finished(times):
            ratios[name.partition("/")[0]].append(took / expected)
        for stage, values in ratios.items():
            factors.setdefault(stage, min(max(statistics.median(values), BOUNDS[0]), BOUNDS[1]))
    return factors


def _finished(times: Path) -> list[tuple[str, float, float]]:
    """Key, CPU seconds and expected seconds of each finished job of a study, if it was planned on this machine."""
    if not times.exists() or (kept := read(times, TimesRecord)).host != socket.gethostname():
        return []
    jobs = [(name, read_job(layout.job(times.parent, name)), seconds) for name, seconds in kept.seconds.items()]
    return [
        (name, job.cpu_seconds + LAUNCHER, seconds)
        for name, job, seconds in jobs
        if job and job.state == "finished" and job.cpu_seconds and not name.startswith("speed/")
    ]


def _of_run(place: Callable[[Path, str, int], Path]) -> Callable[[Path, str], Path]:
    """The same by the name of a run."""

    def of(root: Path, run: str) -> Path:
        variant, _, seed = run.rpartition("/seed")
        return place(root, variant, int(seed))

    return of


def _of_two(place: Callable[[Path, str, str], Path]) -> Callable[[Path, str], Path]:
    """The same by a name of two parts."""
    return lambda root, name: place(root, *name.split("/", 1))


# The file that shows that a job is done, by the folder of the study and the job's name.
OUTPUTS: dict[str, Callable[[Path, str], Path]] = {
    "prepare": lambda root, _: layout.data_manifest(root),
    "classifier": lambda root, _: layout.classifier(root) / layout.CLASSIFIER,
    "rejecter": lambda root, _: layout.rejecter(root) / layout.CLASSIFIER,
    "tokenizer": lambda root, name: layout.tokenizer(root, name) / layout.TOKENIZER,
    "encode": layout.token_manifest,
    "train": _of_run(layout.run_record),
    "sweep": _of_two(layout.sweep),
    "sample": layout.sample_manifest,
    "features": _of_two(layout.features_manifest),
    "statistics": _of_two(layout.statistics),
    "reference": lambda root, _: layout.reference_metrics(root),
    "rfid": layout.rfid,
    "evaluate": layout.metrics,
    "learning": _of_run(layout.learning),
    "tasks": _of_run(layout.tasks),
    "speed": layout.speed,
    "table": lambda root, name: layout.table(root, name, "csv"),
    "figure": lambda root, name: layout.figure(root, name, "csv"),
    "claims": lambda root, _: layout.claims(root),
    "report": lambda root, _: layout.report(root),
    "track": lambda root, _: layout.tracked(root),
}


def text(
    study: Study, jobs: list[Job], images: Images, found: list[Step], counts: PlanRecord, utilisation: float
) -> str:
    """What a study takes: the sentence that says it, its stages, and what the numbers rest on.

    A study for GPUs has A100 hours in place of minutes.
    """
    hours, memory = defaultdict[str, float](float), defaultdict[str, float](float)
    for job in jobs:
        hours[job.stage] += job.hours(utilisation)
        memory[job.stage] = max(memory[job.stage], job.gpu_gib)
    on_gpus = sum(hours.values()) > GPU_HOURS
    of_stage: dict[str, list[Step]] = defaultdict(list)
    for step in found:
        of_stage["figures and report" if step.stage in DRAWN else step.stage].append(step)
    rows = [("stage", "jobs", "done", *(("A100 hours", "GPU GiB") if on_gpus else ("minutes", "remaining")))]
    for stage, of in (*of_stage.items(), ("total", found)):
        left = [step for step in of if not step.done]
        needed = sum(hours.values()) if stage == "total" else hours[stage]
        most = max(memory.values(), default=0.0) if stage == "total" else memory[stage]
        minutes = _number(_minutes(of)), _number(_minutes(left))
        last = (_number(needed), _number(most)) if on_gpus else minutes
        rows.append((stage, str(len(of)), str(len(of) - len(left)), *last))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    out = [_costs(study, sum(hours.values()), len(found)) if on_gpus else sentence(study, found), ""]
    out += [lines[0], rule, *lines[1:-1], rule, lines[-1], ""]
    if not on_gpus:
        out.append(
            "minutes: by a short trial of the study's networks on this machine, corrected by the jobs that are done"
        )
    if on_gpus and counts.memory:
        out.append(gpus.text(study, counts.memory))
    out.append(f"disk: {sum(job.disk for job in jobs) / 1e9:,.1f} GB")
    if not images.known:
        out.append("images: `mar prepare` has not counted them yet; tokens and their encoding are left out")
    if study.budget:
        out.append(f"budget: {budget_of(study)}")
    out.append("each job, with operations, A100 hours and disk: the same command with --jobs")
    return "\n".join(out)


def _costs(study: Study, hours: float, jobs: int) -> str:
    return f"{study.study}: {jobs:,} jobs, about {hours:,.0f} A100 hours"


def sentence(study: Study, found: list[Step]) -> str:
    """How long a study takes, and what of it is done."""
    jobs, left = len(found), [step for step in found if not step.done]
    said = f"{study.study}: {jobs} jobs, about {span(wall(found))} on {_cores()} of this machine"
    if not left:
        return f"{said}; all are done"
    return f"{said}; {jobs - len(left)} are done, about {span(wall(left))} remain" if len(left) < jobs else said


def wall(found: list[Step]) -> float:
    """Seconds of jobs on all cores, at least those of the longest."""
    return max(sum(step.seconds for step in found) / cores(), max((step.seconds for step in found), default=0.0))


def span(seconds: float) -> str:
    """A time in the unit that one says it in, without more digits than an estimate has."""
    for unit, size, until in (("s", 1, 100), ("min", 60, 120 * 60), ("h", 3600, 72 * 3600)):
        if seconds < until:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "h" and value < 10 else f"{max(value, 1):.0f} {unit}"
    return f"{seconds / 86400:,.0f} days"


def _cores() -> str:
    return f"{cores()} {'core' if cores() == 1 else 'cores'}"


def _minutes(found: list[Step]) -> float:
    return sum(step.seconds for step in found) / cores() / 60


def _number(value: float) -> str:
    return "" if value == 0 else f"{value:,.1f}" if value >= 0.05 else "<0.1"
