"""How far a running workflow is: by the work of its jobs, from the files that are there; no fault of a job."""

import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mar.cluster.records import LocalJob, write_job
from mar.planning import remaining
from mar.runtime.files import read, write
from mar.study import layout
from mar.study.records import Rates, StepsRecord, TimesRecord

NOW = 1_000_000.0
SECONDS = {"train/mar/seed0": 300.0, "train/ar/seed0": 100.0, "sample/mar/seed0/s": 60.0, "evaluate/mar/seed0/s": 40.0}


@pytest.fixture
def root(tmp_path):
    """A study whose four jobs take 500 seconds of a core, in a run that began 200 seconds before NOW."""
    root = tmp_path / "results" / "tiny"
    empty = Rates(start=2.0, tokenizers={}, judges={}, training={}, sampling={})
    write(layout.times(root), TimesRecord(key=64 * "0", host=socket.gethostname(), rates=empty, seconds=SECONDS))
    outputs = {key: str(root / f"{key.replace('/', '-')}.json") for key in SECONDS} | {"alias/x": str(root / "x.pdf")}
    write(layout.steps(root), StepsRecord(started=NOW - 200, outputs=outputs))
    return root


def make(root, key, time=NOW - 10):
    path = Path(read(layout.steps(root), StepsRecord).outputs[key])
    path.write_text("")
    os.utime(path, (time, time))


def run(root, key, since):
    folder = layout.job(root, key)
    folder.mkdir(parents=True)
    about = {"command": "mar", "hash": 16 * "0", "host": "here", "pid": 1, "cluster": "local", "output": None}
    submitted = datetime.fromtimestamp(since, UTC).isoformat()
    write_job(folder, LocalJob(**about, job="1", started=1, state="running", submitted=submitted))


def text(root):
    return remaining.text(root, read(layout.steps(root), StepsRecord), NOW)


def test_the_time_that_is_left_follows_from_the_work_done_and_the_time_it_took(root):
    assert text(root) is None  # nothing is known of the speed
    make(root, "train/ar/seed0")
    assert text(root) == "tiny: 20% of the work, about 13 min left"  # 100 of 500 in 200 s
    make(root, "sample/mar/seed0/s")
    make(root, "alias/x")  # of which no time is expected
    assert text(root) == "tiny: 32% of the work, about 7 min left"
    make(root, "evaluate/mar/seed0/s", NOW - 201)  # from before the run: it will be made again
    assert text(root) == "tiny: 32% of the work, about 7 min left"


def test_a_job_that_runs_counts_by_its_time(root):
    make(root, "train/ar/seed0")
    run(root, "train/mar/seed0", NOW - 150)
    assert text(root) == "tiny: 50% of the work, about 3 min left"
    run(root, "sample/mar/seed0/s", NOW - 190)  # has taken more than was expected and is not done
    assert text(root) == f"tiny: {304 / 500:.0%} of the work, about 2 min left"


def test_nothing_is_said_before_there_is_a_speed_or_when_all_is_done(root):
    for key in SECONDS:
        make(root, key)
    assert text(root) is None
    record = read(layout.steps(root), StepsRecord)
    assert remaining.text(root, record.model_copy(update={"started": NOW - 5}), NOW) is None


def test_a_line_now_and_then(root, monkeypatch, capsys):
    clock = [NOW]
    monkeypatch.setattr(remaining.time, "time", lambda: clock[0])
    make(root, "train/ar/seed0")
    os.utime(layout.steps(root), (NOW - 200, NOW - 200))
    job = layout.job(root, "train/ar/seed0")

    def said():
        with remaining.told(job):
            pass
        out = capsys.readouterr().out
        if out:  # the file has the time of the last line
            os.utime(layout.steps(root), (clock[0], clock[0]))
        return out

    assert said() == "tiny: 20% of the work, about 13 min left\n"
    clock[0] += 29
    assert said() == ""
    clock[0] += 2
    assert said().startswith("tiny: 20% of the work")
    clock[0] += 100_000
    assert said() != ""
    clock[0] += 5_000  # a tenth of the time that has passed is longer than that
    assert said() == ""


@pytest.mark.parametrize("damage", ["times", "steps"])
def test_what_is_wrong_with_it_is_no_fault_of_a_job(root, damage, capsys):
    getattr(layout, damage)(root).write_text("{")
    with remaining.told(layout.job(root, "train/ar/seed0")):
        print("work")
    assert capsys.readouterr().out == "work\n"


def test_outside_the_workflow_nothing_is_told(tmp_path, capsys):
    with remaining.told(tmp_path / "jobs" / "train"):
        pass
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_a_plan_is_asked_for_once_a_run_where_there_is_none(root, monkeypatch):
    asked = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: asked.append(command))
    layout.data(root).mkdir()
    layout.data_manifest(root).write_text("{}")
    os.utime(layout.data_manifest(root), (NOW, NOW))
    remaining.expect(root)  # times.json is newer than the count of the images
    assert asked == []
    layout.times(root).unlink()
    remaining.expect(root)
    remaining.expect(root)
    assert asked == [[sys.executable, "-m", "mar.cli", "plan", "--study", str(layout.study(root))]]
    remaining.begin(root, {})
    os.utime(layout.steps(root), (2e9, 2e9))
    remaining.expect(root)  # in the next run
    assert len(asked) == 2


def test_a_job_that_says_nothing_reads_no_study() -> None:
    """`mar launch` starts each job: what a study is made of takes longer to import than all else that it needs."""
    code = "import sys, mar.cluster.launch, mar.planning.remaining; sys.exit('mar.study.records' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
