"""What the folder of a job keeps: records of finished and of live jobs, damaged ones, and outcomes that are no code."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mar.cluster import failures, jobs, queue, slurm_launch
from mar.cluster.launch import launch
from mar.cluster.processes import alive, started, stop
from mar.cluster.records import LocalJob, Outcome, SlurmJob, outcome_file, read_job, read_outcome, write_job
from mar.runtime.files import write

# job.json as launchers wrote it before there was a type for it, key by key.
LOCAL: dict[str, Any] = {
    "job": "3768",
    "state": "finished",
    "cluster": "local",
    "command": "mar --threads 1 features --study results/smoke/study.json",
    "hash": "e61b0423c1c4c9c1",
    "host": "vm",
    "pid": 3768,
    "started": 40913,
    "submitted": "2026-11-28T19:57:11+0000",
    "output": "3768_0_log.out",
}
DEBUG: dict[str, Any] = {**LOCAL, "job": "DEBUG_140213", "cluster": "debug", "state": "failed", "output": None}
SLURM: dict[str, Any] = {
    "job": "12",
    "state": "running",
    "cluster": "slurm",
    "command": "mar sample --study results/demo/study.json",
    "hash": "58e4ab3da166d5d6",
    "token": "mar-58e4ab3da166d5d6-0123abcd",
    "jobs": ["12_0", "12_2"],
    "shards": [0, 2],
    "host": "login1",
    "pid": 77,
    "submitted": "2026-11-28T19:57:11.123+01:00",
    "output": "12_0_0_log.out",
}
SUBMITTING = {**SLURM, "job": None, "state": "submitting", "jobs": [], "output": None}


def put(folder: Path, record: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "job.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (LOCAL, LocalJob),
        ({**LOCAL, "started": None, "state": "stopped"}, LocalJob),
        (DEBUG, LocalJob),
        (SLURM, SlurmJob),
        (SUBMITTING, SlurmJob),
        ({**SUBMITTING, "state": "failed"}, SlurmJob),
        ({**SLURM, "state": "left", "left": [2]}, SlurmJob),
    ],
)
def test_records_of_earlier_launchers_are_read_and_written_with_the_same_keys(
    tmp_path: Path, record: dict[str, Any], kind: type
) -> None:
    job = read_job(put(tmp_path, record))
    assert isinstance(job, kind)
    write_job(tmp_path, job)
    written = json.loads((tmp_path / "job.json").read_text())
    assert {key: written[key] for key in record} == record
    assert written.keys() - record.keys() <= {"format", "left"}
    assert read_job(tmp_path) == job


def test_a_folder_without_a_job_has_no_record(tmp_path: Path) -> None:
    assert read_job(tmp_path) is None


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**LOCAL, "format": 2}, r"format: .*should be 1; found '2'; accepted: a Job"),
        ({**LOCAL, "cluster": "pbs"}, r"cluster: .*'local', 'debug' or 'slurm'; found 'pbs'"),
        (without(LOCAL, "hash"), r"hash: Field required"),
        ({**LOCAL, "pid": -1}, r"pid: .*greater than 0; found '-1'"),
        ({**LOCAL, "pid": "3768"}, r"pid: .*integer; found '3768'"),
        (
            {**LOCAL, "state": "submitting"},
            r"state: .*'running', 'finished'.*; found 'submitting'; accepted: a LocalJob",
        ),
        ({**LOCAL, "output": "../../secret"}, r"output: .*; found '\.\./\.\./secret'"),
        ({**LOCAL, "submitted": "yesterday"}, r"submitted: .*isoformat string: 'yesterday'"),
        (without(SLURM, "token"), r"token: Field required; accepted: a SlurmJob"),
        ({**SLURM, "token": ""}, r"token: .*pattern.*; found ''"),  # the comment of every job that has none
        ({**SLURM, "jobs": ["12", "--user=me"]}, r"jobs\.1: .*pattern.*; found '--user=me'"),
        ({**SLURM, "jobs": []}, r"jobs: found 0 for 2 shards; accepted: one for each"),
    ],
)
def test_a_damaged_record_is_one_message(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    put(tmp_path, record)
    with pytest.raises(ValueError, match=message) as raised:
        read_job(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'job.json'}: ")


def test_a_record_that_was_cut_off_is_named(tmp_path: Path) -> None:
    put(tmp_path, LOCAL)
    os.truncate(tmp_path / "job.json", 40)
    with pytest.raises(ValueError, match=rf"{tmp_path / 'job.json'}: Invalid JSON"):
        launch(["schema"], tmp_path, "local")


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize(
    ("states", "listed"),
    [({"12_0": "COMPLETED", "12_2": "PENDING"}, "1 lost, 1 queued"), ({}, "2 lost")],
)
def test_a_folder_of_somebody_else_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: dict[str, str], listed: str
) -> None:
    folder = put(tmp_path / "jobs" / "sample", SLURM)
    script = f"{folder.absolute()}/mar-58e4ab3da166d5d6-0123abcd.sh|"
    seen = {job: queue.State(state, origin=script) for job, state in states.items()}
    monkeypatch.setattr(queue, "queue", lambda: seen)
    for job in SLURM["jobs"]:
        (folder / f"{job}_0_result.pkl").write_bytes(pickle.dumps(("success", Payload(tmp_path / "ran"))))
    ((state, *_),) = jobs.table(tmp_path)
    assert state == listed
    record = read_job(folder)
    assert isinstance(record, SlurmJob)
    failures.why(folder, "12_0", queue.State("FAILED"))
    assert not (tmp_path / "ran").exists()


def test_outcomes_say_what_jobs_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "queue", dict)
    folder = put(tmp_path / "jobs" / "sample", SLURM)
    write(outcome_file(folder, "12_0"), Outcome(status=0))
    write(outcome_file(folder, "12_2"), Outcome(status=1, traceback="Traceback\nOSError: No space left on device\n"))
    assert jobs.table(tmp_path)[0][0] == "1 done, 1 failed"
    assert read_outcome(folder, "12_0") == Outcome(status=0)
    record = read_job(folder)
    assert isinstance(record, SlurmJob)
    assert slurm_launch.follow(folder, record) == {
        "12_0": Outcome(status=0),
        "12_2": Outcome(status=1, traceback="Traceback\nOSError: No space left on device\n"),
    }
    reason = failures.why(folder, "12_2", queue.State("FAILED"))
    assert reason.startswith("rank 0 raised OSError: No space left on device; make space")


def test_the_first_rank_that_raised_is_named(tmp_path: Path) -> None:
    write(outcome_file(tmp_path, "7", 0), Outcome(status=0))
    for rank in (10, 2):
        write(outcome_file(tmp_path, "7", rank), Outcome(status=1, traceback=f"ValueError: rank {rank}"))
    assert failures.why(tmp_path, "7", queue.State("FAILED")).startswith("rank 2 raised ValueError: rank 2\n")


@pytest.mark.parametrize(
    ("pickled", "state", "end"),
    [(True, "COMPLETED", "LEFT"), (False, "COMPLETED", "COMPLETED"), (True, "FAILED", "FAILED")],
)
def test_a_job_of_an_earlier_version_that_ended_is_submitted_again(
    tmp_path: Path, pickled: bool, state: str, end: str
) -> None:
    if pickled:
        (tmp_path / "12_0_result.pkl").write_bytes(pickle.dumps(("success", 0)))
    record = SlurmJob.model_validate_json(json.dumps({**SLURM, "jobs": ["12"], "shards": [0]}))
    assert slurm_launch._end(tmp_path, record, "12", queue.State(state), 3600.0) == queue.State(end)


def test_a_damaged_outcome_is_one_message(tmp_path: Path) -> None:
    outcome_file(tmp_path, "12").write_text('{"status": "0"}')
    with pytest.raises(ValueError, match=r"12_0_outcome\.json: status: .*integer; found '0'; accepted: an? Outcome"):
        read_outcome(tmp_path, "12")


@pytest.mark.parametrize(("words", "ours"), [(["-m", "submitit.core._submit"], True), (["notebook"], False)])
def test_only_a_process_that_mar_launched_is_ended(words: list[str], ours: bool) -> None:
    code = "import time; print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        about = {"state": "running", "host": socket.gethostname(), "pid": process.pid, "started": started(process.pid)}
        job = LocalJob(**LOCAL | about)
        assert alive(job)
        try:
            if ours:
                stop(job)
                assert process.wait(10) == -signal.SIGTERM
            else:
                with pytest.raises(
                    ValueError, match=rf"job 3768: process {process.pid} is '.*'; accepted: a process that"
                ):
                    stop(job)
                assert process.poll() is None
        finally:
            process.kill()
