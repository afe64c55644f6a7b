"""Why a job failed is told apart, with the last lines of its log and what to change."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from place import Place, finish

KINDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "refuse": (["refuse"], {}),
    "break": (["break"], {}),
    "full": (["full"], {}),
    "vanish": (["vanish"], {}),
    "memory": (["memory"], {"mem": 200}),
    "cancel": (["sleep", "60"], {}),
    "raise": (["train", "20", "1", "raise"], {"gpus_per_node": 2}),
    "kill": (["train", "20", "1", "kill"], {"gpus_per_node": 2}),
}


@pytest.fixture(scope="module")
def ended(slurm: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """Jobs that fail, each in its way, at the same time: exit status, output and errors of their launchers."""
    places = {name: Place(tmp_path_factory.mktemp(name)) for name in KINDS}
    heads = {name: places[name].start(*KINDS[name][0], slurm=KINDS[name][1]) for name in KINDS}
    places["cancel"].wait_for(places["cancel"].runs)
    subprocess.run(["scancel", places["cancel"].record()["job"]], check=True)
    return {name: finish(head) for name, head in heads.items()}


@pytest.mark.parametrize(
    ("name", "reason", "line"),
    [
        ("refuse", "FAILED", "  Error: a mistake"),
        ("break", "rank 0 raised RuntimeError: a bug", "  RuntimeError: a bug"),
        ("full", "make space, then run the same command", "  OSError: [Errno 28] No space left on device"),
        ("vanish", "Exited with exit code 3", "  hello from vanish"),
        ("memory", "OUT_OF_MEMORY (node", "  hello from memory"),
        ("cancel", "CANCELLED", "  hello from sleep"),
        ("raise", "rank 1 raised RuntimeError: a bad rank", "  RuntimeError: a bad rank"),
        ("kill", "rank 1 on node", "  hello from train"),
    ],
)
def test_a_failure_is_told(ended: dict[str, tuple[int, str, str]], name: str, reason: str, line: str) -> None:
    status, out, err = ended[name]
    assert status == 1, out
    assert reason in err, err
    assert any(found.startswith(line) for found in err.splitlines()), err
    assert "last lines of" in err


def test_a_killed_rank_is_named(ended: dict[str, tuple[int, str, str]]) -> None:
    assert ": Killed; see the log; the same command goes on" in ended["kill"][2]


def test_memory_names_the_setting_to_change(ended: dict[str, tuple[int, str, str]]) -> None:
    assert "`mem_mb`" in ended["memory"][2]


def test_sbatch_that_refuses_is_told_in_one_line(place: Any) -> None:
    status, _, err = place.run("greet", slurm={"partition": "nothing"})
    assert status == 1 and "sbatch refuses" in err and "invalid partition" in err
    status, _, err = place.run("greet", slurm={"gpus_per_node": 3})
    assert status == 1 and "sbatch refuses" in err
    assert place.record()["state"] == "failed"
