"""A checkout whose path a shell or Snakemake would read otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TARGET = ("results/smoke/classifier/classifier.json", "--configfile", "config/smoke.yaml")


def test_apostrophes_blanks_and_commands_in_the_path_are_only_names(projects: Any, tmp_path: Path) -> None:
    folder = tmp_path / "o'brien s $(touch pwned); `touch pwned`"
    folder.mkdir()
    project = projects(folder)
    images = folder / "its images'"
    for label in ("a", "b"):
        (images / label).mkdir(parents=True)
        (images / label / "0.png").write_bytes(b"not looked at by the stub")
    study = f'extends: smoke.yaml\nstudy: odd\ndata: {{kind: imagefolder, path: "{images}", image_size: 32}}\n'
    (folder / "config" / "odd.yaml").write_text(study)
    project.snakemake("results/odd/classifier/classifier.json", "--configfile", str(folder / "config" / "odd.yaml"))
    assert (folder / "results/odd/classifier/classifier.json").exists()
    assert not list(tmp_path.rglob("pwned"))


def test_braces_in_the_path_are_refused(projects: Any, tmp_path: Path) -> None:
    folder = tmp_path / "a{x}b"
    folder.mkdir()
    output = projects(folder).fails("-n", *TARGET)
    assert f"{folder}: found braces in the path, which Snakemake takes for wildcards; accepted: a folder" in output
    assert "Traceback" not in output
