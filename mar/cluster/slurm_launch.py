"""A command of `mar` as a job of Slurm: submitted once, followed to its end, found again after the launcher crashed.

The record, job.json, says `submitting` before sbatch is called and `running` from the job's id on until the launcher
has seen its end. A submission carries a token as its comment, and its script lies in the job's folder: by either a job
is found whose id was never written, and before anything is submitted such a job is looked for. A job that starts when
the record names another token does nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from mar.cluster import failures, queue
from mar.cluster import slurm as site
from mar.cluster.failures import log
from mar.cluster.job_process import Command, forget, put_back, text, verb
from mar.cluster.processes import alive, print_lines, started, stat_fields
from mar.cluster.queue import NEVER, State, States
from mar.cluster.records import Outcome, SlurmJob, read_job, read_outcome, write_job
from mar.runtime.folders import lock
from mar.runtime.stop_signals import LEFT

GRACE = 20.0  # seconds in which a job whose submission was cut off may still arrive
# How many looks at the queue in a row must say that a job without an outcome is over: a requeued job seems to be over
# for a moment.
SEEN_OVER = 3
# Seconds for which a job has to be away that the accounting does not know, before it counts as lost; and in which
# the outcome and the outputs of one that ended well may come over a network file system.
PATIENCE = 60.0
REPEAT = 1800.0  # seconds after which a line on a job that still waits is repeated
ALONE = 600.0  # seconds after which a limit on jobs is a mistake where this user has no other job that could end
LOSSES = 3  # how often in one call a job may vanish, or be warned too early, before that is an error
CANCELLED = "ended by `mar cancel`; the same command goes on"
SLOTS_FILES = "slots-*.json"  # what the slots of a job kept, see mar/cluster/job_process.py
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
    last: SlurmJob | None = None
    while True:
        with lock(folder):
            if last and _ended_by_hand(folder, last):
                print(f"launch: {CANCELLED}", file=sys.stderr)
                return 1
            record, live = _unfinished(folder, digest)
            if record is None:
                if last is None:  # whoever asks again, perhaps with more time, has slots of their own
                    for file in folder.glob(SLOTS_FILES):
                        file.unlink(missing_ok=True)
                record, submitted_here = _submit(arguments, folder, digest, slurm, outputs, shards)
                live = True
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
            newer = _newer(record, inputs)
            complete = (newer and put_back(folder, outputs)) or _appear(outputs, newer or submitted_here)
            _close(folder, record, "finished")
            forget(folder)
            if complete or (submitted_here and shards == all_shards):
                return 0
            print(f"launch: job {record.job} is done, but not all outputs are there; submitting again", flush=True)
            shards, submitted_here = all_shards, False
            continue
        shards = left
        failed = {
            job: end for job, end in undone.items() if isinstance(end, Outcome) or end.state not in failures.AGAIN
        }
        if _ended_by_hand(folder, record):
            print(f"launch: job {record.job}: {CANCELLED}", file=sys.stderr)
            return 1
        last = record
        _close(folder, record, "failed" if failed else "left", left)
        losses += any(
            isinstance(end, State) and end.state in (failures.VANISHED, failures.EARLY) for end in ends.values()
        )
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
        states = _answer(lambda: queue.queue(*_others(record)))
        queue.cancel(
            [job for job in record.jobs if not queue.strange(states, job, site.script_of(folder), record.token)]
        )
        write_job(folder, record.model_copy(update={"state": "stopped"}))
        return None, False
    states = _answer(lambda: queue.queue(*_others(record)))
    found = [_find(folder, record, states, job) for job in record.jobs]
    return record, any(state and not state.over for state in found)


def _others(record: SlurmJob) -> list[str]:
    """The user of a job, if it is somebody else's."""
    return [record.user] if record.user and record.user != queue.me() else []


def _find(folder: Path, record: SlurmJob, states: States, job: str) -> State | None:
    """What the queue says of a job of a submission, and not of a stranger's with the same id."""
    return queue.find(states, job, site.script_of(folder), record.token)


def _shared(folder: Path) -> Path:
    """The folder in which the launchers of a study share what they see of the queue."""
    return next((parent for parent in folder.absolute().parents if parent.name == "jobs"), folder)


