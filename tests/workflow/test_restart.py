"""kill -9 and Ctrl-C of snakemake in the middle of a training: the same command goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import Any

TARGET = ("results/smoke/runs/mar-diffloss/seed0/run.json", "--configfile", "config/smoke.yaml")


def training(project: Any) -> subprocess.Popen[str]:
    """A run of snakemake whose training has begun."""
    head: subprocess.Popen[str] = project.start(*TARGET, STUB_SLEEP="3000")
    deadline = time.monotonic() + 300
    while not any(call.startswith("train ") for call in project.calls()):
        assert head.poll() is None and time.monotonic() < deadline, project.calls()
        time.sleep(0.1)
    return head


def test_a_second_call_leaves_and_ctrl_c_prints_no_commands_and_the_same_command_goes_on(project: Any) -> None:
    head = training(project)
    second = project.fails("results/smoke/claims.json", *TARGET[1:])
    assert f"results/smoke: snakemake works here already: process {head.pid} of user" in second
    assert "accepted: one at a time" in second and "Traceback" not in second
    os.killpg(head.pid, signal.SIGINT)  # as a terminal does
    output, _ = head.communicate(timeout=300)
    assert head.returncode != 0 and "Terminating processes on user request" in output
    assert "mar launch" not in output and "CalledProcessError" not in output
    project.snakemake(*TARGET)
    assert project.plan(*TARGET) == {}


def test_the_same_command_goes_on_after_kill_9(project: Any) -> None:
    head = training(project)
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
