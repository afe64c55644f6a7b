"""What Slurm is told: the settings of a site, the script of a job, and its submission.

The script is plain bash that sbatch reads on the head and runs on the first node of the job: options, the lines of the
site, and one `srun` that starts submitit's process in each task. A container belongs into `python`: sbatch and srun
then stay outside, and what runs inside is the job alone.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import submitit

from mar.cluster.failures import log
from mar.cluster.job_process import Command, requeue_mark
from mar.cluster.queue import environment
from mar.runtime import project
from mar.runtime.files import write_text
from mar.runtime.provenance import git_commit

# Options of sbatch that `slurm_extra` may not set: the launcher sets them, some from settings with names of their own,
# or it would not learn of the job. sbatch takes any beginning of a name that is unique, so none may be given either.
RESERVED = {
    "array", "comment", "job-name", "open-mode", "output", "error", "signal", "wrap", "ntasks", "ntasks-per-node",
    "partition", "account", "qos", "constraint", "nodes", "gpus-per-node", "cpus-per-task", "time", "mem",
    "parsable", "test-only", "wait", "chdir", "clusters", "cluster", "input", "help", "usage", "version", "quiet",
}  # fmt: skip
# Options of srun that `slurm_srun_args` may not set.
RESERVED_SRUN = {"output", "error", "unbuffered", "kill-on-bad-exit", "jobid", "ntasks", "wait", "input", "chdir"}
# Variables that stand for an option of sbatch, and the setting that is stronger. Others of SBATCH_ are dropped.
VARIABLES = {
    "SBATCH_PARTITION": "partition",
    "SBATCH_ACCOUNT": "account",
    "SBATCH_QOS": "qos",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_RESERVATION": "",
    "SBATCH_WCKEY": "",
    "SBATCH_EXCLUSIVE": "",
}
READ = ("assets.csv", "shipped")  # of config/: what the stages that run as jobs read there
SIGNAL = 90  # seconds between the warning and the time limit, where nobody says
# What sbatch says when the controller cannot be reached or is too busy: the same call works later.
BUSY = re.compile(
    r"unable to contact|connect failure|connection (refused|timed out|reset)|timed out|temporarily|try again|too busy"
    r"|backup controller|standby|zero bytes|transport endpoint|send/recv|authentication|credential|no route to host",
    re.IGNORECASE,
)
# Limits on one job, which it will never keep, and on all jobs of a user or an account: it fits when others have ended.
SIZE = re.compile(r"(Assoc|QOS)\w*(MaxWall|Min|Max\w+Per(Job|Node))")
LIMIT = re.compile(r"(Assoc|QOS)\w*(Submit|Grp|PerUser|PerAccount)|MaxJobCount|job submit limit|too many jobs", re.I)
MISTAKE = re.compile(
    r"invalid|not available|unrecognized|unknown|not permitted|denied|can ?not be satisfied|unable to open|no such"
    r"|exceed|more processors|must specify|not valid|illegal|requires",
    re.IGNORECASE,
)
UNKNOWN = 120.0  # seconds for which a submission is tried again that failed for a reason nobody knows


class Busy(Exception):
    """Slurm did not take a submission and may take it later.

    Attributes:
        limit: whether for a limit on the number of jobs.
        patience: seconds for which it is worth trying again.
    """

    def __init__(self, message: str, limit: bool = False, patience: float = math.inf) -> None:
        super().__init__(message)
        self.limit, self.patience = limit, patience


@dataclass(frozen=True)
class Slurm:
    """Settings of a Slurm site. Empty and zero mean: as the site does by default."""

    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    nodes: int = 0
    gpus_per_node: int = 0
    gres: str = ""  # kind of GPU for `--gres`, as gpu:a100, at sites that do not know `--gpus-per-node`
    cpus_per_task: int = 0
    time: int = 0  # minutes
    mem: int = 0  # megabytes per node
    signal: int = 0  # seconds between the warning and the time limit
    device: str = ""  # where the stage computes: cuda or cpu; empty is cuda where GPUs are asked for
    shards: int = 0  # number of jobs in the array that shares one stage
    setup: str = ""  # lines of the job's script before its command
    python: str = ""  # command of Python in a job, as `apptainer exec --nv IMAGE python`
    srun_args: str = ""  # further options of srun
    extra: str = ""  # further options of sbatch

    def given(self) -> dict[str, str | int]:
        """The settings that differ from the site's defaults, by name."""
        return {name: value for name, value in vars(self).items() if value}

    def options(self) -> tuple[str, ...]:
        """Options of `mar` itself for the command of a job: a stage that asks for a GPU fails where torch sees none."""
        device = self.device or ("cuda" if self.gpus_per_node else "")
        return ("--device", device) if device else ()

    def parameters(self) -> dict[str, str | int | bool]:
        """The settings as options of sbatch, with one task per GPU.

        Raises:
            ValueError: a device that there is not, an extra option that is no option, or one that the launcher sets.
        """
        if self.device not in ("", "cuda", "cpu"):
            raise ValueError(f"slurm device: found {self.device!r}; accepted: cuda, cpu")
        named: dict[str, str | int | bool] = {}
        for name in ("partition", "account", "qos", "constraint", "nodes", "cpus_per_task", "time"):
            if value := getattr(self, name):
                named[name.replace("_", "-")] = value
        if self.gpus_per_node:
            named["ntasks-per-node"] = self.gpus_per_node
            if not self.gres:
                named["gpus-per-node"] = self.gpus_per_node
        if gres := self._gres():
            named["gres"] = gres
        if self.mem:
            named["mem"] = f"{self.mem}MB"
        if self.signal:
            named["signal"] = f"USR2@{self.signal}"
        for word in shlex.split(self.extra):
            name, value = _option(
                "slurm extra", word, RESERVED - {"mem"} if word == "--mem=0" and not self.mem else RESERVED
            )
            named[name] = value
        self.srun()
        return named

    def _gres(self) -> str:
        """The kind of GPU with its number, and what else `gres` names; GPUs only where the job has some."""
        parts = []
        for part in filter(None, self.gres.split(",")):
            kind, _, number = part.rpartition(":")
            if part.split(":")[0] != "gpu":
                parts.append(part)
            elif number.isdecimal() and kind:
                if int(number) not in (0, self.gpus_per_node) and self.gpus_per_node:
                    raise ValueError(
                        f"slurm gres: found {part!r} with gpus_per_node {self.gpus_per_node}; accepted: {kind}"
                    )
                parts += [part] if self.gpus_per_node else []
            elif self.gpus_per_node:
                parts.append(f"{part}:{self.gpus_per_node}")
        return ",".join(parts)

    def srun(self) -> list[str]:
        """Further options of srun.

        Raises:
            ValueError: one that is no option, or that the launcher sets.
        """
        words = shlex.split(self.srun_args)
        for word in words:
            _option("slurm srun_args", word, RESERVED_SRUN)
        return words


