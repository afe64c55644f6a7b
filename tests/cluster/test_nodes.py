"""A node dies, with all that runs on it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.long
def test_a_dead_node_is_told_where_slurm_may_not_requeue(slurm: Callable[..., str], place: Any) -> None:
    head = place.start("sleep", "100", slurm={"extra": "--no-requeue --nodelist=node1"})
    place.wait_for(place.runs)
    slurm("kill-node", "1")
    try:
        out, err = head.communicate(timeout=120)
        assert head.returncode == 1, out
        assert "NODE_FAIL" in err and "its node died" in err
    finally:
        slurm("start-node", "1")


def test_a_job_goes_on_elsewhere_when_its_node_dies(slurm: Callable[..., str], place: Any) -> None:
    head = place.start("train", "40")
    place.wait_for(place.runs)
    node = "1" if "node1" in state(place) else "2"
    slurm("kill-node", node)
    try:
        out, err = head.communicate(timeout=150)
        assert head.returncode == 0, out + err
        assert len(place.submitted()) == 1 and place.runs()[-1][2] == "1"
    finally:
        slurm("start-node", node)


def state(place: Any) -> str:
    job = place.record()["job"]
    return subprocess.run(["squeue", "-h", "-j", job, "-o", "%T %N"], capture_output=True, text=True).stdout