def _recover(folder: Path, record: SlurmJob) -> SlurmJob | None:
    """A record whose launcher was killed while it submitted, with the ids that Slurm knows; None if no job arrived."""
    since = datetime.fromisoformat(record.submitted).timestamp()
    jobs = _arrived(folder, record.token, since, since + GRACE, _others(record))
    if not jobs:
        print(f"launch: no job of the submission at {record.submitted} arrived", flush=True)
        return None
    print(f"launch: found job {jobs[0]} by its comment {record.token}", flush=True)
    return _put_ids(folder, record, jobs)


def _arrived(folder: Path, token: str, since: float, until: float, others: Sequence[str] = ()) -> list[str]:
    """Ids of the jobs of a submission that was begun at `since`, looked for `until` it cannot arrive any more."""
    announced = False
    while True:
        states = _answer(lambda: queue.queue(*others))
        found = [job for job, state in states.items() if queue.ours(state, site.script_of(folder, token), token)]
        jobs = found or queue.accounted(token, since)
        if jobs or time.time() > until:
            return sorted(jobs, key=lambda job: [int(part) for part in job.split("_")])
        if not announced:
            print(f"launch: a submission was cut off; looking for its job for {GRACE:.0f} s", flush=True)
            announced = True
        time.sleep(2.0)


def _adopt(folder: Path, record: SlurmJob) -> SlurmJob | None:
    """The record of jobs of this command and recipe that live though none is on record; None without such jobs.

    They were submitted from this folder: their scripts lie in it.
    """
    states = _answer(lambda: queue.look(_shared(folder), 5.0)[1])
    mine = f"{site.script_of(folder)}mar-{record.hash}-"
    live = {job: s for job, s in states.items() if queue.ours(s, mine) and not s.over and s.state != "COMPLETING"}
    tokens: dict[str, list[str]] = {}
    for job, state in live.items():
        outcome = read_outcome(folder, job)
        if outcome is None or outcome.status == LEFT:  # else it is about to end
            tokens.setdefault(Path(state.origin.partition("|")[0]).stem, []).append(job)
    for token, jobs in sorted(tokens.items(), key=lambda item: all(live[job].waits for job in item[1])):
        jobs = sorted(jobs, key=lambda job: [int(part) for part in job.split("_")])
        shards = [int(job.partition("_")[2] or 0) for job in jobs]
        if set(shards) <= set(record.shards):
            print(f"launch: job {jobs[0]} of this command lives; following it", flush=True)
            said = {"token": token, "shards": tuple(shards)}
            with contextlib.suppress(ValueError):  # inputs that changed after it was submitted are newer than it
                since = datetime.fromisoformat(live[jobs[0]].submitted).astimezone()
                said["submitted"] = since.isoformat(timespec="milliseconds")
            return _put_ids(folder, record.model_copy(update=said), jobs)
    return None


def _put_ids(folder: Path, record: SlurmJob, jobs: Sequence[str]) -> SlurmJob:
    """Put the ids that Slurm gave to a submission on its record."""
    shards = record.shards
    if len(jobs) != len(shards):  # those of an array that ended long ago are not known any more
        shards = tuple(int(job.partition("_")[2] or 0) for job in jobs)
    ids = {"job": jobs[0].split("_")[0], "jobs": tuple(jobs), "shards": shards, "output": log(folder, jobs[0]).name}
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
) -> tuple[SlurmJob, bool]:
    """Put a submission on record, then submit, then put its ids on record. Called under the lock.

    As long as Slurm is too busy, or a limit on the number of jobs is reached, it is tried again.

    Returns:
        The record, and whether it is of a new submission: a job of this command that lives is followed instead.

    Raises:
        ValueError: sbatch refuses, or the submission was ended by `mar cancel` while it waited.
    """
    files = tuple(str(Path(output).absolute()) for output in outputs)
    options = [["--shard", str(i), str(slurm.shards)] if slurm.shards > 1 else [] for i in shards]
    place, first, said, told = str(folder.absolute()), time.monotonic(), "", 0.0
    while True:
        token = f"mar-{digest}-{uuid.uuid4().hex[:8]}"  # a new one each time: a late job of an old one does nothing
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
            user=queue.me(),
        )
        begun = time.time()
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*_outcome.json")}
        if site.installed() and (lives := _adopt(folder, record)):
            return lives, False
        write_job(folder, record)
        commands = [Command((*arguments, *m), "slurm", None, place, token, files, slurm.options()) for m in options]
        try:
            jobs = site.submit(commands, folder, slurm, shards)
            for path, changed in before.items():  # ids are counted anew when a cluster is
                with contextlib.suppress(FileNotFoundError):
                    if path.name.startswith(tuple(f"{job}_" for job in jobs)) and path.stat().st_mtime_ns == changed:
                        path.unlink()
        except ValueError:
            write_job(folder, record.model_copy(update={"state": "failed"}))
            raise
        except site.Busy as busy:
            _refuse_what_never_fits(folder, record, busy, time.monotonic() - first)
            if str(busy) != said or time.monotonic() > told + REPEAT:
                said, told = str(busy), time.monotonic()
                hint = _counted(record) if busy.limit else ""
                print(f"launch: Slurm takes no job now, trying again: {said}{hint}", flush=True)
            # sbatch may have been heard and could not say so
            jobs = [] if busy.limit else _arrived(folder, token, begun, time.time() + GRACE)
        if not jobs:
            time.sleep(min(60.0, 2.0 + (time.monotonic() - first) / 5))
        if _ended_by_hand(folder, record):
            if jobs:
                queue.cancel(jobs)
            raise ValueError(f"launch: {CANCELLED}")
        if jobs:
            size = f", an array of {len(jobs)}" if len(jobs) > 1 else ""
            print(f"launch: job {jobs[0].partition('_')[0]} submitted{size}", flush=True)
            return _put_ids(folder, record, jobs), True


