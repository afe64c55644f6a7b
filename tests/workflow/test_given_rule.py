"""Sample sets that others drew, in the workflow: what they make run, and what is refused before anything runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PRODUCTS = {"table", "figure", "alias", "claims", "report", "track"}
STUDY = ("--configfile", "config/given.yaml")
METRICS = "results/smoke/metrics/given/theirs.json"


def write(project: Any, file: Path, images: int = 100, **more: Any) -> None:
    """The smoke study with a set of others."""
    np.savez(file, arr_0=np.random.default_rng(images).integers(0, 255, (images, 32, 32, 3), dtype=np.uint8))
    values: dict[str, Any] = {"extends": "smoke.yaml", "study": "smoke", "title": "Smoke test of the workflow"}
    values["given"] = {"theirs": {"file": str(file), **more}}
    (project.folder / "config" / "given.yaml").write_text(yaml.safe_dump(values))


def test_a_given_set_adds_its_own_jobs_and_draws_the_tables_again(finished: Any, tmp_path: Path) -> None:
    write(finished, tmp_path / "theirs.npz")
    plan = finished.plan("all", *STUDY)
    assert plan.pop("features_given") == ["classifier theirs"] and plan.pop("evaluate_given") == ["theirs"]
    assert plan.pop("statistics") == ["classifier given/theirs"]
    assert set(plan) == {"table", "report", "track"}, "no claim and no figure looks at it"
    assert finished.plan("all", "--configfile", "config/smoke.yaml") == {}, "the study without it is as it was"


def test_a_changed_file_is_judged_again(project: Any, tmp_path: Path) -> None:
    file = tmp_path / "the'irs $(touch hit); x.npz"  # a shell would take it apart
    write(project, file)
    project.snakemake(METRICS, *STUDY)
    assert "evaluate --study results/smoke/study.json --given theirs" in "\n".join(project.calls())
    state = os.stat(file)
    file.unlink()
    assert project.plan(METRICS, *STUDY) == {}, "what was judged stays when the file is removed to make room"
    assert not (project.folder / "hit").exists()
    write(project, file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns - 10**9))  # as a copy of an older file
    again = {"features_given": ["classifier theirs"], "statistics": ["classifier given/theirs"]}
    assert project.plan(METRICS, *STUDY) == again | {"evaluate_given": ["theirs"]}
    write(project, file, images=99)
    output = project.fails("-n", METRICS, *STUDY)
    said = f"config/given.yaml:4: given.theirs.file {file}: holds 99 images of 32x32; accepted: 100 of 32x32"
    assert said in output and "Traceback" not in output, output
