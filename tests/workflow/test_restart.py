"""kill -9 of snakemake in the middle of a training: the same command goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

TARGET = ("results/smoke/runs/mar-diffloss/seed0/run.json", "--configfile", "config/smoke.yaml")


def test_the_same_command_goes_on_after_kill_9(project: Any) -> None:
    head = project.start(*TARGET, STUB_SLEEP="60")
    deadline = time.monotonic() + 60
    while not any(call.startswith("train ") for call in project.calls()):
        assert head.poll() is None and time.monotonic() < deadline, project.calls()
        time.sleep(0.1)
    os.kill(head.pid, signal.SIGKILL)
    head.wait()
    try:
        before = len(project.calls())
        output = project.snakemake(*TARGET)  # no --unlock
        assert "LockException" not in output
        assert project.calls()[before:] == [project.calls()[before - 1]]  # the training, nothing before it again
        assert (project.folder / TARGET[0]).exists()
        assert project.plan(*TARGET) == {}
    finally:
        with contextlib.suppress(ProcessLookupError):  # on a slow machine it has slept enough by now
            os.killpg(head.pid, signal.SIGKILL)  # the orphaned stub
