"""How far a running workflow is, by the work of its jobs, not their number: `demo: 38% of the work, about 9 min left`.

When the workflow starts, it writes what it has to make (steps.json). `mar launch` prints the line after a job now and
then, from the files that are there and from what `mar plan` expects (times.json), which is made in the background where
it is missing. The line is a service: whatever is wrong with it is no fault of a job. Most jobs end too early for one,
and import nothing that reads it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mar.study import layout

if TYPE_CHECKING:
    from mar.study.records import StepsRecord

SECONDS = 30.0  # between two lines at least, and a tenth of the time that has passed
EARLY = 20.0  # seconds from the start on, in which nothing is said


def begin(root: Path, outputs: dict[str, str]) -> None:
    """Write what a run of the workflow has to make.

    Args:
        root: folder of the study.
        outputs: a file of each job, by the job's stage and name.
    """
    from mar.runtime.files import write
    from mar.study.records import StepsRecord

    write(layout.steps(root), StepsRecord(started=time.time(), outputs=outputs))


@contextlib.contextmanager
def told(job: Path) -> Iterator[None]:
    """Around a job, by the folder of which the study is found: see to what `tell` needs, and tell after it."""
    roots = [parent.parent for parent in job.parents if parent.name == layout.jobs(Path()).name]
    root = next((root for root in roots if layout.steps(root).exists()), None)  # none outside the workflow
    if root:
        with contextlib.suppress(Exception):
            expect(root)
    yield
    if root:
        with contextlib.suppress(Exception):
            tell(root)


def expect(root: Path) -> None:
    """Have `mar plan` write what each job takes, in the background, where nobody has since the images were counted."""
    times, manifest = layout.times(root), layout.data_manifest(root)
    if times.exists() and times.stat().st_mtime >= manifest.stat().st_mtime:
        return
    started = layout.steps(root).with_name("steps.planned")
    if started.exists() and started.stat().st_mtime >= layout.steps(root).stat().st_mtime:
        return  # another job has asked in this run
    started.touch()
    command = [sys.executable, "-m", "mar.cli", "plan", "--study", str(layout.study(root))]
    subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


def tell(root: Path) -> None:
    """Print how far the workflow is, if nobody has for a while."""
    steps, now = layout.steps(root), time.time()
    quiet = now - steps.stat().st_mtime
    if quiet < SECONDS or not layout.times(root).exists():
        return

    from mar.runtime.files import read
    from mar.study.records import StepsRecord

    record = read(steps, StepsRecord)
    if quiet < (now - record.started) / 10:
        return
    if (line := text(root, record, now)) is not None:
        os.utime(steps)
        print(line, flush=True)


def text(root: Path, record: StepsRecord, now: float) -> str | None:
    """The line, at a time in seconds since 1970; none as long as nothing is known of the speed.

    The time that is left follows from the work that was done since the start and the time that it took, so that neither
    a busy machine nor more or fewer cores make it wrong. A job that runs counts by the time that it has been running.
    """
    from mar.cluster.records import read_job
    from mar.planning.minutes import corrections, span
    from mar.runtime.files import read
    from mar.study.records import TimesRecord

    factors, expected = corrections(root), read(layout.times(root), TimesRecord).seconds
    total = done = 0.0
    for name, output in record.outputs.items():
        seconds = expected.get(name, 0.0) * factors.get(name.partition("/")[0], 1.0)
        total += seconds
        with contextlib.suppress(FileNotFoundError):
            if os.stat(output).st_mtime >= record.started:
                done += seconds
                continue
        if (job := read_job(layout.job(root, name))) and job.state == "running":
            running = now - datetime.fromisoformat(job.submitted).timestamp()
            done += min(max(running, 0.0), 0.9 * seconds)
    elapsed = now - record.started
    if elapsed < EARLY or done <= 0 or total <= done:
        return None
    left = (total - done) * elapsed / done
    return f"{root.name}: {done / total:.0%} of the work, about {span(left)} left"
