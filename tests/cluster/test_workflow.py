"""The workflow with the slurm profile and the settings of this cluster, its head killed in between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SITE = """
default-resources:
  launcher: slurm
  mem_mb: 0
  slurm_partition: gpu
  gpus_per_node: 1
  cpus_per_task: 1
  runtime: 30
set-resources:
  sample: {shards: 2}
set-threads: {tokenizer: 1, encode: 1, train: 1, sample: 1}
resources: {cluster_jobs: 4}
"""
STUDY = """
extends: smoke.yaml
study: cluster
recipes:
  masked: {images: 12800, checkpoint_images: 6400, log_images: 128}
"""
TARGET = "results/cluster/samples/mar-diffloss/seed0/mar-diff-4-d5/manifest.json"


def test_the_same_command_goes_on_after_kill_9_of_the_head(slurm: Callable[..., str], tmp_path: Path) -> None:
    for name in ("Snakefile", "environment.yml", "workflow", "profiles", "slurm", "config", "mar"):
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, tmp_path / name)
    (tmp_path / "site.yaml").write_text(SITE)
    (tmp_path / "config" / "cluster.yaml").write_text(STUDY)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    profiles = ["--profile", "slurm", "--profile", "site.yaml", "--configfile", "config/cluster.yaml"]

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", TARGET, *profiles, *more],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    head = start()
    run = tmp_path / "results" / "cluster" / "runs" / "mar-diffloss" / "seed0"
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists():
        assert head.poll() is None and time.monotonic() < deadline, head.stdout and head.stdout.read()
        time.sleep(0.1)
    head.kill()
    again = start()
    output, _ = again.communicate(timeout=400)
    assert again.returncode == 0, output
    records = {
        path.parent.relative_to(tmp_path / "results" / "cluster" / "jobs"): json.loads(path.read_text())
        for path in (tmp_path / "results" / "cluster" / "jobs").rglob("job.json")
    }
    assert all(record["state"] == "finished" and record["cluster"] == "slurm" for record in records.values())
    assert len(records) == 4  # tokenizer, encode, train, sample
    # a job for each stage, an array of two for the samples, none of them a second time
    logs = [path for path in (tmp_path / "results" / "cluster" / "jobs").rglob("*_0_log.out")]
    assert len(logs) == 5
    assert not json.loads((run / "run.json").read_text())["restarts"]
    assert "Nothing to be done" in start("-n").communicate(timeout=120)[0]
