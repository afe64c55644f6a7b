"""Faults, one by one, into encode, train and sample on the test cluster, and what becomes of each.

    eval "$(tests/cluster/slurm.sh env)"; python tests/cluster/chaos.py --out docs/faults.md

Every case starts from the same files, runs a stage through `mar launch`, breaks something while it works, and runs the
same command again until it succeeds. Then the stage's files must be those of an undisturbed run, to the bit, and no
submission may have been made while another of the same work was alive. Full disks are tmpfs, which only root can mount.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

from mar.cluster.records import outcome_file, read_outcome
from mar.runtime.files import write_json

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))
sys.path.insert(0, str(HERE))

from training import stop_until_warned  # noqa: E402

STUDY = {
    "study": "chaos",
    "tokenizers": {"wide": {"channels": [64, 64, 64]}},  # so that the encoding of digits takes a while
    "recipes": {"short": {"images": 9600, "batch": 64, "checkpoint_images": 1600, "log_images": 320}},
    "sampling": {"plain": {"steps": 8, "diffusion_steps": 25}},
    "metrics": {"samples": 160, "chunk": 20, "bootstrap": 10},
}
STAGES = ("encode", "train", "sample")
SHARDS = {"encode": 2, "sample": 2}  # arrays of so many jobs
RESULTS = {"encode": "tokens/wide", "train": "runs/mar/seed0", "sample": "samples/mar/seed0/plain"}
WHAT = {"encode": ("*.npy", "manifest.json"), "train": ("ema.safetensors",), "sample": ("*.npy",)}
OPTIONS = {
    "encode": ["--tokenizer", "wide"],
    "train": ["--variant", "mar", "--seed", "0"],
    "sample": ["--variant", "mar", "--seed", "0", "--setting", "plain"],
}
OUTPUTS = {
    "encode": ["tokens/wide/train/manifest.json", "tokens/wide/heldout/manifest.json"],
    "train": ["runs/mar/seed0/ema.safetensors", "runs/mar/seed0/run.json"],
    "sample": ["samples/mar/seed0/plain/manifest.json"],
}


DOCUMENT = """# Faults on a real Slurm, and what became of each

    tests/cluster/slurm.sh install && tests/cluster/slurm.sh start
    eval "$(tests/cluster/slurm.sh env)"; python tests/cluster/chaos.py --out docs/faults.md

wrote this page, with {version} on the test cluster: two nodes on one machine of {cores} cores, {jobs} cases at a time.
A stage is started by `mar launch --cluster slurm`, disturbed while it works, and the same command is repeated until it
succeeds. `encode` and `sample` are arrays of two jobs, `train` is one. The table may come from several calls: with
`--work FOLDER` of an earlier one only the cases that failed there are repeated.

- *calls*: how often the command was typed. One call means that it went on by itself.
- *jobs*: submissions; what Slurm puts back into its queue keeps its id and counts once.
- *submitted twice*: submissions made while another of the same work was alive, or after one had done it.
- *equal*: the files of the stage are those of an undisturbed run without Slurm, to the bit: token files with their
  manifests, averaged weights, images.
- *seconds*: from the first call to the last, several cases sharing the machine.

What no fault injected here can show, since there is no GPU: a training on GPUs gives up a sum over its processes after
10 minutes (`TIMEOUT` in `mar/runtime/distributed.py`), so a dead link costs no more. What the first process does alone,
as checking tokens, may take hours (`PATIENCE`); the others wait for it in a group of their own, by gloo. After an error
no process takes its groups down, which would wait for the others, who may wait for it in a sum: it cuts them off and
ends, and the launcher ends the rest (`srun --kill-on-bad-exit`, `torchrun`). Checkpoints are written beside the
training; what a training that is killed meanwhile has left is the one before.

