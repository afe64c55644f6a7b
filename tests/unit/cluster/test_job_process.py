"""What the process of a job makes of warnings: real processes, with a copy of the package whose commands are below."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mar.cluster.job_process import SLOTS, STUCK
from mar.cluster.records import SlurmJob, outcome_file, read_outcome
from mar.runtime.stop_signals import LEFT

SOURCE = Path(__file__).parents[3] / "mar"
TOKEN = "mar-0123456789abcdef-00000001"
# A warning comes while the commands are imported, or while one works; WRAP is an import that was cut off.
CLI = """
import os, signal, sys
from pathlib import Path
if os.environ["WHEN"] == "import":
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
    except SystemExit as left:
        if "WRAP" in os.environ:
            raise ImportError("numpy.core.multiarray failed to import") from left
        raise

def main(arguments, prog_name):
    from mar.runtime.files import write_text
    if keep := os.environ.get("KEEP"):
        write_text(Path(keep) / "recipe.json", "what a folder is claimed with is no progress")
        for number in range(100):
            if not (Path(keep) / f"chunk-{number}").exists():
                write_text(Path(keep) / f"chunk-{number}", "")
                break
    os.kill(os.getpid(), signal.SIGUSR2 if os.environ["WHEN"] == "work" else signal.SIGTERM)
"""
RUN = """
import sys
from mar.cluster.job_process import Command
sys.exit(Command(tuple(sys.argv[2:]), "slurm", None, sys.argv[1], sys.argv[1] and "TOKEN")())
""".replace("TOKEN", TOKEN)


@pytest.fixture
def slot(tmp_path: Path) -> Any:
    """Runs one slot of a job of a command; returns its exit status and what it called."""
    for package in ("cluster", "runtime"):
        shutil.copytree(SOURCE / package, tmp_path / "mar" / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE / "__init__.py", tmp_path / "mar")
    (tmp_path / "mar" / "cli").mkdir()
    (tmp_path / "mar" / "cli" / "__main__.py").write_text(CLI)
    folder, programs = tmp_path / "job", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "scontrol").write_text(f"#!/bin/sh\necho $* >> {tmp_path}/calls\n")
    (programs / "scontrol").chmod(0o755)
    record = SlurmJob.model_validate_json(
        json.dumps(
            {
                "state": "running", "cluster": "slurm", "command": "mar evaluate", "hash": "0123456789abcdef",
                "host": "login1", "pid": 1, "submitted": "2026-01-01T00:00:00+00:00", "output": "5_0_log.out",
                "job": "5", "token": TOKEN, "jobs": ["5"], "shards": [0],
            }
        )
    )  # fmt: skip
    (folder / "job.json").write_text(record.model_dump_json())

    def slot(command: str = "evaluate", when: str = "work", path: bool = True, **more: str) -> tuple[int, list[str]]:
        environment = {
            "PATH": f"{programs if path else tmp_path}",
            "PYTHONPATH": str(tmp_path),
            "SUBMITIT_EXECUTOR": "slurm",
            "SLURM_JOB_ID": "5",
            "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0",
            "WHEN": when,
            **more,
        }
        done = subprocess.run([sys.executable, "-c", RUN, str(folder), command], env=environment, cwd=tmp_path)
        calls = tmp_path / "calls"
        return done.returncode, calls.read_text().splitlines() if calls.exists() else []

    slot.folder = folder  # type: ignore[attr-defined]
    return slot


@pytest.mark.parametrize("more", [{}, {"WRAP": "1"}])
def test_a_warning_while_the_commands_are_imported_puts_the_job_back(slot: Any, more: dict[str, str]) -> None:
    status, calls = slot(when="import", **more)
    assert (status, calls) == (LEFT, ["requeue 5"])
    assert read_outcome(slot.folder, "5") is None  # the job goes on


def test_two_slots_in_which_nothing_was_kept_are_the_last(slot: Any, tmp_path: Path) -> None:
    assert [slot()[0] for _ in range(SLOTS)] == [LEFT, STUCK]
    outcome = read_outcome(slot.folder, "5")
    assert outcome and outcome.status == STUCK and "evaluate kept nothing in 2 slots" in outcome.traceback
    assert "`runtime`" in outcome.traceback and slot()[1] == ["requeue 5", "requeue 5"]  # asked again, it begins anew


def test_a_stage_that_keeps_something_in_each_slot_goes_on(slot: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert [slot(KEEP=str(kept))[0] for _ in range(4)] == [LEFT] * 4
    assert len(list(kept.glob("chunk-*"))) == 4


def test_what_is_written_again_in_each_slot_is_no_progress(slot: Any, tmp_path: Path) -> None:
    def again() -> int:
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        return int(slot(KEEP=str(tmp_path / "kept"))[0])

    assert [again() for _ in range(3)] == [LEFT, LEFT, STUCK]


def test_slots_that_slurm_itself_ends_do_not_count(slot: Any) -> None:
    assert [slot(when="term") for _ in range(3)] == [(LEFT, [])] * 3


def test_a_job_in_a_container_leaves_a_mark_for_its_script(slot: Any) -> None:
    status, calls = slot(path=False)
    assert (status, calls) == (LEFT, []) and (slot.folder / "5.requeue").exists()
    outcome = read_outcome(slot.folder, "5")
    assert outcome and outcome.status == LEFT


def test_an_outcome_names_its_submission(slot: Any) -> None:
    outcome_file(slot.folder, "5").write_text("")  # of a machine that died
    assert read_outcome(slot.folder, "5") is None
    slot(path=False)
    outcome = read_outcome(slot.folder, "5")
    assert outcome and outcome.token == TOKEN
    assert os.path.getsize(outcome_file(slot.folder, "5"))
