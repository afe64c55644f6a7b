"""What Slurm is asked and told: settings of a site, submission, states of jobs, and what a failure means."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

import mar
from mar.cluster.job_process import Command
from mar.cluster.records import read_outcome
from mar.runtime.provenance import git_commit
from mar.runtime.stop_signals import LEFT

# States in which a job is over (squeue(1)); in every other it waits, runs, or is about to do either again.
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
# States that Slurm does not have.
VANISHED = "VANISHED"  # neither the queue nor the accounting knows the job
EARLY = "WARNED_EARLY"  # a warning ended the job before it could listen, while Python was starting
AGAIN = {"PREEMPTED", VANISHED, EARLY, "LEFT"}  # after these the launcher submits the job again by itself

ADVICE = {
    "BOOT_FAIL": "the node did not start; run the same command again",
    "CANCELLED": "somebody cancelled it (scancel); run the same command to go on from the last checkpoint",
    "COMPLETED": "it ended without a result, so something ended its process; see the log",
    "DEADLINE": "its deadline passed; see --deadline in the site's extra lines",
    "FAILED": "see the log; the same command goes on from the last checkpoint",
    "NODE_FAIL": "its node died; run the same command to go on elsewhere (exclude a bad node with `slurm_extra`)",
    "OUT_OF_MEMORY": "ask for more memory (`mem_mb`), or make `micro_batch` of the recipe or `memory.sampling` smaller",
    "REVOKED": "another cluster of the federation runs it",
    EARLY: "a warning (preemption, or time running out) came while Python was starting; if it comes each time, ask for "
    "more time (`runtime`) or a later warning (`slurm_signal`)",
    "TIMEOUT": "its time limit came before it could save; ask for more time (`runtime`), or for an earlier warning "
    "(`slurm_signal`), then run the same command to go on from the last checkpoint",
}

# Options of sbatch that `slurm_extra` may not set: the launcher sets them, some from settings with names of their own.
RESERVED = {
    "array", "comment", "job-name", "open-mode", "output", "error", "signal", "wrap", "ntasks", "ntasks-per-node",
    "partition", "account", "qos", "constraint", "nodes", "gpus-per-node", "cpus-per-task", "time", "mem",
}  # fmt: skip


@dataclass(frozen=True)
class Slurm:
    """Settings of a Slurm site. Empty and zero mean: as the site does by default."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    nodes: int = 0
    gpus_per_node: int = 0
    cpus_per_task: int = 0
    time: int = 0  # minutes
    mem: int = 0  # megabytes per node
    signal: int = 0  # seconds between the warning and the time limit
    device: str = ""  # where the stage computes: cuda or cpu; empty is cuda where GPUs are asked for
    shards: int = 0  # number of jobs in the array that shares one stage
    extra: str = ""  # further options of sbatch

    def given(self) -> dict[str, str | int]:
        """The settings that differ from the site's defaults, by name."""
        return {name: value for name, value in vars(self).items() if value}

    def options(self) -> tuple[str, ...]:
        """Options of `mar` itself for the command of a job: a stage that asks for a GPU fails where torch sees none."""
        device = self.device or ("cuda" if self.gpus_per_node else "")
        return ("--device", device) if device else ()

    def parameters(self) -> dict[str, Any]:
        """The settings as parameters of submitit's AutoExecutor, with one task per GPU.

        Raises:
            ValueError: a device that there is not, an extra option that is no option, or one that the launcher sets.
        """
        given = self.given()
        if self.device not in ("", "cuda", "cpu"):
            raise ValueError(f"slurm device: found {self.device!r}; accepted: cuda, cpu")
        texts = ("partition", "account", "qos", "constraint")
        named: dict[str, Any] = {f"slurm_{k}": given[k] for k in texts if k in given}
        named |= {k: given[k] for k in ("nodes", "gpus_per_node", "cpus_per_task") if k in given}
        if self.gpus_per_node:
            named["tasks_per_node"] = self.gpus_per_node
        if self.time:
            named["timeout_min"] = self.time
        if self.mem:
            named["mem_gb"] = self.mem / 1024
        if self.signal:
            named["slurm_signal_delay_s"] = self.signal
        if self.extra:
            named["slurm_additional_parameters"] = dict(_option(word) for word in shlex.split(self.extra))
        return named


