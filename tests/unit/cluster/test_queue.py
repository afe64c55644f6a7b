"""What Slurm prints is read line by line, whatever stands between the lines; one look serves many launchers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mar.cluster import queue
from mar.cluster.queue import State

TIMES = "2026-11-29T07:00:00|2026-11-29T06:00:00"
SCRIPT = "/data/jobs/train/mar-0123456789abcdef-00000001.sh"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a program of Slurm before all others on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def program(name: str, text: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)

    return program


def printing(tmp_path: Path, *lines: bytes) -> str:
    """A line of shell that prints these bytes."""
    (tmp_path / "printed").write_bytes(b"\n".join(lines) + b"\n")
    return f"cat {tmp_path / 'printed'}"


def test_odd_lines_hide_no_job(program: Any, tmp_path: Path) -> None:
    program(
        "squeue",
        printing(
            tmp_path,
            b"Note: the cluster goes down on Monday | see the page",
            f"7|N/A|RUNNING|None|node1|ann|{TIMES}|{SCRIPT}|two".encode(),
            b"lines | of a comment",
            f"8|N/A|PENDING|Priority||ann|N/A|2026|/x|{'|' * 5}".encode(),
            b"9|N/A|RUNNING|None|node2|an\xff|a|b|c|\xfe",
            b"",
            b"|||||||||",
            f"12|3|COMPLETED|None|node1|ann|{TIMES}|{SCRIPT}|token".encode(),
        ),
    )
    states = queue.queue()
    assert states and list(states) == ["7", "8", "9", "12_3"]
    assert str(states["7"]) == "RUNNING (node1)" and str(states["8"]) == "PENDING (Priority)"
    assert states["7"].since == "2026-11-29T07:00:00" and states["8"].since == "" and states["8"].waits
    assert states["12_3"].over and queue.ours(states["12_3"], "/elsewhere/", "token")


def test_an_array_that_was_ended_while_it_waited_is_known_by_one_line(program: Any, tmp_path: Path) -> None:
    line = f"133|N/A|CANCELLED|None||ann|N/A|2026|{SCRIPT}|t".encode()
    program("squeue", printing(tmp_path, line))
    states = queue.queue()
    assert states is not None
    assert [str(queue.find(states, job)) for job in ("133_0", "133_1")] == ["CANCELLED", "CANCELLED"]
    assert queue.find(states, "134_0") is None
    program("squeue", printing(tmp_path, f"135|[0-1,4,6-8:2%2]|PENDING|None||ann|N/A|2026|{SCRIPT}|t".encode()))
    assert list(queue.queue() or ()) == [f"135_{task}" for task in (0, 1, 4, 6, 8)]
    lines = [
        b"note",
        b"135_[0-1%2]|CANCELLED by 0||ann|Unknown|2026|d.t",
        b"7.batch|RUNNING|n|ann|a|b|c",
        b"7|RUNNING|",
    ]
    program("sacct", printing(tmp_path, *lines, b"7|RUNNING|", b"9|RUNNING|node1|ann|a|b|other.name"))
    known = queue.history(["135_0", "7", "9"], ["d.t"])
    assert known is not None and {job: said.state for job, said in known.items()} == {
        "135_0": "CANCELLED",
        "135_1": "CANCELLED",
    }
    program("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert queue.history(["7"]) is None


def test_a_stranger_with_our_id_is_not_our_job() -> None:
    states = {"7": State("RUNNING", origin="/home/bob/run.sh|hello")}
    assert queue.find(states, "7") and queue.find(states, "7", "/data/jobs/train/", "mar-0-1") is None
    ours = State("RUNNING", origin=f"{SCRIPT}|a comment that the site wrote")
    assert queue.find({"7": ours}, "7", "/data/jobs/train/", "mar-0-1") is ours


def test_variables_of_the_user_change_no_answer(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    program("squeue", f'[ -z "$SQUEUE_PARTITION$SLURM_TIME_FORMAT" ] && echo "7|N/A|RUNNING|None|n|u|a|b|{SCRIPT}|c"')
    monkeypatch.setenv("SQUEUE_PARTITION", "debug")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    assert list(queue.queue() or ()) == ["7"]


def test_launchers_share_a_look(program: Any, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    program("squeue", f"echo $* >> {calls}; echo '7|N/A|RUNNING|None|node1|u|a|b|{SCRIPT}|c'")
    place = tmp_path / "jobs"
    first, states = queue.look(place, 30.0)
    assert [queue.look(place, 30.0) for _ in range(5)] == [(first, states)] * 5
    assert states == {"7": State("RUNNING", "node1", "u", "a", "b", f"{SCRIPT}|c")}
    assert len(calls.read_text().splitlines()) == 1
    assert queue.look(place, 0.0)[0] > first  # who needs to know it now asks anew
    queue.look(place, 30.0, ["ann"])  # the last look was not at ann's jobs
    assert [("--me" in line, "ann" in line) for line in calls.read_text().splitlines()] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    program("squeue", f"echo fails >> {calls}; exit 1")
    assert queue.look(place, 0.0)[1] is None and queue.look(place, 30.0)[1] is None
    assert calls.read_text().count("fails") == 1
    (place / f"queue-{queue.me()}.json").write_text("{")
    assert queue.look(place, 30.0)[1] is None and calls.read_text().count("fails") == 2
    record = json.loads((place / f"queue-{queue.me()}.json").read_text())
    (place / f"queue-{queue.me()}.json").write_text(json.dumps({**record, "time": record["time"] + 9999}))
    queue.look(place, 30.0)
    assert calls.read_text().count("fails") == 3  # a clock that is ahead makes no look new for ever


def test_a_job_of_another_user_that_may_not_be_ended_is_told(program: Any) -> None:
    program("scancel", "echo 'scancel: error: Kill job error on job id 7: Access/permission denied' >&2; exit 1")
    program("squeue", "exit 0")
    with pytest.raises(ValueError, match=r"jobs 7 do not end: scancel: error: .*permission denied"):
        queue.cancel(["7"])
