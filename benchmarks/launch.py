"""Seconds of a job that does nothing (`mar schema`) through `mar launch`, from the call to its end.

The command is typed in a shell each time, so a start of Python is in it; the first row is the same without a launcher.
Slurm is measured where one answers, an idle one: waiting in a queue is not in these numbers.
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

REPEATS = 10


def report() -> str:
    """The table in Markdown."""
    ways = ["local", "debug", *(["slurm"] if answers() else [])]
    with tempfile.TemporaryDirectory(prefix="mar-launch-", dir=Path.cwd()) as folder:
        # in turns, so that what else the machine does falls on all of them
        seconds = {way: [0.0] * REPEATS for way in ("without", *ways)}
        for number in range(REPEATS):
            for way in seconds:
                seconds[way][number] = measure(way, Path(folder))
    bare = statistics.median(seconds["without"])
    lines = ["| launcher | n | median s | min to max s | over the bare command, s |", "|---|---|---|---|---|"]
    for way, found in seconds.items():
        median, over = statistics.median(found), statistics.median(found) - bare
        shown = "" if way == "without" else f"{over:.2f}"
        lines.append(f"| {way} | {REPEATS} | {median:.2f} | {min(found):.2f} to {max(found):.2f} | {shown} |")
    if "slurm" not in ways:
        lines.append("\nslurm: not measured, none answers here (tests/cluster/slurm.sh starts one for tests)")
    return "\n".join(lines)


def answers() -> bool:
    """Whether there is a Slurm that can be asked."""
    return bool(shutil.which("sinfo")) and not subprocess.run(["sinfo", "-h"], capture_output=True).returncode


def measure(way: str, folder: Path) -> float:
    """Seconds of one call."""
    command = ["schema", "--out", str(folder / "schema.json")]
    if way != "without":
        command = ["launch", "--cluster", way, "--folder", str(folder / way), "--", *command]
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "mar.cli", *command], check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return time.monotonic() - start
