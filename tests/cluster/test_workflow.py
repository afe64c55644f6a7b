"""The workflow as docs/cluster.md runs it on this cluster, its head killed in between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
STUDY = """
extends: smoke.yaml
study: cluster
recipes:
  masked: {images: 12800, checkpoint_images: 6400, log_images: 128}
"""
SAMPLES = "results/cluster/samples/mar-diffloss/seed0/mar-diff-4-d5/manifest.json"


class Project:
    """A copy of the project whose study runs on the test cluster."""

    def __init__(self, folder: Path, study: str) -> None:
        self.folder, self.root, self.study = folder, folder / "results" / study, study
        for name in ("Snakefile", "workflow", "profiles", "slurm", "config", "mar"):
            copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
            copy(PROJECT / name, folder / name)
        (folder / "config" / "cluster.yaml").write_text(STUDY)
        (folder / "figures").mkdir()

    def start(self, target: str, *more: str) -> subprocess.Popen[str]:
        """Start snakemake, as it is typed on a login node."""
        profiles = [
            "--profile",
            "slurm",
            "--profile",
            "slurm/sites/test.yaml",
            "--configfile",
            f"config/{self.study}.yaml",
        ]
        cache = str(self.folder / "cache")
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", target, *profiles, *more],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder), "XDG_CACHE_HOME": cache},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, target: str, *more: str, timeout: float = 900) -> str:
        """The same to its end; what it printed."""
        head = self.start(target, *more)
        output, _ = head.communicate(timeout=timeout)
        assert head.returncode == 0, output
        return output

    def kill_at(self, file: str, target: str) -> None:
        """Kill the head when a file of a running job is there."""
        head = self.start(target)
        deadline = time.monotonic() + 900
        while not (self.root / file).exists():
            assert head.poll() is None and time.monotonic() < deadline, head.stdout and head.stdout.read()
            time.sleep(0.1)
        head.kill()

    def jobs(self) -> dict[str, int]:
        """Of every stage that ran as a job how many jobs it had; none of them twice."""
        counts = {}
        for path in (self.root / "jobs").rglob("job.json"):
            record, stage = json.loads(path.read_text()), str(path.parent.relative_to(self.root / "jobs"))
            assert record["state"] == "finished" and record["cluster"] == "slurm", path
            logs = list(path.parent.glob("*_0_log.out"))
            assert len(logs) == len(record["jobs"]), f"{stage}: submitted twice: {logs}"
            counts[stage] = len(logs)
        return counts


def test_the_same_command_goes_on_after_kill_9_of_the_head(slurm: Callable[..., str], tmp_path: Path) -> None:
    project = Project(tmp_path, "cluster")
    project.kill_at("runs/mar-diffloss/seed0/metrics.jsonl", SAMPLES)
    project.run(SAMPLES)
    assert project.jobs() == {
        "tokenizer/kl": 1,
        "encode/kl": 2,
        "train/mar-diffloss/seed0": 1,
        "sample/mar-diffloss/seed0/mar-diff-4-d5": 2,
    }
    run = json.loads((project.root / "runs" / "mar-diffloss" / "seed0" / "run.json").read_text())
    assert not run["restarts"]
    assert "Nothing to be done" in project.run(SAMPLES, "-n")


@pytest.mark.long
def test_all_products_of_the_smoke_study(slurm: Callable[..., str], tmp_path: Path) -> None:
    project = Project(tmp_path, "smoke")
    start = time.monotonic()
    project.kill_at("runs/mar-diffloss/seed0/metrics.jsonl", "all")
    project.run("all", timeout=3000)
    counts = project.jobs()
    print(f"{len(counts)} stages as {sum(counts.values())} jobs, {time.monotonic() - start:.0f} s")
    assert {name.split("/")[0] for name in counts} == {
        *("classifier", "encode", "evaluate", "features", "reference", "rfid", "sample", "speed", "sweep"),
        *("tokenizer", "train"),
    }
    for product in ("report.html", "claims.json", "mlflow.json", "tables/table1.csv"):
        assert (project.root / product).stat().st_size
    assert (tmp_path / "figures" / "smoke" / "tradeoff.pdf").exists() and (
        tmp_path / "figures" / "tradeoff.pdf"
    ).exists()
    assert "Nothing to be done" in project.run("all", "-n")