def _option(word: str) -> tuple[str, str | bool]:
    match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", word)
    if not match:
        raise ValueError(f"slurm extra: found {word!r}; accepted: options of sbatch as --name or --name=value")
    if match[1] in RESERVED:
        raise ValueError(
            f"slurm extra: found --{match[1]}, which the launcher sets; see slurm/README.md for its setting"
        )
    return match[1], True if match[2] is None else match[2]


@dataclass(frozen=True)
class State:
    """What Slurm says of a job: its state, where it runs or why it waits, and the comment of its submission."""

    state: str
    where: str = ""
    comment: str = ""

    def __str__(self) -> str:
        """The state with its place or reason, as RUNNING (node1)."""
        return f"{self.state} ({self.where})" if self.where else self.state


def ask(command: Sequence[str], timeout: float = 30.0) -> str | None:
    """What a client of Slurm prints; None when it fails, as it does when the controller is away for a while."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def queue() -> dict[str, State] | None:
    """This user's jobs in the queue by id (12, or 12_3 in an array), those that ended lately too; None: no answer."""
    # Fields are cut with |, and the comment, which may hold one, is last.
    answer = ask(["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|%N|%k"])
    if answer is None:
        return None
    states = {}
    for line in answer.splitlines():
        job, state, reason, nodes, comment = line.split("|", 4)
        states[job.strip()] = State(state, nodes or ("" if reason == "None" else reason), comment.strip())
    return states


def history(jobs: Sequence[str]) -> dict[str, State]:
    """What the accounting knows of jobs that left the queue; nothing where there is none, or when it is late."""
    answer = ask(["sacct", "-X", "-n", "-P", "-o", "JobID,State,NodeList", "-j", ",".join(jobs)], timeout=10)
    states = {}
    for line in (answer or "").splitlines():
        job, state, nodes = line.split("|", 2)
        states[job] = State(state.split()[0], "" if nodes == "None assigned" else nodes)  # "CANCELLED by 1000"
    return states


def find(token: str, since: float) -> list[str] | None:
    """Ids of the jobs of a submission, by its comment; None: no answer. `since` is when it began, in Unix time."""
    states = queue()
    if states is None:
        return None
    jobs = [job for job, state in states.items() if state.comment == token]
    if not jobs:  # they may have ended long ago; the accounting keeps comments where the site lets it
        start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(since - 60))
        fields = ["-X", "-n", "-P", "-o", "JobID,Comment", "-S", start, "-u", getpass.getuser()]
        lines = (ask(["sacct", *fields], timeout=10) or "").splitlines()
        jobs = [line.split("|", 1)[0] for line in lines if line.endswith(f"|{token}")]
    return jobs


@contextlib.contextmanager
def _outside() -> Iterator[None]:
    """Hide the environment variables of a job inside which the launcher may run, but for the place of the cluster."""
    conf = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env():
        if conf is not None:
            os.environ["SLURM_CONF"] = conf
        yield


def submit(commands: Sequence[Command], folder: Path, slurm: Slurm) -> list[str]:
    """Submit one job, or an array of one job for each of several commands; returns their ids.

    Raises:
        ValueError: there is no Slurm here, or sbatch refuses.
    """
    folder, token = folder.absolute(), commands[0].token
    code = snapshot(folder)
    # submitit names the pickle of a job when it knows the id. Killed before that, the job still finds this one.
    for number, command in enumerate(commands):
        submitit.core.utils.DelayedSubmission(command).dump(folder / f"{token}-{number}.pkl")
    name = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}_submitted.pkl"'
    pickle = f"{shlex.quote(str(folder))}/{name}"
    setup = [
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"export MAR_GIT_COMMIT={git_commit()}",
        f"[ -e {pickle} ] || cp {shlex.quote(str(folder / token))}-${{SLURM_ARRAY_TASK_ID:-0}}.pkl {pickle}",
    ]
    if slurm.cpus_per_task:
        setup.append("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK")  # since Slurm 22.05 srun does not inherit it
    try:
        executor = submitit.AutoExecutor(
            folder=folder,
            cluster="slurm",
            slurm_max_num_timeout=1_000_000,
            # -P: the working folder may hold the package too, edited since; the job must import its copy instead
            slurm_python=f"{shlex.quote(sys.executable)} -P",
        )
    except RuntimeError as error:
        raise ValueError(f"launch: --cluster slurm: {error}; accepted here: local, debug") from None
    executor.update_parameters(
        name="mar",
        stderr_to_stdout=True,
        slurm_comment=token,
        slurm_setup=setup,
        slurm_srun_args=["--kill-on-bad-exit=1"],  # or the other ranks would wait for the one that ended, for hours
        **slurm.parameters(),
    )
    try:
        with _outside():
            if len(commands) == 1:
                jobs = [executor.submit(commands[0])]
            else:
                with executor.batch():
                    jobs = [executor.submit(command) for command in commands]
    except submitit.core.utils.FailedJobError as error:
        raise ValueError(f"launch: sbatch refuses: {error}") from None
    return [job.job_id for job in jobs]