def _option(setting: str, word: str, reserved: set[str]) -> tuple[str, str | bool]:
    match = re.fullmatch(r"--([a-z][a-z-]*)(?:=(.*))?", word)
    if not match:
        raise ValueError(f"{setting}: found {word!r}; accepted: options as --name or --name=value")
    name = match[1]
    taken = [name] if name in reserved else sorted(r for r in reserved if r.startswith(name))
    if taken:
        meant = "" if taken == [name] else f" (a beginning of --{taken[0]})"
        raise ValueError(
            f"{setting}: found --{name}{meant}, which the launcher sets; see slurm/README.md for its setting"
        )
    return name, True if match[2] is None else match[2]


def job_name(folder: Path) -> str:
    """Name of a job in the queue: study, stage and what it is of, as demo.train.mar-diff.seed0."""
    parts = folder.absolute().parts
    place = max((i for i, part in enumerate(parts) if part == "jobs"), default=0)
    return re.sub(r"[^\w.+-]", "_", ".".join([parts[place - 1], *parts[place + 1 :]] if place else ["mar", parts[-1]]))


def script_of(folder: Path, token: str = "") -> str:
    """Path of the script of a submission; without a token the beginning of those of all submissions of a folder."""
    return f"{folder.absolute()}/{token}{'.sh' if token else ''}"


def script(folder: Path, slurm: Slurm, token: str, shards: Sequence[int], code: Path, commit: str) -> str:
    """The batch script of a submission.

    Args:
        folder: the job's folder.
        slurm: settings of the site.
        token: names the submission.
        shards: numbers of the tasks of the array, where a stage is shared.
        code: the copy of the package that the job runs.
        commit: of which commit it is.
    """
    folder = folder.absolute()
    options: dict[str, str | int | bool] = {"nodes": 1, "signal": f"USR2@{SIGNAL}", **slurm.parameters()}
    options |= {"job-name": job_name(folder), "comment": token, "open-mode": "append"}
    if array := slurm.shards > 1:
        options["array"] = ",".join(map(str, shards))
    place = options["output"] = str(log(folder, "%A_%a" if array else "%j"))
    tasks = re.sub(r"_0_log\.out$", "_%t_log.out", place)
    srun = ["srun", "--unbuffered", "--output", tasks, "--kill-on-bad-exit=1", *slurm.srun()]
    # -P: the working folder may hold the package too, edited since; the job must import its copy instead
    python = f"{slurm.python or shlex.quote(sys.executable)} -P -u -m submitit.core._submit"
    lines = ["#!/bin/bash", *(_line(key, value) for key, value in sorted(options.items())), ""]
    if slurm.setup:
        lines += ["# lines of the site", *slurm.setup.splitlines(), ""]
    lines += [
        f"folder={shlex.quote(str(folder))}",
        "job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
        "# submitit's process looks for its work by the id of the job, which nobody knew before",
        f"work=$folder/{token}-${{SLURM_ARRAY_TASK_ID:-0}}.pkl",
        '[ ! -e "$work" ] || cp "$work" "$folder/${job}_submitted.pkl"',
        "export SUBMITIT_EXECUTOR=slurm",
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"export MAR_GIT_COMMIT={shlex.quote(commit)}",
        "export SLURM_EXPORT_ENV=ALL # srun hands on what is set here, also after sbatch --export=NONE",
    ]
    if slurm.cpus_per_task:
        lines.append("export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # since Slurm 22.05 srun does not inherit it")
    lines += [
        "",
        f'{shlex.join(srun)} {python} "$folder"',
        "status=$?",
        "# a job in a container cannot call Slurm and leaves a mark instead",
        f"mark=$folder/{requeue_mark('$SLURM_JOB_ID')}",
        'if [ -e "$mark" ]; then rm -f "$mark"; scontrol requeue "$SLURM_JOB_ID"; fi',
        "exit $status",
    ]
    return "\n".join(lines) + "\n"


