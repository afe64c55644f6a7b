"""What stands around a job: variables, options, containers, limits, people who cancel, a head that is a job itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HEAD = Path(__file__).parents[2] / "slurm" / "head.sh"


def test_a_job_in_a_container_without_variables_of_the_head(place: Any) -> None:
    place.environment["OMP_NUM_THREADS"] = "0"  # as Snakemake exports it
    site = {"extra": "--export=NONE", "cpus_per_task": 3, "python": f"env PATH=/nowhere {sys.executable}"}
    head = place.start("sleep", "12", slurm=site)
    place.wait_for(place.runs)
    subprocess.run(["scancel", "--signal=USR2", place.record()["job"]], check=True)
    out, err = head.communicate(timeout=150)
    assert head.returncode == 0, out + err
    # without Slurm's clients inside it was put back by its script, under its id
    assert len(place.runs()) == 2 and len(place.runs("end")) == 1 and len(place.submitted()) == 1
    assert out.count("threads 3\n") == 2, out


def test_two_slots_without_progress_are_the_last(place: Any) -> None:
    head = place.start("sleep", "60")
    for start in (1, 2):
        place.wait_for(lambda: len(place.runs()) == start, 90)  # noqa: B023
        subprocess.run(["scancel", "--signal=USR2", place.record()["job"]], check=True)
    out, err = head.communicate(timeout=150)
    assert head.returncode == 77, out + err
    assert "sleep kept nothing in 2 slots" in err and len(place.submitted()) == 1


def test_a_job_above_the_limit_of_the_partition_is_ended_with_the_reason(place: Any) -> None:
    status, out, err = place.run("sleep", "1", slurm={"time": 120})
    assert status == 1 and "CANNOT_START (PartitionTimeLimit)" in err and "`runtime`" in err, out + err
    assert not place.runs()


def test_a_waiting_array_that_is_cancelled_is_not_submitted_again(place: Any) -> None:
    (place.folder / "jobs").mkdir()
    (place.folder / "jobs" / "one").mkdir()
    (place.folder / "job").symlink_to("jobs/one", target_is_directory=True)
    head = place.start("sample", "--study", "x", slurm={"shards": 2, "extra": "--begin=now+600"})
    place.wait_for(lambda: (place.folder / "job" / "job.json").exists() and place.record()["jobs"])
    code = "from pathlib import Path; from mar.cluster import jobs; print(jobs.cancel(Path('.')))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place.folder, env=place.environment, capture_output=True, text=True)
    assert f"{place.record()['job']}_1" in done.stdout, done.stderr
    out, err = head.communicate(timeout=150)
    assert head.returncode == 1 and "ended by `mar cancel`" in err, out + err
    assert len({job.split("_")[0] for job in place.submitted()}) == 1


def test_a_head_that_is_a_job_puts_itself_back_before_its_time_is_up(slurm: Any, tmp_path: Path) -> None:
    program = tmp_path / "snakemake"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ $(wc -l < {tmp_path}/calls) -gt 1 ] && exit 3\nexec sleep 300\n'
    )
    program.chmod(0o755)
    command = ["sbatch", "--parsable", "--mem=100M", "--time=5", str(HEAD), "all", "--profile", "slurm"]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    job = done.stdout.strip()

    def wait_for(condition: Any) -> None:
        deadline = time.monotonic() + 90
        while not condition():
            assert time.monotonic() < deadline, (tmp_path / f"mar-head-{job}.log").read_text()
            time.sleep(0.2)

    wait_for((tmp_path / "calls").exists)
    subprocess.run(["scancel", "--batch", "--signal=USR2", job], check=True)
    wait_for(lambda: (tmp_path / "calls").read_text().count("all --profile slurm\n") == 2)

    def state() -> str:
        return subprocess.run(
            ["squeue", "-h", "-t", "all", "-o", "%T", "-j", job], capture_output=True, text=True
        ).stdout

    wait_for(lambda: "FAILED" in state())  # the status of snakemake is that of the job
    assert "back into the queue" in (tmp_path / f"mar-head-{job}.log").read_text()
