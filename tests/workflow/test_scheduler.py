"""Snakemake's own work beside the jobs."""

from __future__ import annotations

from typing import Any

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
