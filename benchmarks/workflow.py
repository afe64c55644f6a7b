"""Overhead: the time that starting a command, a job of Snakemake and a job of `mar launch` takes beside its work.

Commands: start to end, median of five. Planning: `snakemake -n` of the shipped digits study, our Snakefile as it is,
without results. Jobs: 500 that only touch their output, 100 chains of five rules with log, params and resources like
ours, `snakemake --cores 2` with our profile's settings. CPU seconds are those of all processes; wall seconds depend on
what else the machine does.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
RUNS, CHAINS = 5, 100
STAGES = ("train", "sample", "features", "statistics", "evaluate")
COMMANDS = ("--help", "plan --study config/digits.yaml", "schema", "jobs", "launch --help", "train --help")
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


def report() -> str:
    """The tables of commands and of Snakemake."""
    lines = ["| `mar` | wall s | CPU s |", "|---|---|---|"]
    mar = [sys.executable, "-c", "from mar.cli.__main__ import main; main()"]
    for command in COMMANDS:
        wall, cpu = medians([*mar, *command.split()], HERE)
        lines.append(f"| {command} | {wall:.2f} | {cpu:.2f} |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        without_launcher = medians([*mar, "schema"], folder)
        runs = (
            seconds_of([*mar, "launch", "--folder", str(folder / f"job{i}"), "--", "schema"], folder) for i in range(3)
        )
        launched = [statistics.median(values) for values in zip(*runs, strict=True)]
        lines += ["", "| Snakemake and jobs | jobs | wall s | CPU s | CPU ms a job |", "|---|---|---|---|---|"]
        lines.append(
            row(
                "`mar launch` of a command, less the command",
                1,
                launched[0] - without_launcher[0],
                launched[1] - without_launcher[1],
            )
        )
        for part in ("Snakefile", "workflow", "config", "profiles", "mar"):
            (folder / part).symlink_to(HERE / part)
        snakemake = [sys.executable, "-m", "snakemake"]
        output, planning = run([*snakemake, "-n", "--quiet", "rules"], folder)
        count = next(int(line.split()[1]) for line in output.splitlines() if line.startswith("total"))
        lines.append(row("planning the digits study", count, *planning))
        empty = folder / "empty"
        empty.mkdir()
        source, rules = "[]", []
        for stage in STAGES:
            rules.append(RULE.format(stage=stage, source=source))
            source = f'"out/{{chain}}/{stage}.json"'
        target = f'rule all:\n    input: expand("out/{{chain}}/{STAGES[-1]}.json", chain=range({CHAINS}))\n'
        (empty / "Snakefile").write_text(target + "".join(rules))
        settings = ["--cores", "2", "--nolock", "--rerun-triggers", "mtime", "input", "params", "--quiet", "all"]
        lines.append(row("jobs that do nothing", CHAINS * len(STAGES), *seconds_of([*snakemake, *settings], empty)))
        lines.append(
            row("the same call again: nothing to do", CHAINS * len(STAGES), *seconds_of([*snakemake, *settings], empty))
        )
    return "\n".join(lines)


def row(name: str, jobs: int, wall: float, cpu: float) -> str:
    """A row of the second table."""
    return f"| {name} | {jobs} | {wall:.2f} | {cpu:.2f} | {1000 * cpu / jobs:.0f} |"


def medians(command: list[str], folder: Path) -> tuple[float, float]:
    """Medians of wall and CPU seconds over RUNS runs of a command."""
    runs = [seconds_of(command, folder) for _ in range(RUNS)]
    return statistics.median(wall for wall, _ in runs), statistics.median(cpu for _, cpu in runs)


def seconds_of(command: list[str], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of a command and of all that it started."""
    return run(command, folder)[1]


def run(command: list[str], folder: Path) -> tuple[str, tuple[float, float]]:
    """Output of a command, and its wall and CPU seconds."""
    start, before = time.perf_counter(), os.times()
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return done.stdout + done.stderr, (time.perf_counter() - start, used)
