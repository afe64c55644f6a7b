"""Snakemake's own work beside the jobs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mar.cluster import fork_server

TIMEOUT = 600  # seconds


def rounds(project: Any, *arguments: str) -> tuple[int, int]:
    """How often the scheduler looked for work in a run whose trainings take two seconds, and the number of jobs."""
    process = project.start(
        "all", "--configfile", "config/smoke.yaml", "--cores", "2", "--verbose", *arguments, STUB_SLEEP="2"
    )
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output
    return output.count("Resources before job selection"), len(project.calls())


def test_the_scheduler_looks_for_work_when_a_job_ends(project: Any) -> None:
    """Under a limit of jobs a second it looks once a second for each job that has ended."""
    looked, jobs = rounds(project)
    assert jobs > 70 and looked < 1.2 * jobs


def test_a_limit_that_is_asked_for_stays(project: Any) -> None:
    looked, jobs = rounds(project, "--max-jobs-per-timespan", "99/1s")
    assert looked > 1.5 * jobs


def test_a_run_of_several_jobs_of_one_thread_has_a_fork_server(project: Any) -> None:
    """Its address is in the environment of every job; it ends when it fails to import torch, which here raises."""
    told = project.folder / "servers.txt"

    def addresses(*arguments: str) -> set[str]:
        told.unlink(missing_ok=True)
        project.snakemake(*arguments, "--configfile", "config/smoke.yaml", "--forceall")
        return set(told.read_text().split())

    del project.environment[fork_server.ADDRESS]
    few = "results/smoke/classifier/model.safetensors"
    several = [f"results/smoke/tokens/{name}/train/manifest.json" for name in ("kl", "vq", "msvq")]
    assert addresses(few) == {"none"}
    assert addresses(*several, "--default-resources", "launcher=slurm") == {"none"}
    assert addresses(*several, "--set-threads", *(f"{rule}=2" for rule in ("tokenizer", "encode"))) == {"none"}
    (address,) = addresses(*several)
    deadline = time.monotonic() + 60
    while Path(address).parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