{table}
"""


def mar(root: Path, stage: str, *options: str) -> list[str]:
    """The arguments of a stage."""
    return ["--threads", "1", stage, "--study", str(root / "study.json"), *(options or OPTIONS.get(stage, ()))]


def digest(root: Path, stage: str) -> str:
    """Names and bytes of a stage's results."""
    total = hashlib.sha256()
    files = {file for pattern in WHAT[stage] for file in (root / RESULTS[stage]).rglob(pattern)}
    for file in sorted(files):
        total.update(file.relative_to(root).as_posix().encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


class Case:
    """One stage, disturbed once."""

    def __init__(
        self, stage: str, name: str, fault: Callable[[Case], None], *options: str, alone: bool = False
    ) -> None:
        self.stage, self.name, self.fault, self.alone, self.options = stage, name, fault, alone, options
        self.title, self.calls, self.path = f"{stage}: {name}", 0, ""
        self.environment: dict[str, str] = {}
        self.head: subprocess.Popen[bytes] | None = None

    def place(self, folder: Path, prepared: Path) -> None:
        """Copy what the stage needs; its own results and those of later stages are not there."""
        self.root = folder / "results" / "chaos"
        drop = [RESULTS[stage].split("/")[0] for stage in STAGES[STAGES.index(self.stage) :]]
        shutil.copytree(prepared, self.root, ignore=lambda at, names: drop if Path(at) == prepared else [])
        study = self.root / "study.json"
        study.write_text(study.read_text())
        self.job = self.root / "jobs" / self.stage
        self.log = open(folder / "log.txt", "w")  # noqa: SIM115

    def call(self) -> subprocess.Popen[bytes]:
        """Start the command, the same each time."""
        self.calls += 1
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
        if self.path:
            environment["PATH"] = f"{self.path}:{environment['PATH']}"
            self.path = ""
        shards = [f"--slurm-shards={SHARDS[self.stage]}"] if self.stage in SHARDS else []
        outputs = " ".join(str(self.root / output) for output in OUTPUTS[self.stage])
        command = ["launch", "--cluster", "slurm", "--folder", str(self.job), "--outputs", outputs]
        self.head = subprocess.Popen(
            [sys.executable, "-m", "mar.cli", *command, *shards, *self.options, "--", *mar(self.root, self.stage)],
            stdout=self.log, stderr=self.log, env=environment, start_new_session=True,
        )  # fmt: skip
        return self.head

    def record(self) -> dict:
        """The job's record."""
        return json.loads((self.job / "job.json").read_text())

    def at_work(self, seconds: float = 600.0) -> None:
        """Start the command and wait until a job of ours does its work."""
        self.call()
        self.until(self.working, seconds)

    def alive(self) -> bool:
        """Whether Slurm still has a job of ours."""
        jobs = subprocess.run(["squeue", "-h", "--me", "-o", "%k"], capture_output=True, text=True, check=True).stdout
        return f"mar-{self.record()['hash']}-" in jobs

    def working(self) -> bool:
        """Whether the work has begun."""
        if self.stage == "train":
            return (self.root / RESULTS["train"] / "metrics.jsonl").exists()
        if self.stage == "sample":
            return any((self.root / RESULTS["sample"]).glob("chunk-*.npy"))
        return any((self.root / RESULTS["encode"] / "train").glob(".shard-*.tmp"))

    def until(self, condition: Callable[[], object], seconds: float = 600.0) -> None:
        """Wait for something."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.stage}, {self.name}: waited {seconds} s")
            time.sleep(0.05)

    def kill_head(self) -> None:
        """SIGKILL to the launcher and its group."""
        os.killpg(self.head.pid, signal.SIGKILL)
        self.head.wait()

    def slurm(self, *command: str) -> None:
        """Do something to the first job of ours."""
        subprocess.run([*command, self.record()["jobs"][0]], check=True, capture_output=True)

    def node(self) -> str:
        """Number of the node of the first job of ours; nothing while it has none."""
        command = ["squeue", "-h", "-o", "%N", "-j", self.record()["jobs"][0]]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()[-1:]

    def processes(self, word: str) -> list[int]:
        """Processes of ours whose command line has a word."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if word in line and (str(self.job) in line or "slurm_script" in line) and "srun" not in line:
                found.append(int(entry.name))
        return found

    def run(self, folder: Path, prepared: Path, reference: str) -> dict:
        """Disturb, repeat, compare."""
        start, self.since = time.monotonic(), int(time.time())
        self.place(folder, prepared)
        error = ""
        try:
            self.fault(self)
            while True:
                if self.head.wait(timeout=600) == 0 or self.calls >= 4:
                    break
                self.call()
        except Exception:
            error = traceback.format_exc(limit=-2)
        self.log.close()
        whole = digest(self.root, self.stage) == reference
        done = self.head.returncode == 0 and not error
        return {
            "stage": self.stage, "fault": self.name, "calls": self.calls, "equal": whole, "ok": done and whole,
            "error": error, "seconds": round(time.monotonic() - start),
        }  # fmt: skip

    def accounted(self) -> bool:
        """Whether the accounting has the end of the last job; it is late, and has no comment before that."""
        command = ["sacct", "-X", "-n", "-P", "-o", "End,Comment", "-j", self.record()["jobs"][-1]]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.split()
        ends = [line.split("|", 1) for line in lines]
        return bool(ends) and all(end != "Unknown" and comment for end, comment in ends)

    def submissions(self) -> dict:
        """How many submissions, and how many of them while an earlier one worked or after one had done it all."""
        fields = "JobID,Submit,End,Comment"
        out = subprocess.run(
            ["sacct", "-X", "-n", "-P", "-S", "now-3hours", "-o", fields], capture_output=True, text=True
        ).stdout
        jobs: dict[str, list[tuple[float, float, object]]] = {}
        for line in out.splitlines():
            number, submit, end, comment = [*line.split("|", 3), "", "", ""][:4]
            if comment.startswith(f"mar-{self.record()['hash']}-") and end != "Unknown":
                times = [datetime.fromisoformat(t).timestamp() for t in (submit, end)]
                if times[0] < self.since:
                    continue  # of an earlier call of this script
                outcome = read_outcome(self.job, number)
                if outcome:  # its process ends a moment after its work
                    times[1] = min(times[1], outcome_file(self.job, number).stat().st_mtime)
                status = outcome.status if outcome else None
                jobs.setdefault(number.split("_")[0], []).append((*times, status))
        ordered, all_shards = [jobs[number] for number in sorted(jobs, key=int)], SHARDS.get(self.stage, 1)
        twice = sum(
            new[0][0] < int(max(end for _, end, _ in old))  # Slurm's times are whole seconds
            or (len(old) == all_shards and all(status == 0 for *_, status in old))
            for old, new in itertools.pairwise(ordered)
        )
        return {"jobs": len(jobs), "submitted twice": twice}


def program(case: Case, name: str, text: str) -> None:
    """A program before Slurm's own, for the next call."""
    folder = Path(tempfile.mkdtemp(dir=case.root))
    file = folder / name
    file.write_text(text)
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    case.path = str(folder)


def head(case: Case) -> None:
    case.at_work()
    case.kill_head()
    case.call()


def head_and_end(case: Case) -> None:
    case.at_work()
    case.kill_head()
    case.until(lambda: (case.job / "kept-0").exists())
    for output in OUTPUTS[case.stage]:  # as the workflow does with what it takes for incomplete
        (case.root / output).unlink()
    case.call()


def cut_submission(after: bool) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        program(case, "sbatch", f"#!/bin/sh\n{shutil.which('sbatch') + ' $@' if after else ''}\nkill -9 $PPID\n")
        case.call().wait(timeout=600)
        case.call()

    return fault


def kill(word: str) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        case.at_work()
        if word == "slurm_script":
            job = case.record()["jobs"][0]
            subprocess.run(["scancel", "--batch", "--signal=KILL", job], check=True)
        else:
            os.kill(case.processes(word)[0], signal.SIGKILL)

    return fault


def slurm(*command: str, times: int = 1) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        case.at_work()
        for count in range(times):
            log = case.job / f"{case.record()['jobs'][0]}_0_log.out"
            if count:
                case.until(lambda: log.read_text().count("going on after") == count)  # noqa: B023
            case.slurm(*command)

    return fault


def truncate(pattern: str) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        case.call()
        folder = case.root / RESULTS[case.stage]
        case.until(lambda: any(folder.rglob(pattern)))
        case.slurm("scancel")
        case.head.wait(timeout=600)
        file = sorted(folder.rglob(pattern))[-1]
        os.truncate(file, file.stat().st_size // 2)
        case.call()

    return fault


def full_disk(size: str) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        folder = case.root / RESULTS[case.stage]
        folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
        try:
            if case.call().wait(timeout=600) == 0:
                raise RuntimeError("the disk was not full")
            if "make space" not in Path(case.log.name).read_text():
                raise RuntimeError("a full disk was not told")
            subprocess.run(["mount", "-o", "remount,size=200m", str(folder)], check=True)
            case.call().wait(timeout=600)
            case.until(lambda: not case.alive())
            shutil.copytree(folder, folder.with_name("saved"))
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()
        folder.with_name("saved").rename(folder)

    return fault


def slots(case: Case) -> None:
    """No fault but the time limit of the job itself, on a machine that seems to be slow."""
    case.at_work()
    stop_until_warned(case.processes(RANK)[0], case.until)


def elsewhere(case: Case) -> None:
    """The daemon of a node dies alone: Slurm starts the job on the other node, and srun ends the first copy."""
    case.at_work()
    number, rank = case.node(), case.processes(RANK)[0]
    os.kill(rank, signal.SIGSTOP)  # or a fast machine is done before Slurm misses the node
    subprocess.run([HERE / "slurm.sh", "kill-slurmd", number], check=True)
    try:
        case.until(lambda: case.node() not in ("", number))
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank, signal.SIGCONT)
        case.head.wait(timeout=600)
    finally:
        subprocess.run([HERE / "slurm.sh", "start-node", number], check=True)


def node(verb: str) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        case.at_work()
        number = case.node()
        subprocess.run([HERE / "slurm.sh", verb, number], check=True)
        try:
            if verb == "kill-node":
                case.head.wait(timeout=600)
            else:
                time.sleep(5)
        finally:
            subprocess.run([HERE / "slurm.sh", "start-node", number], check=True)

    return fault


def no_answer(case: Case) -> None:
    case.at_work()
    case.kill_head()
    program(case, "squeue", '#!/bin/sh\n[ $(date +%s) -gt UNTIL ] && exec REAL "$@"\nexit 1\n'
            .replace("UNTIL", str(int(time.time()) + 12)).replace("REAL", str(shutil.which("squeue"))))  # fmt: skip
    case.call()


def quiet(until: float) -> str:
    """A condition of a shell: some seconds from now have not passed."""
    return f"[ $(date +%s) -le {int(time.time() + until)} ]"


def real(name: str) -> str:
    """A call of a program of Slurm itself."""
    return f'exec {shutil.which(name)} "$@"'


def empty_queue(case: Case) -> None:
    """The queue is empty for 12 seconds while the job runs, and says so with success."""
    over = "[ $(($(date +%s) - $(stat -c %Y $0.off))) -gt 12 ]"
    program(case, "squeue", f"#!/bin/sh\n[ ! -e $0.off ] || {over} || exit 0\n{real('squeue')}\n")
    switch = Path(case.path) / "squeue.off"
    case.at_work()
    switch.touch()


def strange_job(*options: str) -> str:
    """Submit a job that is none of ours; its id."""
    command = ["sbatch", "-o", "/dev/null", "--parsable", *options, "--wrap", "true"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def odd_lines(case: Case) -> None:
    """Another job has a comment with a line break, and the site prints a note."""
    strange_job("--comment", "a|b\nc|d|e|f|g|h|i|j|k", "--begin=now+9999")
    program(case, "squeue", f"#!/bin/sh\necho 'note: | the cluster | is down on Monday'\n{real('squeue')}\n")
    case.call().wait(timeout=600)


def late_answer(case: Case) -> None:
    """sbatch takes the job and then times out."""
    error = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    take = f'{shutil.which("sbatch")} "$@" > /dev/null'
    program(case, "sbatch", f"#!/bin/sh\n{take}\necho '{error}' >&2\nexit 1\n")
    case.call().wait(timeout=600)


def busy(error: str, seconds: float) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        refuse = f"{quiet(seconds)} && {{ echo 'sbatch: error: {error}' >&2; exit 1; }}"
        program(case, "sbatch", f"#!/bin/sh\n{refuse}\n{real('sbatch')}\n")
        case.call().wait(timeout=600)

    return fault


def chatty_sbatch(case: Case) -> None:
    program(case, "sbatch", f"#!/bin/sh\necho 'note: job 7 of yours waits'\n{real('sbatch')}\n")
    case.call().wait(timeout=600)


def cancelled_while_waiting(case: Case) -> None:
    """`mar cancel` while the head lives: the head ends too, and the same command goes on."""
    program(case, "sbatch", f'#!/bin/sh\nexec {shutil.which("sbatch")} --hold "$@"\n')
    case.call()
    case.until(lambda: (case.job / "job.json").exists() and case.record()["jobs"])
    command = [sys.executable, "-m", "mar.cli", "cancel", "--study", str(case.root / "study.json")]
    subprocess.run(command, check=True, capture_output=True)
    if case.head.wait(timeout=120) == 0 or case.alive():
        raise RuntimeError("a cancelled job was submitted again")
    case.call()


def record(change: Callable[[Case], None]) -> Callable[[Case], None]:
    """Something happens to job.json while no head lives."""

    def fault(case: Case) -> None:
        case.at_work()
        case.kill_head()
        change(case)
        case.call()

    return fault


def emptied(case: Case) -> None:
    (case.job / "job.json").write_bytes(b"")


def strangers(case: Case) -> None:
    """job.json is of another cluster, and its id belongs to somebody else here."""
    other = strange_job("--begin=now+9999")
    said = case.record()
    case.slurm("scancel")
    case.until(lambda: not case.alive())
    said |= {"job": other, "jobs": [other], "token": said["token"][:-8] + "00000000"}
    (case.job / "job.json").write_text(json.dumps(said))


def stale_outcomes(case: Case) -> None:
    """Ids were counted anew: outcomes and results of earlier jobs lie where those of the next ones will."""
    case.job.mkdir(parents=True)
    last = int(strange_job())
    for number in range(last + 1, last + 40):
        for job in [str(number), *(f"{number}_{shard}" for shard in range(2))]:
            (case.job / f"{job}_0_outcome.json").write_text('{"format": 1, "status": 0}')
            (case.job / f"{job}_0_result.pkl").write_bytes(b"old")
            (case.job / f"{job}_submitted.pkl").write_bytes(b"old")
    case.call().wait(timeout=600)


def variables(**values: str) -> Callable[[Case], None]:
    def fault(case: Case) -> None:
        case.environment = values
        case.call().wait(timeout=600)

    return fault


def no_scontrol(case: Case) -> None:
    """The job runs where Slurm's clients are not, as in a container, and is warned."""
    case.at_work()
    case.slurm("scancel", "--signal=USR2")


def controller(seconds: float) -> Callable[[Case], None]:
    """The controller is away while a stage is submitted."""

    def fault(case: Case) -> None:
        pid = int((CLUSTER / "run" / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            case.call()
            time.sleep(seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
        case.head.wait(timeout=600)

    return fault


def no_requeue(case: Case) -> None:
    case.at_work()
    job = case.record()["jobs"][0]
    subprocess.run(["scontrol", "update", f"JobId={job}", "Requeue=0"], check=True)
    case.slurm("scancel", "--signal=USR2")


RANK = "submitit.core._submit"
CLUSTER = Path(os.environ.get("MAR_SLURM_DIR", f"/tmp/mar-slurm-{os.getuid()}"))
OUTSIDE = ("--slurm-python", f"env PATH=/nowhere {sys.executable}")  # as a container, without Slurm's clients
SNAKEMAKE = {"OMP_NUM_THREADS": "0", "MKL_NUM_THREADS": "0"}  # what it exports for a rule without threads
LIMIT = ("--slurm-time=2", "--slurm-signal=30")  # Slurm warns up to half a minute earlier
CASES = [
    Case("train", "SIGKILL of the head", head),
    Case("train", "SIGKILL of the head; the job ends unwatched, outputs deleted", head_and_end),
    Case("train", "SIGKILL of the head before sbatch", cut_submission(after=False)),
    Case("train", "SIGKILL of the head between sbatch and the record", cut_submission(after=True)),
    Case("train", "SIGKILL of the head, then Slurm does not answer for 12 s", no_answer),
    Case("train", "SIGKILL of a rank", kill(RANK)),
    Case("train", "SIGKILL of the batch script", kill("slurm_script")),
    Case("train", "scancel", slurm("scancel")),
    Case("train", "scontrol requeue, twice", slurm("scontrol", "requeue", times=2)),
    Case("train", "warning (SIGUSR2), twice", slurm("scancel", "--signal=USR2", times=2)),
    Case("train", "warning (SIGUSR2) where requeues are forbidden", no_requeue),
    Case("train", "time limit of 2 minutes", slots, *LIMIT),
    Case("train", "newest checkpoint truncated", truncate("checkpoints/*.pt")),
    Case("train", "disk full (100 kB tmpfs)", full_disk("100k")),
    Case("train", "threads of Snakemake's export", variables(**SNAKEMAKE), "--slurm-cpus-per-task=1"),
    Case("train", "sbatch --export=NONE", variables(), "--slurm-extra=--export=NONE"),
    Case("train", "squeue empty for 12 s", empty_queue),
    Case("train", "squeue prints a note; a comment with a line break", odd_lines),
    Case("train", "sbatch takes the job and times out", late_answer),
    Case("train", "sbatch refused for 20 s: no controller", busy("Unable to contact slurm controller", 20)),
    Case("train", "sbatch prints `job 7`", chatty_sbatch),
    Case("train", "mar cancel while it waits", cancelled_while_waiting),
    Case("train", "job.json empty, the job alive", record(emptied)),
    Case("train", "job.json of another cluster, its id taken here", record(strangers)),
    Case("train", "outcomes of earlier jobs with the next ids", stale_outcomes),
    Case("train", "warning (SIGUSR2) in a container without scontrol", no_scontrol, *OUTSIDE),
    Case("encode", "SIGKILL of the head", head),
    Case("encode", "SIGKILL of the head; the array ends unwatched, outputs deleted", head_and_end),
    Case("encode", "SIGKILL of the head between sbatch and the record", cut_submission(after=True)),
    Case("encode", "SIGKILL of one shard", kill(RANK)),
    Case("encode", "scancel of one shard", slurm("scancel")),
    Case("encode", "scontrol requeue of one shard", slurm("scontrol", "requeue")),
    Case("encode", "token file truncated", truncate("shard-*.npy")),
    Case("encode", "mar cancel while the array waits", cancelled_while_waiting),
    Case("encode", "outcomes of earlier jobs with the next ids", stale_outcomes),
    Case("encode", "disk full (60 kB tmpfs)", full_disk("60k")),
    Case("sample", "SIGKILL of the head", head),
    Case("sample", "SIGKILL of the head; the array ends unwatched, outputs deleted", head_and_end),
    Case("sample", "SIGKILL of the head between sbatch and the record", cut_submission(after=True)),
    Case("sample", "SIGKILL of one shard", kill(RANK)),
    Case("sample", "scancel of one shard", slurm("scancel")),
    Case("sample", "scontrol requeue of one shard", slurm("scontrol", "requeue")),
    Case("sample", "warning (SIGUSR2) to one shard", slurm("scancel", "--signal=USR2")),
    Case("sample", "chunk truncated", truncate("chunk-*.npy")),
    Case("sample", "squeue empty for 12 s", empty_queue),
    Case("sample", "sbatch takes the array and times out", late_answer),
    Case("sample", "limit on submitted jobs for 20 s", busy("AssocGrpSubmitJobsLimit", 20)),
    Case("sample", "job.json empty, the array alive", record(emptied)),
    Case("sample", "disk full (30 kB tmpfs)", full_disk("30k")),
    Case("train", "no controller for 30 s while it is submitted", controller(30), alone=True),
    Case("train", "slurmd dead for 5 s", node("kill-slurmd"), alone=True),
    Case("train", "slurmd dead until Slurm started the job on the other node", elsewhere, alone=True),
    Case("train", "node dead, back after the job went on", node("kill-node"), alone=True),
]


def prepare(folder: Path) -> tuple[Path, dict[str, str]]:
    """The undisturbed run, and the digests of its stages; made once."""
    import pipeline

    recipe = {**pipeline.VALUES["recipes"]["short"], **STUDY["recipes"]["short"]}
    wide = {**pipeline.VALUES["tokenizers"]["kl"], **STUDY["tokenizers"]["wide"]}
    tokenizers = {**pipeline.VALUES["tokenizers"], "wide": wide}
    study = pipeline.study(**{**STUDY, "recipes": {"short": recipe}, "tokenizers": tokenizers})
    root = pipeline.root(folder, study)
    commands = [mar(root, verb, "--tokenizer", name) for name in ("kl", "wide") for verb in ("tokenizer", "encode")]
    if (root / OUTPUTS["sample"][0]).exists():
        return root, {stage: digest(root, stage) for stage in STAGES}
    for command in (mar(root, "prepare"), *commands, mar(root, "train"), mar(root, "sample")):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "mar.cli", *command], check=True, stdout=subprocess.DEVNULL)
        print(f"undisturbed: {' '.join(command[2:3] + command[5:])}, {time.monotonic() - start:.0f} s", flush=True)
    return root, {stage: digest(root, stage) for stage in STAGES}


def main() -> int:
    """Run the cases, print the table, and write it where `--out` says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", default="", help="cases with this in their stage and name")
    parser.add_argument("--jobs", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder of an earlier call: what left no trace there is not repeated")
    arguments = parser.parse_args()
    cases = [case for case in CASES if arguments.only in case.title]
    work = arguments.work or Path(tempfile.mkdtemp(prefix="mar-chaos-"))
    print(f"in {work}", flush=True)
    memory = work / "rows.json"
    rows: dict[str, dict] = json.loads(memory.read_text()) if memory.exists() else {}
    todo = [case for case in cases if not rows.get(case.title, {}).get("ok")]
    prepared, reference = prepare(work / "undisturbed")

    one_at_a_time = threading.Lock()

    def run(case: Case) -> None:
        folder = work / re.sub(r"[^\w.=-]+", "-", case.title)  # PYTHONPATH is cut at colons
        shutil.rmtree(folder, ignore_errors=True)
        row = case.run(folder, prepared, reference[case.stage])
        with contextlib.suppress(TimeoutError):  # then too few submissions are counted, and the case fails
            case.until(case.accounted, 120)
        row |= case.submissions()
        row["ok"] = bool(row["ok"] and row["jobs"] and not row["submitted twice"])
        print(json.dumps({**row, "log": str(folder / "log.txt")}), flush=True)
        with one_at_a_time:
            rows[case.title] = row
            write_json(memory, rows)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(run, [case for case in todo if not case.alone]))
    for case in todo:
        if case.alone:
            run(case)
    columns = ("stage", "fault", "calls", "jobs", "submitted twice", "equal", "seconds")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for case in cases:
        shown = {**rows[case.title], "equal": "yes" if rows[case.title]["equal"] else "NO"}
        lines.append(f"| {' | '.join(str(shown[column]) for column in columns)} |")
    bad = sum(not rows[case.title]["ok"] for case in cases)
    lines += ["", f"{len(cases) - bad} of {len(cases)} left no trace."]
    print("\n".join(lines))
    if arguments.out:
        version = subprocess.run(["sinfo", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        arguments.out.write_text(
            DOCUMENT.format(version=version, cores=os.cpu_count(), jobs=arguments.jobs, table="\n".join(lines))
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
