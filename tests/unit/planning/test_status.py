"""What of a study is done, runs, waits and failed, and what Slurm's accounting says that it cost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny
from click.testing import CliRunner

from mar.cli.__main__ import main
from mar.cluster import spent
from mar.runtime.files import read
from mar.study import layout
from mar.study.records import GpuHoursRecord

HASH = "0123456789abcdef"
SLURM = {
    "cluster": "slurm", "command": "mar train", "hash": HASH, "host": "login1", "pid": 77,
    "submitted": "2026-11-28T19:57:11.123+00:00", "output": None,
}  # fmt: skip


def put(root: Path, name: str, state: str, number: int, shards: int = 1, logs: tuple[int, ...] = ()) -> Path:
    """A job on record, and the output of those that started, earlier ones too."""
    folder = root / "jobs" / name
    folder.mkdir(parents=True)
    jobs = [str(number)] if shards == 1 else [f"{number}_{shard}" for shard in range(shards)]
    record = {**SLURM, "state": state, "job": str(number), "token": f"mar-{HASH}-{number:08d}", "jobs": jobs}
    (folder / "job.json").write_text(json.dumps({**record, "shards": list(range(shards))}))
    for started in logs or (number,):
        for job in [str(started)] if shards == 1 else [f"{started}_{shard}" for shard in range(shards)]:
            (folder / f"{job}_0_log.out").touch()
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of which a job runs, one waits and one has failed, on a cluster that stand-ins answer for."""
    root: Path = tiny.make_root(tmp_path)
    study = root.name
    train = put(root, "train/mar-diff/seed0", "running", 12, logs=(9, 12))
    put(root, "sample/mar-diff/seed0/plain", "running", 13, shards=2)
    put(root, "encode/wide", "failed", 11)
    script = f"{train}/mar-{HASH}-00000012.sh"
    wait = f"{root}/jobs/sample/mar-diff/seed0/plain/mar-{HASH}-00000013.sh"
    answers = {
        "squeue": [
            f"12|N/A|RUNNING|None|node1|ann|2026-11-29T01:02:03|2026|{script}|c",
            f"13|0|PENDING|Priority||ann|N/A|2026|{wait}|c",
            f"13|1|PENDING|Priority||ann|N/A|2026|{wait}|c",
        ],
        "sacct": [
            f"9|{study}.train.mar-diff.seed0|7200|billing=1,cpu=8,gres/gpu:a100=4,gres/gpu=4,node=1",
            f"12|{study}.train.mar-diff.seed0|1800|cpu=8,gres/gpu=4",
            f"12|{study}.train.mar-diff.seed0|3600|cpu=8,gres/gpu=4",  # a requeued slot of the same job
            f"11|{study}.encode.wide|3600|cpu=8,gres/gpu:h100=1",
            "11|somebody.else|360000|gres/gpu=8",
            f"13_0|{study}.sample.mar-diff.seed0.plain|0|",
        ],
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, lines in answers.items():
        text = "\n".join(lines)
        (folder / name).write_text(f"#!/bin/sh\n[ -e {tmp_path}/away ] && exit 1\ncat <<'END'\n{text}\nEND\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return root


def status(root: Path) -> str:
    done: Any = CliRunner().invoke(main, ["status", "--study", str(layout.study(root))], catch_exceptions=False)
    assert done.exit_code == 0
    return str(done.output)


def test_status_says_what_runs_waits_and_failed_and_since_when(root: Path) -> None:
    put(root, "encode/narrow", "stopped", 10)
    said = status(root)
    assert "that are known so far, 0 done, 1 running, 1 waiting, 1 stopped, 1 failed" in said.splitlines()[0]
    states = ("runs", "waits", "stopped", "failed")
    lines = {line.split()[0]: line for line in said.splitlines() if line[:7].strip() in states}
    assert "encode/narrow" in lines["stopped"] and str(layout.log(root, "encode", "narrow")) in lines["stopped"]
    assert (
        "train/mar-diff/seed0  since 2026-11-29 01:02 (" in lines["runs"] and "job 12, running (node1)" in lines["runs"]
    )
    assert "sample/mar-diff/seed0/plain  since 2026-11-28 19:57" in lines["waits"]
    assert "job 13, 2 queued" in lines["waits"]
    assert "encode/wide" in lines["failed"] and str(layout.log(root, "encode", "wide")) in lines["failed"]
    numbers = [line.split() for line in said.splitlines() if line.startswith(("train", "encode", "total"))]
    rows = {line[0]: line[1:] for line in numbers}
    assert rows["train"] == ["1", "1", "14.0"] and rows["encode"] == ["2", "1", "1", "1.0"]
    assert rows["total"][-1] == "15.0"


def test_hours_are_kept_when_the_accounting_is_away(root: Path, tmp_path: Path) -> None:
    status(root)
    (tmp_path / "away").touch()
    said = status(root)
    assert "Slurm's accounting (sacct) does not tell them here" in said and "14.0" in said
    record = read(layout.gpu_hours(root), GpuHoursRecord)
    assert not record.accounted and record.stages["train"].spent == 14.0


def test_a_site_that_counts_no_gpus_has_no_hours(root: Path, tmp_path: Path) -> None:
    sacct = tmp_path / "bin" / "sacct"
    sacct.write_text(sacct.read_text().replace("gres/gpu", "license"))
    assert spent.gpu_hours(root) is None


def test_jobs_of_this_machine_are_no_jobs_of_slurm(root: Path) -> None:
    file = root / "jobs" / "train" / "mar-diff" / "seed0" / "job.json"
    local = {**SLURM, "cluster": "local", "state": "finished", "job": "12", "started": 1}
    file.write_text(json.dumps(local))
    assert set(spent.submissions(root)) == {"11", "13_0", "13_1"}
