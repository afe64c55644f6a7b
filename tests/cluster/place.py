"""A folder with a copy of the package whose commands do almost nothing, and launchers in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "mar"

# Commands that a test wants: each says in runs.txt that it starts and ends, by job and rank.
CLI = """
import os, sys, time
from mar.runtime import stop_signals

def note(word):
    with open("runs.txt", "a") as runs:
        job = os.environ.get("SLURM_ARRAY_TASK_ID", "") + ":" + os.environ["SLURM_JOB_ID"]
        rank, restarts = os.environ.get("SLURM_PROCID"), os.environ.get("SLURM_RESTART_COUNT", 0)
        runs.write(f"{word} {job} {rank} {restarts} {time.time()}\\n")

def main(arguments, prog_name):
    while arguments[0].startswith("--"):
        arguments = arguments[2:]
    verb, *rest = arguments
    rank = int(os.environ.get("SLURM_PROCID", 0))
    note("start")
    print("hello from", verb, os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    if verb == "sleep":
        print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
    if verb == "sleep":
        time.sleep(float(rest[0]))
        open("done", "w").close()
    if verb == "refuse":
        print("Error: a mistake", file=sys.stderr)
        raise SystemExit(1)
    if verb == "break":
        raise RuntimeError("a bug")
    if verb == "full":
        raise OSError(28, "No space left on device")
    if verb == "vanish":
        os._exit(3)
    if verb == "deaf":
        import signal
        for number in (signal.SIGUSR2, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(300)
    if verb == "memory":
        block = b"x" * 400_000_000
        time.sleep(30)
    if verb == "train":  # N steps of 0.2 s, then a result that tells how it got there; rank R fails or dies at step 5
        steps, bad, how = int(rest[0]), *(rest[1:] or [-1, ""])
        state = open("state").read().split() if os.path.exists("state") else []
        while len(state) < steps:
            state.append(str(len(state)))
            time.sleep(0.2)
            if rank == int(bad) and len(state) == 5:
                if how == "raise":
                    raise RuntimeError("a bad rank")
                os.kill(os.getpid(), 9)
            if stop_signals.asked():
                if rank == 0:
                    with open("state.tmp", "w") as file:
                        file.write(" ".join(state))
                    os.replace("state.tmp", "state")
                note("left")
                raise SystemExit(stop_signals.LEFT)
        if rank == 0:
            open("done", "w").write(" ".join(state))
    if verb == "sample":  # a share of ten chunks; the one that makes the last writes the manifest
        import glob
        shard, shards = int(rest[-2]), int(rest[-1])
        for chunk in range(shard, 10, shards):
            if os.path.exists(f"fail-{chunk}"):
                raise RuntimeError(f"chunk {chunk} fails")
            open(f"chunk-{chunk}", "w").close()
            time.sleep(0.2)
        if len(glob.glob("chunk-*")) == 10:
            open("done", "w").close()
    note("end")
"""
RUN = """
import json, sys
from mar.cluster.launch import Slurm, launch
options = json.loads(sys.argv[1])
slurm = Slurm(**{"gpus_per_node": 1, "device": "cpu", **options.pop("slurm", {})})
try:
    sys.exit(launch(sys.argv[2:], "job", options.pop("cluster", "slurm"), slurm=slurm, **options))
except ValueError as error:
    sys.exit(f"Error: {error}")
"""


class Place:
    """A working folder with a copy of the package, whose commands are those above."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head: subprocess.Popen[str] | None = None
        for package in ("cluster", "runtime"):
            shutil.copytree(SOURCE / package, folder / "mar" / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(SOURCE / "__init__.py", folder / "mar")
        remote = folder / "mar" / "cluster" / "slurm_launch.py"
        remote.write_text(remote.read_text().replace("GRACE = 20.0", "GRACE = 4.0"))
        (folder / "mar" / "cli").mkdir()
        (folder / "mar" / "cli" / "__main__.py").write_text(CLI)
        (folder / "torch.py").write_text("raise AssertionError('the launcher imported torch')")
        self.environment = {**os.environ, "PYTHONPATH": str(folder)}

    def start(
        self, *command: str, path: Path | None = None, under: Path | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a launcher; `path` holds programs that come before Slurm's, `under` is a program that starts it."""
        environment = dict(self.environment)
        if path:
            environment["PATH"] = f"{path}:{environment['PATH']}"
        return subprocess.Popen(
            [
                *([under] if under else []),
                sys.executable,
                "-c",
                RUN,
                json.dumps({"recipe": str(self.folder), **options}),
                *command,
            ],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, **options: Any) -> tuple[int, str, str]:
        """Exit status, output and errors of a launcher."""
        return finish(self.start(*command, **options))

    def record(self) -> dict[str, Any]:
        """The job's record."""
        record: dict[str, Any] = json.loads((self.folder / "job" / "job.json").read_text())
        return record

    def runs(self, word: str = "start") -> list[list[str]]:
        """Starts or ends: job, rank, number of restarts, time."""
        file = self.folder / "runs.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.split()[1:] for line in lines if line.split()[0] == word]

    def wait_for(self, condition: Callable[[], Any], seconds: float = 40.0) -> Any:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{self.folder}: waited for {seconds} s"
            time.sleep(0.05)
        return value

    def submitted(self) -> list[str]:
        """Every job that was ever submitted from here, by the comment of its submission."""
        digest = self.record()["hash"]
        out = subprocess.run(
            ["squeue", "--me", "-h", "-t", "all", "-o", "%i %k"], capture_output=True, text=True, timeout=10
        ).stdout
        return sorted(line.split()[0] for line in out.splitlines() if f"mar-{digest}" in line)


def finish(launcher: subprocess.Popen[str], timeout: float = 150) -> tuple[int, str, str]:
    """Wait for a launcher."""
    try:
        out, err = launcher.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        out, err = launcher.communicate()
        raise AssertionError(f"the launcher does not end\n{out}\n{err}") from None
    return launcher.returncode, out, err