def _line(name: str, value: str | int | bool) -> str:
    return f"#SBATCH --{name}" if value is True else f"#SBATCH --{name}={shlex.quote(str(value))}"


def installed() -> bool:
    """Whether jobs can be submitted from this machine."""
    return bool(shutil.which("sbatch") and shutil.which("srun"))


def submit(commands: Sequence[Command], folder: Path, slurm: Slurm, shards: Sequence[int] = (0,)) -> list[str]:
    """Submit one job, or an array of one job for each of several commands; returns their ids.

    Args:
        commands: one for each of `shards`, all of one token.
        folder: the job's folder.
        slurm: settings of the site.
        shards: numbers of the shards.

    Raises:
        ValueError: there is no Slurm here, or sbatch refuses.
        Busy: Slurm may take it later.
    """
    folder, token = folder.absolute(), commands[0].token
    if not installed():
        raise ValueError("launch: --cluster slurm: found no sbatch and srun on PATH; accepted here: local, debug")
    file = Path(script_of(folder, token))
    write_text(file, script(folder, slurm, token, shards, snapshot(folder), git_commit()))
    array = slurm.shards > 1
    for shard, command in zip(shards, commands, strict=True):
        work = submitit.core.utils.DelayedSubmission(command)
        work.set_timeout(slurm.time or 365 * 24 * 60, 1_000_000)  # submitit's own count of time-outs ends nothing
        work.dump(folder / f"{token}-{shard if array else 0}.pkl")
    number = _sbatch(file, slurm)
    return [f"{number}_{shard}" for shard in shards] if array else [number]


def _sbatch(file: Path, slurm: Slurm) -> str:
    """Call sbatch; returns the id that it tells."""
    variables = {
        k: os.environ[k] for k, setting in VARIABLES.items() if k in os.environ and not slurm.given().get(setting)
    }
    with submitit.helpers.clean_env():  # the launcher may run in a job of its own, whose variables are not this job's
        told = environment() | variables
    if "SLURM_CONF" in os.environ:
        told["SLURM_CONF"] = os.environ["SLURM_CONF"]
    try:
        done = subprocess.run(["sbatch", str(file)], capture_output=True, env=told, timeout=180)
    except subprocess.TimeoutExpired:
        raise Busy("sbatch gave no answer for 180 s") from None
    output, error = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
    # A site may print notes: only a line of sbatch's own counts, which is bare where a site's wrapper says --parsable.
    lines = [
        re.fullmatch(r"(?:Submitted batch job )?(\d+)(?: on cluster \S+|;\S+)?", line.strip())
        for line in output.splitlines()
    ]
    found = [match for match in lines if match]
    if done.returncode == 0 and found:
        return found[-1][1]
    said = " ".join(f"{error} {output}".split()) or f"exit status {done.returncode}"
    if done.returncode == 0:
        raise Busy(f"sbatch told no id: {said}")
    if BUSY.search(said):
        raise Busy(said)
    if LIMIT.search(said) and not SIZE.search(said):
        raise Busy(said, limit=True)
    if SIZE.search(said) or MISTAKE.search(said):
        raise ValueError(f"launch: sbatch refuses: {said}")
    raise Busy(said, patience=UNKNOWN)


def snapshot(folder: Path) -> Path:
    """A copy of this package, which the job runs: an edit while it waits changes nothing.

    Copies are named by their content and shared by the jobs of a study, in jobs/code. Of a checkout a copy has also
    the files of config/ that stages read, where an installed package has them.
    """
    package = project.PACKAGE
    places = {file: file.relative_to(package) for file in sorted(package.rglob("*"))}
    for name in READ if project.ROOT != project.INSIDE else ():
        found = project.path("config", name)
        for file in sorted(found.rglob("*")) if found.is_dir() else [found]:
            places[file] = (project.INSIDE / file.relative_to(project.ROOT)).relative_to(package)
    places = {file: place for file, place in places.items() if file.is_file() and "__pycache__" not in file.parts}
    digest = hashlib.sha256()
    for file, place in places.items():
        digest.update(f"{place}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    home = next((parent for parent in folder.parents if parent.name == "jobs"), folder)
    copy = home / "code" / digest.hexdigest()[:16]
    if not copy.exists():
        temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        for file, place in places.items():
            target = temporary / "mar" / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        try:
            temporary.rename(copy)
        except OSError:  # another launcher was first
            shutil.rmtree(temporary)
    return copy
