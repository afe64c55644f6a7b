"""The jobs of the drill, and the budget and the GPU that a study must keep to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mar.planning import kept_costs, plan
from mar.planning.drill_shapes import shapes
from mar.study.reading import load


def test_the_drill_runs_every_shape_and_nothing_of_the_study(fresh: Any) -> None:
    study = load(fresh.folder / "config" / "smoke.yaml")
    found = fresh.plan("drill", "--configfile", "config/smoke.yaml")
    assert found == {"drill": [""], "drill_shape": sorted(shapes(study))}


def test_a_study_over_its_budget_or_its_gpu_does_not_start(fresh: Any) -> None:
    (fresh.folder / "config" / "dear.yaml").write_text("extends: smoke.yaml\nstudy: dear\nbudget: {disk_gb: 1.0e-9}\n")
    # Counting needs torch, which this project lacks: what is there is read.
    study = load(fresh.folder / "config" / "dear.yaml")
    kept_costs.count(study, fresh.folder / "results" / "dear", plan.count_images(study).classes, memory=True)
    output = fresh.fails("-n", "all", "--configfile", "config/dear.yaml")
    assert "study dear: budget.disk_gb 1e-09: the estimate is" in output and "accepted: a budget above it" in output
    assert "Traceback" not in output
    small = "extends: smoke.yaml\nstudy: small\nbudget: null\nmemory: {gpu_gib: 3}\n"
    (fresh.folder / "config" / "small.yaml").write_text(small)
    (fresh.folder / "results" / "small").mkdir()  # the same counts
    shutil.copy(fresh.folder / "results" / "dear" / "plan.json", fresh.folder / "results" / "small")
    output = fresh.fails("-n", "all", "--configfile", "config/small.yaml")
    assert "study small: memory.gpu_gib 3: some jobs do not fit" in output and "Traceback" not in output
    assert "GiB with 32 images at once; accepted: recipes.masked.gradient_checkpointing" in output


def test_a_dry_run_counts_nothing_and_a_run_does_before_its_first_job(projects: Any, tmp_path: Path) -> None:
    of = projects(tmp_path)
    (tmp_path / "config" / "dear.yaml").write_text("extends: smoke.yaml\nstudy: dear\nbudget: {disk_gb: 1.0e-9}\n")
    said = of.snakemake("-n", "--quiet", "rules", "--configfile", "config/dear.yaml")
    assert "budget and GPU of dear are checked when it starts, or by `mar plan --study dear`" in said
    assert not (tmp_path / "results" / "dear" / "plan.json").exists()
    # counting needs torch, which this project lacks: the run tries to, and does not start
    assert "plan.json: `mar plan --study" in of.fails("all", "--configfile", "config/dear.yaml")
    assert of.calls() == []
