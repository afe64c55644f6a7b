"""`python -m benchmarks demo`: the seconds of a demo that has run, by its parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import demo
from benchmarks.tables import Table
from mar.cluster.records import LocalJob, write_job

ROOT = Path("results/demo")


def ran(output: str, log: str, begin: float, end: float) -> None:
    """What Snakemake keeps of an output."""
    demo.METADATA.mkdir(parents=True, exist_ok=True)
    kept = {"rule": "any", "log": [f"{ROOT}/logs/{log}"], "starttime": begin, "endtime": end}
    (demo.METADATA / output).write_text(json.dumps(kept))


def test_jobs_are_counted_once_by_the_part_they_belong_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"found no job of demo or demo-digits; accepted: a folder in which `make demo`"
    ):
        demo.report()
    for output in ("weights", "record"):  # two outputs of one job
        ran(output, "train/mar/seed0.log", 100.0, 160.0)
    ran("manifest", "prepare.log", 90.0, 100.0)
    ran("features", "features/classifier/mar/seed0/plain.log", 160.0, 190.0)
    job = {"cluster": "local", "state": "finished", "command": "mar train", "hash": "0" * 16, "host": "here", "pid": 1}
    job |= {"submitted": "2026-01-01T00:00:00+00:00", "output": None, "job": "1", "started": None, "cpu_seconds": 55.0}
    write_job(ROOT / "jobs" / "train" / "mar" / "seed0", LocalJob(**job))
    said, table = demo.report()
    assert said == "Study demo: from the start of the first job to the end of the last 1.7 min."
    assert isinstance(table, Table)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["training"] == [1, 55.0, 60.0, 0.6] and rows["images to tokens"] == [1, 0, 10.0, 0.1]
    assert rows["features and metrics"] == [1, 0, 30.0, 0.3] and rows["all jobs"] == [3, 55.0, 100.0, 1.0]
    assert "| training | 1 | 55 | 60 | 60% |" in table.markdown()
