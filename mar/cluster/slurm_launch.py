"""A command of `mar` as a job of Slurm: submitted once, followed to its end, found again after the launcher crashed.

The record, job.json, says `submitting` before sbatch is called and `running` from the job's id on until the launcher
has seen its end. A submission carries a token as its comment: a job whose id was never written is found by it, and a
job that starts when the record names another token does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from mar.cluster import slurm as site
from mar.cluster.job_process import Command, forget, put_back, text, verb
from mar.cluster.processes import alive, print_lines, started, stat_fields
from mar.cluster.records import Outcome, SlurmJob, read_job, read_outcome, write_job
from mar.cluster.slurm import State
from mar.runtime.folders import lock
from mar.runtime.stop_signals import LEFT

GRACE = 20.0  # seconds in which a job whose submission was cut off may still arrive
# How many answers of Slurm in a row must say that a job without an outcome is over: outcomes come late over a network
# file system, and a requeued job seems to be over for a moment.
SEEN_OVER = 3
LOSSES = 3  # how often in one call a job may vanish, or be warned too early, before that is an error
SHARDED = ("encode", "features", "sample", "sweep")  # commands that take --shard I N

Answer = TypeVar("Answer")


def launch_slurm(
    arguments: Sequence[str],
    folder: Path,
    digest: str,
    slurm: site.Slurm,
    outputs: Sequence[str] = (),
    inputs: Sequence[str] = (),
) -> int:
    """Run a command as a job, or as an array of jobs that each do a share of it; returns its exit status.

    Args:
        arguments: the command, as after `mar`.
        folder: the job's folder.
        digest: names command and recipe.
        slurm: settings of the site.
        outputs: files that exist when the command is done.
        inputs: files that the command reads. Results of a job that was submitted before one of them changed are stale.

    Raises:
        ValueError: sbatch refuses, or the command cannot be shared.
    """
    if slurm.shards > 1 and verb(arguments) not in SHARDED:
        raise ValueError(
            f"launch: --slurm-shards {slurm.shards} with {verb(arguments)}; accepted: {', '.join(SHARDED)}"
        )
    all_shards = list(range(slurm.shards or 1))
    callers = _callers()
    shards, losses, submitted_here = _unfinished_shards(folder, digest) or all_shards, 0, False
    while True:
        with lock(folder):
            record, live = _unfinished(folder, digest)
            if record is None:
                record = _submit(arguments, folder, digest, slurm, outputs, shards)
                live = submitted_here = True
                size = f", an array of {len(record.jobs)}" if len(record.jobs) > 1 else ""
                print(f"launch: job {record.job} submitted{size}", flush=True)
            elif not submitted_here:
                print(f"launch: job {record.job} of this command was submitted before; following it", flush=True)
        ends = follow(folder, record)
        undone = {job: end for job, end in ends.items() if isinstance(end, State) or end.status != 0}
        left = [shard for job, shard in zip(record.jobs, record.shards, strict=True) if job in undone]
        if not left and any(started(pid) != since for pid, since in callers.items()):
            # The workflow does not learn of this end. When it runs again, it deletes the outputs as incomplete, and the
            # launcher that it then starts puts them back.
            print(f"launch: job {record.job} is done, but the workflow that asked for it is gone", flush=True)
            return 0
        if not left:
            complete = put_back(folder, outputs) if _newer(record, inputs) else all(Path(o).exists() for o in outputs)
            _close(folder, record, "finished")
            forget(folder)
            if complete or (submitted_here and shards == all_shards):
                return 0
            print(f"launch: job {record.job} is done, but not all outputs are there; submitting again", flush=True)
            shards, submitted_here = all_shards, False
            continue
        shards = left
        failed = {job: end for job, end in undone.items() if isinstance(end, Outcome) or end.state not in site.AGAIN}
        _close(folder, record, "failed" if failed else "left", left)
        losses += any(isinstance(end, State) and end.state in (site.VANISHED, site.EARLY) for end in ends.values())
        if (failed and (submitted_here or live)) or losses > LOSSES:
            return _report(folder, record, failed or undone)
        for job, end in undone.items():
            print(f"launch: job {job} ended before: {_describe(end)}; submitting again", flush=True)


def _callers() -> dict[int, int | None]:
    """The processes of Snakemake that started this one, by process id, with the start time of each."""
    callers, pid = {}, os.getppid()
    while pid > 1 and (fields := stat_fields(pid)):
        with contextlib.suppress(OSError):
            if b"snakemake" in Path(f"/proc/{pid}/cmdline").read_bytes():
                callers[pid] = started(pid)
        pid = int(fields[1])
    return callers


def _unfinished_shards(folder: Path, digest: str) -> list[int]:
    """The shards that an earlier call of this command did not bring to their end."""
    record = read_job(folder)
    return list(record.left) if isinstance(record, SlurmJob) and record.hash == digest else []


def _unfinished(folder: Path, digest: str) -> tuple[SlurmJob | None, bool]:
    """The submission whose end no launcher saw, if it is of this command and recipe, and whether one of its jobs lives.

    Called under the lock.

    Raises:
        ValueError: a job of another launcher runs here.
    """
    record = read_job(folder)
    if record is None or record.state not in ("submitting", "running"):
        return None, False
    if not isinstance(record, SlurmJob):
        if alive(record):
            raise ValueError(
                f"{folder}: a {record.cluster} job of this command runs (process {record.pid} on "
                f"{record.host}); end it, or wait for its end"
            )
        return None, False
    if record.state == "submitting":
        record = _recover(folder, record)
        if record is None:
            return None, False
    if record.hash != digest:
        print(f"launch: job {record.job} works on another recipe; ending it", flush=True)
        site.cancel(record.jobs)
        write_job(folder, record.model_copy(update={"state": "stopped"}))
        return None, False
    states = _answer(site.queue)
    return record, any(job in states and states[job].state not in site.OVER for job in record.jobs)


def _recover(folder: Path, record: SlurmJob) -> SlurmJob | None:
    """A record whose launcher was killed while it submitted, with the ids that Slurm knows; None if no job arrived."""
    since = datetime.fromisoformat(record.submitted).timestamp()
    while True:
        jobs = _answer(lambda: site.find(record.token, since))
        if jobs or time.time() > since + GRACE:
            break
        print(f"launch: a submission was cut off; looking for its job for {GRACE:.0f} s", flush=True)
        time.sleep(2.0)
    if not jobs:
        print(f"launch: no job of the submission at {record.submitted} arrived", flush=True)
        return None
    jobs = sorted(jobs, key=lambda job: [int(part) for part in job.split("_")])
    print(f"launch: found job {jobs[0]} by its comment {record.token}", flush=True)
    return _arrived(folder, record, jobs)


def _arrived(folder: Path, record: SlurmJob, jobs: Sequence[str]) -> SlurmJob:
    """Put the ids that Slurm gave to a submission on its record."""
    ids = {"job": jobs[0].split("_")[0], "jobs": tuple(jobs), "output": site.log(folder, jobs[0]).name}
    record = record.model_copy(update={**ids, "state": "running"})
    write_job(folder, record)
    return record


def _submit(
    arguments: Sequence[str],
    folder: Path,
    digest: str,
    slurm: site.Slurm,
    outputs: Sequence[str],
    shards: Sequence[int],
) -> SlurmJob:
    """Put a submission on record, then submit, then put its ids on record. Called under the lock."""
    token = f"mar-{digest}-{uuid.uuid4().hex[:8]}"
    record = SlurmJob(
        state="submitting",
        cluster="slurm",
        command=text(arguments),
        hash=digest,
        host=socket.gethostname(),
        pid=os.getpid(),
        submitted=datetime.now().astimezone().isoformat(timespec="milliseconds"),
        output=None,
        job=None,
        token=token,
        jobs=(),
        shards=tuple(shards),
    )
    write_job(folder, record)
    files = tuple(str(Path(output).absolute()) for output in outputs)
    options = [["--shard", str(i), str(slurm.shards)] if slurm.shards > 1 else [] for i in shards]
    place = str(folder.absolute())
    commands = [Command((*arguments, *more), "slurm", None, place, token, files, slurm.options()) for more in options]
    try:
        jobs = site.submit(commands, folder, slurm)
    except ValueError:
        write_job(folder, record.model_copy(update={"state": "failed"}))
        raise
    return _arrived(folder, record, jobs)


def follow(folder: Path, record: SlurmJob) -> dict[str, Outcome | State]:
    """Print what the jobs print until they end; returns the outcome of each, or the state in which it ended without."""
    ends: dict[str, Outcome | State] = {}
    positions = dict.fromkeys(record.jobs, 0)
    over: Counter[str] = Counter()
    last_progress, start, next_look = "", time.monotonic(), 0.0
    shard = dict(zip(record.jobs, record.shards, strict=True))
    while True:
        for job in record.jobs:
            if job in ends:
                continue
            outcome = read_outcome(folder, job)
            if outcome and outcome.status != LEFT:
                ends[job] = outcome
            prefix = f"[{shard[job]}] " if len(record.jobs) > 1 else ""
            positions[job] = print_lines(site.log(folder, job), positions[job], job in ends, prefix)
        waiting = [job for job in record.jobs if job not in ends]
        if not waiting:
            return ends
        if time.monotonic() >= next_look:
            states = site.queue()
            if (progress := _progress(record, states, waiting)) != last_progress:
                print(f"launch: {progress}", flush=True)
                last_progress = progress
            for job in waiting if states is not None else []:
                if job in states and states[job].state not in site.OVER:  # type: ignore[operator, index]
                    over[job] = 0
                    continue
                over[job] += 1
                outcome = read_outcome(folder, job)
                if over[job] >= SEEN_OVER and (outcome is None or outcome.status == LEFT):
                    ends[job] = _end(folder, job, states.get(job))  # type: ignore[union-attr]
            # The controller of Slurm serves all users: ask often at first and near an end, rarely in a long training.
            pause = 2.0 if any(over[job] for job in waiting) else (time.monotonic() - start) / 20
            next_look = time.monotonic() + min(30.0, max(2.0, pause))
        time.sleep(0.5)


def _end(folder: Path, job: str, state: State | None) -> State:
    """How a job ended that has no outcome, or that left before its work was done."""
    outcome = read_outcome(folder, job)
    if outcome and outcome.status == LEFT:
        return State("LEFT")
    if state is None:
        state = site.history([job]).get(job)
        if state is None or state.state not in site.OVER:
            return State(site.VANISHED)
    if state.state == "COMPLETED" and list(folder.glob(f"{job}_0_result.pkl")):
        # The job was submitted before there were outcomes. It told its end by a pickle, which is not loaded: running
        # the same command again does nothing where all is done, and says what is wrong where it is not.
        return State("LEFT")
    early = state.state == "FAILED" and site.warned_early(folder, job)
    return State(site.EARLY if early else state.state, state.where)


def _progress(record: SlurmJob, states: dict[str, State] | None, waiting: Sequence[str]) -> str:
    """One line on where the jobs are."""
    if states is None:
        return "Slurm does not answer; asking on"
    if len(record.jobs) == 1:
        return f"job {record.jobs[0]}: {states.get(record.jobs[0], State('not in the queue'))}"
    counts = Counter(states[job].state if job in states else "not in the queue" for job in waiting)
    done = len(record.jobs) - len(waiting)
    return f"jobs {record.job}_*: {', '.join([f'{done} ended', *(f'{n} {s}' for s, n in sorted(counts.items()))])}"


def _report(folder: Path, record: SlurmJob, failed: dict[str, Outcome | State]) -> int:
    """Say on stderr why jobs failed; returns the exit status."""
    status = 1
    for job, end in failed.items():
        if isinstance(end, Outcome):  # the command refused or raised, and said why in its output
            status = end.status
        state = end if isinstance(end, State) else State("FAILED")
        print(f"launch: job {job} failed: {record.command}\n{site.why(folder, job, state)}", file=sys.stderr)
    return status


def _describe(end: Outcome | State) -> str:
    if isinstance(end, State):
        return str(end)
    return end.traceback.strip().splitlines()[-1] if end.traceback else f"exit status {end.status}"


def _newer(record: SlurmJob, inputs: Sequence[str]) -> bool:
    """Whether a submission is newer than all inputs, so that what it made was made from them."""
    since = datetime.fromisoformat(record.submitted).timestamp()
    return all(Path(file).stat().st_mtime <= since for file in inputs if Path(file).exists())


def _close(folder: Path, record: SlurmJob, state: str, left: Sequence[int] = ()) -> None:
    """Write the end of a submission on its record, unless another took the place."""
    with lock(folder):
        on_file = read_job(folder)
        if isinstance(on_file, SlurmJob) and on_file.token == record.token:
            write_job(folder, on_file.model_copy(update={"state": state, "left": tuple(left)}))
        for path in folder.glob(f"{record.token}-*.pkl"):
            path.unlink(missing_ok=True)


def _answer(question: Callable[[], Answer | None]) -> Answer:
    """The answer of Slurm, asked until there is one: without it nothing may be submitted."""
    announced = False
    while (answer := question()) is None:
        if not announced:
            print("launch: Slurm does not answer; asking on", flush=True)
            announced = True
        time.sleep(5.0)
    return answer
