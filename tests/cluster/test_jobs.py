"""Jobs of Slurm are submitted once: followed, found again and taken over, whatever happens to the launcher."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest


def kill(launcher: subprocess.Popen[str]) -> None:
    os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()


def program(folder: Path, name: str, text: str) -> Path:
    """A folder with a program that stands before Slurm's own."""
    folder.mkdir()
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def test_a_job_runs_on_a_node_with_its_gpus_and_its_output_is_shown(place: Any) -> None:
    start = time.monotonic()
    status, out, err = place.run("greet", slurm={"gpus_per_node": 1})
    print(f"a job that does nothing: {time.monotonic() - start:.1f} s from submission to end")
    assert (status, err) == (0, "")
    assert "hello from greet 0\n" in out
    record = place.record()
    assert record["state"] == "finished" and record["cluster"] == "slurm" and record["command"] == "mar greet"
    assert record["jobs"] == [record["job"]] == place.submitted()
    code = list((place.folder / "job" / "code").iterdir())
    assert len(code) == 1 and (code[0] / "mar" / "cluster" / "launch.py").exists()


def test_after_kill_9_the_running_job_is_followed_and_none_is_submitted(place: Any) -> None:
    head = place.start("sleep", "6")
    place.wait_for(place.runs)
    kill(head)
    again = place.start("sleep", "6")
    status, out, _ = finish_of(again)
    assert status == 0
    assert "was submitted before; following it" in out and "hello from sleep" in out
    assert len(place.submitted()) == len(place.runs()) == len(place.runs("end")) == 1