def _refuse_what_never_fits(folder: Path, record: SlurmJob, busy: site.Busy, waited: float) -> None:
    """Give up a submission that no waiting helps.

    Raises:
        ValueError: it failed for a reason nobody knows, again and again; or a limit leaves no room for its tasks alone.
    """
    fault = ""
    if waited > busy.patience:
        fault = f"launch: sbatch fails: {busy}"
    elif busy.limit and waited > ALONE and "Grp" not in str(busy):
        states = queue.queue()
        if states is not None and all(state.over for state in states.values()):
            fault = f"launch: sbatch refuses: {busy}{_counted(record)}"
    if fault:
        write_job(folder, record.model_copy(update={"state": "failed"}))
        raise ValueError(fault)


def _counted(record: SlurmJob) -> str:
    """What an array is to a limit on the number of jobs."""
    n = len(record.shards)
    return f"; an array of {n} counts as {n} jobs against the limit: make `shards` smaller" if n > 1 else ""


def follow(folder: Path, record: SlurmJob) -> dict[str, Outcome | State]:
    """Print what the jobs print until they end; returns the outcome of each, or the state in which it ended without."""
    ends: dict[str, Outcome | State] = {}
    positions = dict.fromkeys(record.jobs, 0)
    over: Counter[str] = Counter()
    never: Counter[str] = Counter()
    away: dict[str, float] = {}  # since when a job is not in the queue
    last_progress, told, start, next_look, pause = "", 0.0, time.monotonic(), 0.0, 2.0
    last_look = time.time()
    shard = dict(zip(record.jobs, record.shards, strict=True))
    while True:
        for job in record.jobs:
            if job in ends:
                continue
            outcome = read_outcome(folder, job, of=record)
            if outcome and outcome.status != LEFT:
                ends[job] = outcome
            prefix = f"[{shard[job]}] " if len(record.jobs) > 1 else ""
            positions[job] = print_lines(log(folder, job), positions[job], job in ends, prefix)
        waiting = [job for job in record.jobs if job not in ends]
        if not waiting:
            return ends
        if time.monotonic() >= next_look:
            age = min(pause, max(2.0, time.time() - last_look))
            seen_at, states = queue.look(_shared(folder), age, _others(record))
            new = states is not None and seen_at > last_look
            found = {job: _find(folder, record, states or {}, job) for job in waiting}
            progress = _progress(record, None if states is None else found, waiting)
            if (new or states is None) and (progress != last_progress or time.monotonic() > told + REPEAT):
                print(f"launch: {progress}", flush=True)
                last_progress, told = progress, time.monotonic()
            for job, state in found.items() if new else ():
                if state and not state.over:
                    over[job] = 0
                    away.pop(job, None)
                    never[job] = never[job] + 1 if state.waits and NEVER.search(state.where) else 0
                    if never[job] >= SEEN_OVER:
                        queue.cancel([job])
                        ends[job] = State(failures.NEVER, state.where)
                    continue
                over[job] += 1
                outcome = read_outcome(folder, job, of=record)
                if over[job] >= SEEN_OVER and (outcome is None or outcome.status == LEFT):
                    gone = time.monotonic() - away.setdefault(job, time.monotonic())
                    if end := _end(folder, record, job, state, gone):
                        ends[job] = end
            last_look = seen_at if new else last_look
            # The controller of Slurm serves all users: ask often at first and near an end, rarely in a long training.
            near = any(over[job] or never[job] for job in waiting)
            near = near and all(time.monotonic() - since < 2 * PATIENCE for since in away.values())
            pause = min(30.0, max(2.0, 2.0 if near else (time.monotonic() - start) / 20))
            next_look = time.monotonic() + pause
        time.sleep(0.5)


