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


def test_a_run_of_several_jobs_has_a_fork_server(project: Any) -> None:
    """It tries to import torch, which here writes down where the server was to listen."""
    served = project.folder / "served"
    torch = project.folder / "torch" / "__init__.py"
    torch.write_text(f"open({str(served)!r}, 'w').write(__import__('sys').argv[1])\n" + torch.read_text())
    del project.environment[fork_server.ADDRESS]
    project.snakemake("results/smoke/classifier/model.safetensors", "--configfile", "config/smoke.yaml")
    assert not served.exists(), "for two jobs"
    # on Slurm no job runs here, whatever stands in for its commands
    tokens = [f"results/smoke/tokens/{name}/train/manifest.json" for name in ("kl", "vq", "msvq")]
    project.snakemake(*tokens, "--configfile", "config/smoke.yaml", "--default-resources", "launcher=slurm")
    assert not served.exists(), "for jobs of Slurm"
    project.snakemake("all", "--configfile", "config/smoke.yaml")
    deadline = time.monotonic() + 60
    while not served.exists() or Path(served.read_text()).parent.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
