"""Run one command of `mar` as a job: submit it once, follow it, and follow it again after a crash of the launcher.

    mar launch --cluster local --folder results/demo/jobs/train/mar/seed0 -- train --study results/demo/study.json ...

The folder keeps `job.json`, the record of the last job, beside the job's output. Every command of `mar` is a no-op
when its work is complete and goes on where it was when it is not, so submitting again is always right:

- a live job of the same command and recipe is followed instead of submitted again. The workflow may have removed
  outputs of it meanwhile, which it takes for incomplete: a `local` command then runs once more, which makes them
  again, and for a job of Slurm they are put back (mar/cluster/slurm_launch.py);
- a live job of another recipe is ended first: its work would be moved aside anyway;
- SIGINT and SIGTERM (Ctrl-C) end a `local` job and leave a `slurm` job running, to be followed by the same command;
- SIGKILL leaves any job running, to be followed by the same command.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import submitit

from mar.cluster import fork_server
from mar.cluster.failures import log
from mar.cluster.job_process import Command, text
from mar.cluster.processes import alive, print_lines, started, stop
from mar.cluster.records import LocalJob, SlurmJob, outcome_file, read_job, read_outcome, write_job
from mar.cluster.slurm import Slurm
from mar.cluster.slurm_launch import launch_slurm
from mar.runtime.folders import lock

POLL = 0.05  # seconds between looks at a job's output
YEAR = 365 * 24 * 60  # minutes; submitit ends a local job after its time limit, and a laptop has none


def launch(
    arguments: Sequence[str],
    folder: str | Path,
    cluster: str = "local",
    recipe: str = "",
    slurm: Slurm | None = None,
    outputs: Sequence[str] = (),
    inputs: Sequence[str] = (),
    gpus: int = 0,
) -> int:
    """Run a command of `mar` as a job and print its output until it ends.

    Args:
        arguments: the command and its options, as after `mar`.
        folder: folder of this job alone, for job.json and the job's output.
        cluster: local (a process of its own), debug (this process) or slurm.
        recipe: what the result depends on beside the command; a live job of another recipe is ended.
        slurm: site settings, for cluster slurm only.
        outputs: files that exist when the command is done.
        inputs: files that the command reads. By both the launcher sees that a job of Slurm that ended while no launcher
            followed it needs no second one.
        gpus: GPUs of this machine that the job takes from other jobs, for clusters local and debug; 0 leaves it all.

    Returns:
        Exit status of the command; 128 + signal number when a signal ended the launcher.

    Raises:
        ValueError: site settings without cluster slurm, or cluster slurm where there is no Slurm.
    """
    slurm = slurm or Slurm()
    given = {name: value for name, value in slurm.given().items() if name != "device"}
    if cluster != "slurm" and given:
        raise ValueError(f"launch: Slurm settings {given} with --cluster {cluster}; accepted: --cluster slurm")
    if cluster == "slurm" and gpus:
        raise ValueError("launch: --gpus is for this machine; accepted with --cluster slurm: --slurm-gpus-per-node")
    slurm.parameters()
    folder = Path(folder)
    digest = hashlib.sha256(
        json.dumps([list(arguments), recipe] + [slurm.shards] * (slurm.shards > 1)).encode()
    ).hexdigest()[:16]
    with _signals_raise():
        record = None
        try:
            if cluster == "slurm":
                return launch_slurm(arguments, folder, digest, slurm, outputs, inputs)
            while True:
                with lock(folder):  # of two launchers one submits a job, and the other finds that job and follows it
                    record = _running(folder)
                    if record and record.hash != digest:
                        print(f"launch: job {record.job} works on another recipe; ending it", flush=True)
                        stop(record)
                        record = None
                    submitted_here = record is None
                    if record is None:
                        devices = os.environ.get("CUDA_VISIBLE_DEVICES")
                        command = Command(
                            tuple(arguments),
                            cluster,
                            devices,
                            str(folder.absolute()),
                            options=("--device", device) if (device := slurm.device or "cuda" * bool(gpus)) else (),
                            gpus=gpus,
                        )
                        record = _submit(command, folder, digest)
                if not submitted_here:
                    print(f"launch: job {record.job} of this command is running; following it", flush=True)
                if submitted_here and cluster == "debug":
                    status = command()
                    _close(folder, record, "finished" if status == 0 else "failed")
                    return status
                _follow(folder, record)
                if submitted_here:
                    return _outcome(folder, record)
        except _Interrupted as interrupt:
            return _interrupted(folder, record, cluster, interrupt.number)


class _Interrupted(BaseException):
    """SIGINT or SIGTERM, raised where the launcher is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        raise _Interrupted(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _submit(command: Command, folder: Path, digest: str) -> LocalJob:
    """Start the job, unless it is to run in this process, and put it on record. Called under the folder's lock."""
    local = command.cluster == "local"
    with fork_server.ask(command) if local else contextlib.nullcontext() as forked:  # it begins when it is on record
        job = str(forked) if forked else _start(command, folder)
        pid = int(job) if local else os.getpid()
        record = LocalJob(
            state="running",
            cluster="local" if local else "debug",
            command=text(command.arguments),
            hash=digest,
            host=socket.gethostname(),
            pid=pid,
            submitted=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            output=log(folder, job).name if local else None,
            job=job,
            started=started(pid),
        )
        write_job(folder, record)
    return record


def _start(command: Command, folder: Path) -> str:
    """Name of a job that submitit starts in a process of its own, where the job is not to run in this one."""
    executor = submitit.AutoExecutor(folder=folder.absolute(), cluster=command.cluster)
    limit = {"timeout_min": YEAR} if command.cluster == "local" else {}
    executor.update_parameters(name="mar", stderr_to_stdout=True, **limit)
    # Ctrl-C in a terminal goes to all its processes. The job must not see it: the launcher ends it in good order.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return str(executor.submit(command).job_id)
    finally:
        signal.signal(signal.SIGINT, before)


def _running(folder: Path) -> LocalJob | None:
    """The job on record if it still runs."""
    record = read_job(folder)
    if isinstance(record, SlurmJob):
        if record.state in ("submitting", "running"):
            raise ValueError(
                f"{folder}: a job of Slurm was submitted for this command ({record.job}); "
                "go on with --cluster slurm, or end it first: mar cancel"
            )
        return None
    return record if record and record.state == "running" and alive(record) else None


def _follow(folder: Path, record: LocalJob) -> None:
    """Print the job's output as it comes, until the job ends."""
    position = 0
    while True:
        running = alive(record)  # before reading, so that all that a job printed before its end is read
        if record.output:
            position = print_lines(folder / record.output, position, last=not running)
        if not running:
            return
        time.sleep(POLL)


def _outcome(folder: Path, record: LocalJob) -> int:
    """Exit status of a job that ended; a failure is told on stderr. Its output was printed already."""
    outcome = read_outcome(folder, record.job)
    status = outcome.status if outcome else 1  # without one, something ended its process
    _close(folder, record, "finished" if status == 0 else "failed", outcome.cpu_seconds if outcome else None)
    if status:
        print(f"launch: job {record.job} failed: {record.command}; output: {log(folder, record.job)}", file=sys.stderr)
    return status


def _interrupted(folder: Path, record: LocalJob | None, cluster: str, number: int) -> int:
    """Ctrl-C means stop, for a job on this machine; a job in a queue goes on."""
    if cluster == "slurm":
        message = "what was submitted goes on; run the same command to follow it, or `mar cancel` to end it"
    elif record is None:
        return 128 + number
    else:
        stop(record)
        _close(folder, record, "stopped")
        message = f"job {record.job} stopped; run the same command to go on"
    with contextlib.suppress(BrokenPipeError):  # Ctrl-C ended the reader of our output too
        print(f"launch: {message}", file=sys.stderr, flush=True)
    return 128 + number


def _close(folder: Path, record: LocalJob, state: str, cpu_seconds: float | None = None) -> None:
    """Write a job's end on its record, unless another job took the place."""
    with lock(folder):
        on_file = read_job(folder)
        if on_file and (on_file.hash, on_file.job) == (record.hash, record.job):
            write_job(folder, on_file.model_copy(update={"state": state, "cpu_seconds": cpu_seconds}))
        # A process id comes again; the old outcome must not be taken for the new one's.
        for file in [outcome_file(folder, record.job), *folder.glob(f"{record.job}_*.pkl")]:
            file.unlink(missing_ok=True)