def _end(folder: Path, record: SlurmJob, job: str, state: State | None, gone: float) -> State | None:
    """How a job ended that has no outcome, or that left before its work was done; None while that is not certain.

    Args:
        folder: the job's folder.
        record: its submission.
        job: its id.
        state: what the queue says.
        gone: seconds since the queue first did not say that it waits or runs.
    """
    if state is None:
        known = queue.history([job], [site.job_name(folder), "mar"])
        state = queue.find(known or {}, job)
        if state and not state.over:
            return None  # the queue lied: the accounting says that it lives
        if state is None and _ended_by_hand(folder, record):
            return State("CANCELLED")
        if state is None and _others(record):
            return None  # a site may hide the jobs of others; that of somebody else is not submitted again
        if state is None and gone <= PATIENCE:
            return None
    outcome = read_outcome(folder, job, of=record)
    if outcome and outcome.status == LEFT:
        return State("LEFT")
    if state is None:
        return State(failures.VANISHED)
    if state.state == "COMPLETED":
        if list(folder.glob(f"{job}_0_result.pkl")) and not list(folder.glob(f"{record.token}*.sh")):
            # The job was submitted before there were outcomes. It told its end by a pickle, which is not loaded: the
            # same command does nothing where all is done, and says what is wrong where it is not.
            return State("LEFT")
        if gone < PATIENCE:
            return None  # its outcome may be on its way over the network
    early = state.state == "FAILED" and failures.warned_early(folder, job)
    return State(failures.EARLY if early else state.state, state.where)


def _ended_by_hand(folder: Path, record: SlurmJob) -> bool:
    """Whether `mar cancel` has ended a submission."""
    on_file = read_job(folder)
    return isinstance(on_file, SlurmJob) and on_file.token == record.token and on_file.state == "stopped"


def _appear(outputs: Sequence[str], wait: bool) -> bool:
    """Whether all outputs of a finished command are there; with `wait` after a while, since a network may be late."""
    until, announced = time.monotonic() + PATIENCE * wait, False
    while missing := [output for output in outputs if not Path(output).exists()]:
        if time.monotonic() > until:
            return False
        if not announced:
            print(f"launch: waiting for {missing[0]}, which the job has written", flush=True)
            announced = True
        time.sleep(1.0)
        for parent in {Path(output).parent for output in missing}:
            with contextlib.suppress(OSError):
                os.listdir(parent)  # a network file system asks its server anew
    return True


def _progress(record: SlurmJob, found: Mapping[str, State | None] | None, waiting: Sequence[str]) -> str:
    """One line on where the jobs are."""
    if found is None:
        return "Slurm does not answer; asking on"
    held = any(state and re.search("held|hold", state.where, re.IGNORECASE) for state in found.values())
    hint = f"; `scontrol release {record.job}` lets it go" if held else ""
    if len(record.jobs) == 1:
        return f"job {record.jobs[0]}: {found[record.jobs[0]] or 'not in the queue'}{hint}"
    counts = Counter(state.state if (state := found[job]) else "not in the queue" for job in waiting)
    done = len(record.jobs) - len(waiting)
    return (
        f"jobs {record.job}_*: {', '.join([f'{done} ended', *(f'{n} {s}' for s, n in sorted(counts.items()))])}{hint}"
    )


def _report(folder: Path, record: SlurmJob, failed: dict[str, Outcome | State]) -> int:
    """Say on stderr why jobs failed; returns the exit status."""
    status = 1
    for job, end in failed.items():
        if isinstance(end, Outcome):  # the command refused or raised, and said why in its output
            status = end.status
        state = end if isinstance(end, State) else State("FAILED")
        print(f"launch: job {job} failed: {record.command}\n{failures.why(folder, job, state)}", file=sys.stderr)
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
        if isinstance(on_file, SlurmJob) and on_file.token == record.token and on_file.state != "stopped":
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