def snapshot(folder: Path) -> Path:
    """A copy of this package, which the job runs: an edit while it waits changes nothing.

    Copies are named by their content and shared by the jobs of a study, in jobs/code.
    """
    package = Path(mar.__file__).parent
    files = [f for f in sorted(package.rglob("*")) if f.is_file() and "__pycache__" not in f.parts]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(package)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    home = next((parent for parent in folder.parents if parent.name == "jobs"), folder)
    copy = home / "code" / digest.hexdigest()[:16]
    if not copy.exists():
        temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        for file in files:
            target = temporary / "mar" / file.relative_to(package)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        try:
            temporary.rename(copy)
        except OSError:  # another launcher was first
            shutil.rmtree(temporary)
    return copy


def log(folder: Path, job: str, task: int = 0) -> Path:
    """File of what a task prints."""
    return Path(submitit.core.utils.JobPaths(folder.absolute(), job, task).stdout)


def warned_early(folder: Path, job: str) -> bool:
    """Whether the log says that a warning ended a task, which it does until the task listens."""
    return bool(re.search(r"error: \S+: tasks? [\d,-]+: User defined signal [12]\b", _tail(log(folder, job))))


def why(folder: Path, job: str, state: State, lines: int = 12) -> str:
    """Why a job failed, what to change, and the last lines of the log that says most."""
    task, reason = 0, f"{state}: {ADVICE.get(state.state, 'see the log')}"
    ranks = sorted(int(path.name.split("_")[-2]) for path in folder.glob(f"{job}_*_outcome.json"))
    for rank in ranks:
        outcome = read_outcome(folder, job, rank)
        if outcome and outcome.traceback:
            task, reason = rank, f"rank {rank} raised {outcome.traceback.strip().splitlines()[-1]}"
            if "No space left on device" in outcome.traceback:
                reason += "; make space, then run the same command to go on"
            break
    else:
        text = _tail(log(folder, job))
        ended = [e for e in re.findall(r"error: (\S+): tasks? ([\d,-]+): (.*)", text) if not e[2].endswith(f" {LEFT}")]
        if re.search(r"[Ee]xceeded job memory limit|oom.kill", text):
            reason = f"OUT_OF_MEMORY ({state.where}): {ADVICE['OUT_OF_MEMORY']}"
        elif ended and state.state in ("FAILED", "COMPLETED"):  # srun ends the other tasks because of the first
            node, tasks, how = ended[0]
            task = int(re.split(r"[,-]", tasks)[0])
            reason = f"rank {tasks} on {node}: {how}; {ADVICE['FAILED']}"
    file = log(folder, job, task)
    shown = [line for line in _tail(file).splitlines() if line.strip() and not line.startswith("submitit ")][-lines:]
    return "\n".join([reason, f"last lines of {file}:", *(f"  {line}" for line in shown)])


def _tail(path: Path, size: int = 100_000) -> str:
    """The end of a file, or nothing."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return file.read().decode(errors="replace")


def cancel(jobs: Sequence[str], patience: float = 180.0) -> None:
    """End jobs and wait for their end.

    Raises:
        ValueError: they do not end.
    """
    ask(["scancel", *jobs])
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        states = queue()
        if states is not None and all(job not in states or states[job].state in OVER for job in jobs):
            return
        time.sleep(1.0)
    raise ValueError(f"launch: jobs {' '.join(jobs)} do not end; see `squeue --me`")