def finish_of(launcher: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = launcher.communicate(timeout=150)
    return launcher.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_job_running(place: Any, number: signal.Signals) -> None:
    head = place.start("sleep", "4")
    place.wait_for(place.runs)
    head.send_signal(number)
    status, _, err = finish_of(head)
    assert status == 128 + number and "goes on; run the same command to follow it" in err
    assert place.run("sleep", "4")[0] == 0
    assert len(place.submitted()) == 1


def test_a_job_whose_id_was_never_written_is_found_by_its_comment(place: Any, tmp_path: Path) -> None:
    real = shutil.which("sbatch")
    path = program(tmp_path / "bin", "sbatch", f'#!/bin/sh\n{real} "$@"\nkill -9 $PPID\n')
    head = place.start("sleep", "3", path=path)
    assert head.wait(timeout=60) == -signal.SIGKILL
    assert place.record()["state"] == "submitting" and place.record()["job"] is None
    status, out, _ = place.run("sleep", "3")
    assert status == 0
    assert "by its comment mar-" in out
    assert len(place.submitted()) == len(place.runs("end")) == 1


def test_a_submission_that_never_arrived_is_made_again(place: Any, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "sbatch", "#!/bin/sh\nkill -9 $PPID\n")
    head = place.start("greet", path=path)
    assert head.wait(timeout=60) == -signal.SIGKILL
    status, out, _ = place.run("greet")
    assert status == 0 and "no job of the submission at" in out
    assert len(place.submitted()) == 1


def test_a_job_that_arrives_after_all_does_nothing(place: Any, tmp_path: Path) -> None:
    real = shutil.which("sbatch")
    # the launcher dies, and its sbatch gets through long after the next launcher gave up waiting for it
    path = program(tmp_path / "bin", "sbatch", f'#!/bin/sh\nkill -9 $PPID\nsleep 12\n{real} "$@"\n')
    head = place.start("sleep", "1", path=path)
    assert head.wait(timeout=60) == -signal.SIGKILL
    assert place.run("sleep", "1")[0] == 0
    place.wait_for(lambda: len(place.submitted()) == 2)
    late = place.submitted()[1]
    log = place.folder / "job" / f"{late}_0_log.out"
    place.wait_for(lambda: log.exists() and "nothing to do" in log.read_text())
    assert len(place.runs()) == 1


def test_a_job_that_ended_unwatched_is_taken_over(place: Any) -> None:
    head = place.start("sleep", "2", outputs=["done"])
    place.wait_for(place.runs)
    kill(head)
    place.wait_for(lambda: (place.folder / "job" / "kept-0").exists())
    (place.folder / "done").unlink()  # the workflow takes it for incomplete
    status, _, _ = place.run("sleep", "2", outputs=["done"])
    assert status == 0 and (place.folder / "done").exists()
    assert len(place.submitted()) == 1 and not (place.folder / "job" / "kept-0").exists()


def test_a_launcher_whose_workflow_was_killed_leaves_the_end_to_the_next(place: Any, tmp_path: Path) -> None:
    # kill -9 of Snakemake leaves the launcher: it sees the end of the job, but nobody hears of it
    path = program(tmp_path / "bin", "snakemake", '#!/bin/sh\n"$@" &\nwait\n') / "snakemake"
    head = place.start("sleep", "4", outputs=["done"], under=path)
    place.wait_for(place.runs)
    head.kill()
    place.wait_for(lambda: "is done, but the workflow" in head.stdout.read())
    (place.folder / "done").unlink()
    status, _, _ = place.run("sleep", "4", outputs=["done"])
    assert status == 0 and (place.folder / "done").exists()
    assert len(place.submitted()) == 1


def test_what_was_made_from_older_inputs_is_not_taken_over(place: Any) -> None:
    head = place.start("sleep", "1", outputs=["done"])
    place.wait_for(place.runs)
    kill(head)
    place.wait_for(lambda: (place.folder / "job" / "kept-0").exists())
    (place.folder / "done").unlink()
    (place.folder / "input").touch()
    assert place.run("sleep", "1", outputs=["done"], inputs=["input"])[0] == 0
    assert (place.folder / "done").exists() and len(place.submitted()) == 2


def test_a_job_that_slurm_does_not_know_is_submitted_again(place: Any) -> None:
    assert place.run("greet")[0] == 0
    path = place.folder / "job" / "job.json"
    path.write_text(json.dumps({**place.record(), "state": "running", "job": "999999", "jobs": ["999999"]}))
    status, out, _ = place.run("greet")
    assert status == 0 and "job 999999 ended before: VANISHED; submitting again" in out
    assert len(place.submitted()) == 2


def test_nothing_is_submitted_while_slurm_does_not_answer(place: Any, tmp_path: Path) -> None:
    head = place.start("sleep", "4")
    place.wait_for(place.runs)
    kill(head)
    path = program(tmp_path / "bin", "squeue", '#!/bin/sh\n[ -e "$0.ok" ] && exec /usr/bin/squeue "$@"\nexit 1\n')
    again = place.start("sleep", "4", path=path)
    time.sleep(5)
    assert again.poll() is None and len(place.submitted()) == 1
    (path / "squeue.ok").touch()
    status, out, _ = finish_of(again)
    assert status == 0 and "Slurm does not answer; asking on" in out
    assert len(place.submitted()) == 1


def test_two_launchers_have_one_job(place: Any) -> None:
    both = [place.start("sleep", "3"), place.start("sleep", "3")]
    assert [finish_of(launcher)[0] for launcher in both] == [0, 0]
    assert len(place.submitted()) == len(place.runs()) == 1


def test_a_job_of_another_recipe_is_ended(place: Any) -> None:
    head = place.start("sleep", "60")
    place.wait_for(place.runs)
    kill(head)
    status, out, _ = place.run("sleep", "1", recipe="b")
    assert status == 0 and "works on another recipe; ending it" in out
    assert len(place.runs()) == 2 and len(place.runs("end")) == 1


def test_an_edit_while_a_job_waits_changes_nothing(place: Any) -> None:
    head = place.start("greet", slurm={"extra": "--begin=now+8"})
    place.wait_for(lambda: (place.folder / "job" / "job.json").exists() and place.record()["state"] == "running")
    cli = place.folder / "mar" / "cli" / "__main__.py"
    cli.write_text(cli.read_text().replace("hello from", "edited"))
    status, out, _ = finish_of(head)
    assert status == 0 and "hello from greet" in out and "edited" not in out
    assert "PENDING (BeginTime)" in out
    assert "edited greet" in place.run("greet", recipe="b")[1]


def test_an_array_shares_a_stage_and_does_a_lost_share_again_alone(place: Any) -> None:
    command = ("sample", "--study", "x")
    options: dict[str, Any] = {"outputs": ["done"], "slurm": {"shards": 3}}
    (place.folder / "fail-4").touch()  # chunk 4 is of shard 1
    status, out, err = place.run(*command, **options)
    assert status == 1 and not (place.folder / "done").exists()
    assert "submitted, an array of 3" in out and "[0] hello from sample" in out and "[2] hello from sample" in out
    job = place.record()["job"]
    assert f"launch: job {job}_1 failed" in err and "RuntimeError: chunk 4 fails" in err
    assert f"job {job}_0 failed" not in err and place.record()["left"] == [1]
    (place.folder / "fail-4").unlink()
    before = len(place.runs())
    assert place.run(*command, **options)[0] == 0
    assert len(place.runs()) == before + 1 and (place.folder / "done").exists()


def test_jobs_are_listed_and_cancelled(place: Any) -> None:
    # `mar jobs` and `mar cancel` themselves, on a study whose jobs are those of this folder
    code = (
        "import sys; from pathlib import Path; from mar.cluster import jobs; root = Path('.');"
        "print(jobs.table(root) if sys.argv[1] == 'jobs' else jobs.cancel(root))"
    )

    def call(verb: str) -> str:
        return subprocess.run(
            ["python", "-c", code, verb], cwd=place.folder, env=place.environment, capture_output=True, text=True
        ).stdout

    (place.folder / "jobs").mkdir()
    (place.folder / "job").symlink_to("jobs/one", target_is_directory=True)
    (place.folder / "jobs" / "one").mkdir()
    head = place.start("sleep", "60")
    place.wait_for(place.runs)
    job = place.record()["job"]
    assert f"'running (node1)', '{job}'" in call("jobs") or f"'running (node2)', '{job}'" in call("jobs")
    kill(head)
    assert job in call("cancel")
    assert "'stopped'" in call("jobs")
    place.wait_for(lambda: "sleep" not in subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout)
    assert not place.runs("end")
