"""A job that has to leave saves, and goes on from there until its work is done."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

WHOLE = " ".join(str(step) for step in range(60))


def signal_job(place: Any, *command: str) -> None:
    """Do something to the job once it runs anew."""
    count = len(place.runs("left"))
    place.wait_for(lambda: len(place.runs()) > count, 60)
    subprocess.run([*command, place.record()["job"]], check=True)


def check(place: Any, head: subprocess.Popen[str], starts: int, jobs: int = 1) -> str:
    out, err = head.communicate(timeout=180)
    assert head.returncode == 0, out + err
    assert (place.folder / "done").read_text() == WHOLE
    assert len(place.submitted()) == jobs
    assert len(place.runs()) == starts and len(place.runs("left")) == starts - 1
    return out


@pytest.mark.parametrize("name", ["USR1", "USR2"])
def test_a_warned_training_saves_and_goes_back_into_the_queue(place: Any, name: str) -> None:
    head = place.start("train", "60")
    signal_job(place, "scancel", f"--signal={name}")
    assert f"SIG{name}: leaving" in check(place, head, 2)


def test_a_requeued_training_saves_and_goes_on(place: Any) -> None:
    head = place.start("train", "60")
    for _ in range(2):
        signal_job(place, "scontrol", "requeue")
        place.wait_for(lambda: len(place.runs("left")) == len(place.runs()))
    check(place, head, 3)


def test_where_slurm_may_not_requeue_the_launcher_submits_again(place: Any) -> None:
    head = place.start("train", "60", slurm={"extra": "--no-requeue"})
    signal_job(place, "scancel", "--signal=USR2")
    out = check(place, head, 2, jobs=2)
    assert "ended before: LEFT; submitting again" in out


def test_a_warning_while_python_starts_is_no_failure(place: Any) -> None:
    # on its import, which is before the job can listen, once
    (place.folder / "mar" / "__init__.py").write_text(
        "import os, signal\n"
        "if 'SLURM_PROCID' in os.environ and not os.path.exists('warned'):\n"
        "    open('warned', 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGUSR2)\n"
    )
    status, out, err = place.run("train", "5")
    assert status == 0, err
    assert "ended before: WARNED_EARLY" in out
    assert len(place.submitted()) == 2 and len(place.runs("end")) == 1


def test_ranks_leave_together(place: Any) -> None:
    head = place.start("train", "60", slurm={"gpus_per_node": 2, "nodes": 2})
    place.wait_for(lambda: len(place.runs()) == 4)
    subprocess.run(["scancel", "--signal=USR2", place.record()["job"]], check=True)
    out, err = head.communicate(timeout=180)
    assert head.returncode == 0, out + err
    assert (place.folder / "done").read_text() == WHOLE
    assert len(place.runs()) == 8 and len(place.submitted()) == 1


def test_other_commands_leave_at_once_and_run_again(place: Any) -> None:
    head = place.start("sleep", "8")
    signal_job(place, "scancel", "--signal=USR2")
    out, err = head.communicate(timeout=120)
    assert head.returncode == 0, out + err
    assert len(place.runs()) == 2 and len(place.runs("end")) == 1 and len(place.submitted()) == 1
