"""Head to tail: what starting a command, a job of Snakemake, and a job of `mar launch` take besides their work.

Commands: start to end, median of five. Planning: `snakemake -n` of every shipped study, our Snakefile as it is, without
results, median of two. Jobs: 500 that only touch their output, 100 chains of five rules with log, params and resources
like ours, `snakemake --cores 2` with our profile's settings. CPU seconds are of all processes; wall seconds are of
this machine as busy as it is.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.tables import Cell, Parts, Table
from mar.cluster import fork_server
from mar.cluster.job_process import THREADS
from mar.cluster.records import read_job

HERE = Path(__file__).parents[1]
RUNS, CHAINS = 5, 100
STAGES = ("train", "sample", "features", "statistics", "evaluate")
COMMANDS = ("--help", "plan --study config/digits.yaml", "schema", "jobs", "launch --help", "train --help")
SNAKEMAKE = [sys.executable, "-m", "snakemake"]
IMPORTS = {
    "torch": "import torch",
    "torch and its optimisers": "import torch, torch._dynamo",
    "torch and the networks of diffusers": "from diffusers import AutoencoderKL, VQModel",
}
WITHOUT = "images"  # a study that plans nothing until it is told where images are
RULE = """
rule {stage}:
    input: {source}
    output: "out/{{chain}}/{stage}.json"
    log: "out/{{chain}}/{stage}.log"
    threads: 1
    resources: cluster_jobs=1, nodes=0, gpus_per_node=0
    params: recipe='{{"chain": 1, "images": 1000}}'
    shell: "touch {{output}} 2>&1 | tee {{log}}"
"""


def report() -> Parts:
    """Tables of commands, of the planning of each shipped study, and of Snakemake."""
    mar = [sys.executable, "-c", "from mar.cli.__main__ import main; main()"]
    commands = Table(head=["`mar`", "wall s", "CPU s"], form=["", ".2f", ".2f"], rows=[])
    for command in COMMANDS:
        commands.rows.append([command, *repeated([*mar, *command.split()], HERE)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone = repeated([*mar, "schema"], folder)
        jobs = Table(
            head=["Snakemake and jobs", "jobs", "wall s", "CPU s", "CPU ms a job"],
            form=["", ".0f", ".2f", ".2f", ".0f"],
            rows=[row("`mar launch` of a command, less the command", 1, *launched(mar, folder, alone))],
        )
        with served():
            jobs.rows.append(row("the same, forked off a fork server", 1, *launched(mar, folder, alone)))
        for what, code in IMPORTS.items():
            jobs.rows.append(
                row(f"imports that a forked job is spared: {what}", 1, *repeated([sys.executable, "-c", code], folder))
            )
        empty = folder / "empty"
        empty.mkdir()
        source, rules = "[]", []
        for stage in STAGES:
            rules.append(RULE.format(stage=stage, source=source))
            source = f'"out/{{chain}}/{stage}.json"'
        wanted = f'rule all:\n    input: expand("out/{{chain}}/{STAGES[-1]}.json", chain=range({CHAINS}))\n'
        (empty / "Snakefile").write_text(wanted + "".join(rules), encoding="utf-8")
        settings = ["--cores", "2", "--nolock", "--rerun-triggers", "mtime", "input", "params", "--quiet", "all"]
        for what in ("jobs that do nothing", "the same call again: nothing to do"):
            jobs.rows.append(row(what, CHAINS * len(STAGES), *took([*SNAKEMAKE, *settings], empty)))
        for part in ("Snakefile", "workflow", "config", "profiles", "mar"):
            (folder / part).symlink_to(HERE / part)
        planned = Table(head=["planning", "jobs", "wall s", "CPU s", "CPU ms a job"], form=jobs.form, rows=[])
        for file in sorted((HERE / "config").glob("*.yaml")):
            if "\nstudy:" in file.read_text(encoding="utf-8") and file.stem != WITHOUT:
                planned.rows.append(plan(file.stem, folder))
    return [commands, planned, jobs]


def launched(mar: list[str], folder: Path, alone: tuple[list[float], list[float]]) -> list[float]:
    """Wall and CPU seconds of `mar launch` of a job, a process of its own, beyond those of its command alone."""
    runs = []
    for _ in range(RUNS):
        wall, cpu = took([*mar, "launch", "--folder", str(folder / "job"), "--", "schema"], folder)
        job = read_job(folder / "job")
        runs.append((wall, cpu + ((job.cpu_seconds if job else None) or 0.0)))
    return [
        statistics.median(values) - statistics.median(bare)
        for values, bare in zip(zip(*runs, strict=True), alone, strict=True)
    ]


@contextlib.contextmanager
def served() -> Iterator[None]:
    """With a fork server, as a workflow has it."""
    before = dict(os.environ)
    try:
        os.environ.pop(fork_server.ADDRESS, None)
        held = fork_server.begin(fork_server.FEW)
        assert held
        os.environ.update(dict.fromkeys(THREADS, "1"))
        while not Path(os.environ[fork_server.ADDRESS]).exists():
            time.sleep(0.1)
        yield
        os.close(held)
    finally:
        os.environ.clear()
        os.environ.update(before)


def plan(study: str, folder: Path) -> list[Cell]:
    """A row of the second table: `snakemake -n` of a shipped study, twice."""
    words = [*SNAKEMAKE, "-n", "--quiet", "rules", "--configfile", f"config/{study}.yaml"]
    runs = [told(words, folder) for _ in range(2)]
    count = next(int(line.split()[1]) for line in runs[0][0].splitlines() if line.startswith("total"))
    wall, cpu = ([seconds[clock] for _, seconds in runs] for clock in (0, 1))
    return row(study, count, wall, cpu)


def row(name: str, jobs: int, wall: Cell, cpu: Cell) -> list[Cell]:
    """A row of a table of jobs; several seconds are those of several calls."""
    middle = statistics.median(cpu) if isinstance(cpu, list) else cpu
    return [name, jobs, wall, cpu, 1000 * float(middle) / jobs]


def repeated(command: list[str], folder: Path) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of several calls."""
    runs = [took(command, folder) for _ in range(RUNS)]
    return [wall for wall, _ in runs], [cpu for _, cpu in runs]


def took(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command and of all that it started."""
    return told(command, folder)[1]


def told(command: list[str], folder: Path) -> tuple[str, tuple[float, float]]:
    """What a command printed, and its wall and CPU seconds."""
    start, before = time.perf_counter(), os.times()
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout + done.stderr, (time.perf_counter() - start, used)
