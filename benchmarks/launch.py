"""Seconds of a job that does nothing (`mar schema`) through `mar launch`, from the call to its end.

Each call starts a new Python, as from a shell; the first row is the same command without a launcher. Slurm is measured
where one answers, and should be idle: these numbers are to hold no waiting in a queue.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tables import Parts, Table

REPEATS = 10


def report() -> Parts:
    """The table of the launchers."""
    ways = ["local", "debug", *(["slurm"] if answers() else [])]
    with tempfile.TemporaryDirectory(prefix="mar-launch-", dir=Path.cwd()) as folder:
        # The ways take turns, so that other load on the machine falls on all of them.
        seconds = {way: [0.0] * REPEATS for way in ("without", *ways)}
        for number in range(REPEATS):
            for way in seconds:
                seconds[way][number] = measure(way, Path(folder))
    without_launcher = statistics.median(seconds["without"])
    found = Table(
        head=["launcher", "n", "median s", "min to max s", "over the bare command, s"],
        form=["", ".0f", ".2f", "", ".2f"],
        rows=[
            [
                way,
                REPEATS,
                measured,
                f"{min(measured):.2f} to {max(measured):.2f}",
                statistics.median(measured) - without_launcher if way != "without" else "",
            ]
            for way, measured in seconds.items()
        ],
    )
    missing = "slurm: not measured, none answers here (tests/cluster/slurm.sh starts one for tests)"
    return [found, *([missing] if "slurm" not in ways else [])]


def answers() -> bool:
    """Whether a Slurm controller answers."""
    return bool(shutil.which("sinfo")) and not subprocess.run(["sinfo", "-h"], capture_output=True).returncode


def measure(way: str, folder: Path) -> float:
    """Seconds of one call."""
    command = ["schema", "--out", str(folder / "schema.json")]
    if way != "without":
        command = ["launch", "--cluster", way, "--folder", str(folder / way), "--", *command]
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "mar.cli", *command], check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return time.monotonic() - start
