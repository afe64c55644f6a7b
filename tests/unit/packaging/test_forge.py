"""What the forge runs, what an image is made of and what a release says: that they name what the project has."""

from __future__ import annotations

import inspect
import re
import runpy
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from mar.runtime.devices import check_compiler

PROJECT = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((PROJECT / ".github/workflows").glob("*.yml"))
STEPS = [
    (file.name, name, step)
    for file in WORKFLOWS
    for name, job in yaml.safe_load(file.read_text())["jobs"].items()
    for step in job["steps"]
]
IMAGES = ("Dockerfile", "apptainer.def")


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(PROJECT / "packaging" / name))


def test_jobs_call_what_a_person_types() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    commands = [shlex.split(step["run"]) for _, _, step in STEPS if "run" in step]
    called = {words[1] for words in commands if words[0] == "make"}
    assert called >= {"lint", "lint-forge", "test", "smoke", "docs", "smoke-wheel", "release"}
    for words in commands:
        assert words[:3] == ["gh", "release", "create"] or (words[0] == "make" and words[1] in targets), words


def test_the_notes_of_a_release_are_written_after_the_last_wheel() -> None:
    steps = [shlex.split(step["run"]) for file, _, step in STEPS if file == "release.yml" and "run" in step]
    # each target that builds the wheel empties dist/ first, with the notes in it
    assert [words[1] for words in steps if words[0] == "make"] == ["smoke-wheel", "release"]


def test_actions_are_pinned_by_commit_and_jobs_by_image() -> None:
    used = [line for file in WORKFLOWS for line in file.read_text().splitlines() if "uses:" in line]
    assert len(used) > 10
    for line in used:
        assert re.fullmatch(r" +- uses: actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    for file in WORKFLOWS:
        content = yaml.safe_load(file.read_text())
        assert content["permissions"] == {"contents": "read"}, file
        assert {job["runs-on"] for job in content["jobs"].values()} == {"ubuntu-24.04"}, file


def test_tests_run_on_every_python_that_the_package_names() -> None:
    classifiers = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["classifiers"]
    named = [line.rpartition(" ")[2] for line in classifiers if re.search(r"Python :: 3\.\d", line)]
    jobs = yaml.safe_load((PROJECT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == named == ["3.11", "3.12", "3.13"]


def test_images_are_made_of_the_same_files_as_the_wheel() -> None:
    kept = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^    (\S+) /opt/mar/source/(\S+)$", (PROJECT / "apptainer.def").read_text(), re.MULTILINE)
    assert all(source == target for source, target in copied) and {source for source, _ in copied} == kept
    assert all((PROJECT / name).exists() for name in kept)
    folders = re.search(r"^FOLDERS = (.+)$", (PROJECT / "setup.py").read_text(), re.MULTILINE)
    assert folders and kept >= {"setup.py", "mar", "Snakefile", *re.findall(r'"(\w+)"', folders[1])}
    images = [re.search(r"^(?:FROM|From:) (\S+)$", (PROJECT / name).read_text(), re.M) for name in IMAGES]
    assert {found and found[1] for found in images} == {"debian:12.11-slim"}


def test_an_image_for_gpus_has_the_compiler_that_mar_asks_for() -> None:
    """`compile: true` is refused without it, and the studies of ImageNet say that."""
    compilers = re.search(r'cuda\) compiler="(.+)"', (PROJECT / "packaging/install.sh").read_text())
    asked = re.search(r'"CXX", "(.+)"', inspect.getsource(check_compiler))
    assert compilers and asked and asked[1] in compilers[1].split()


def test_every_package_of_the_lock_has_its_licence_told() -> None:
    rows = [line.split(" | ") for line in script("third_party.py")["table"](PROJECT / "requirements.lock").splitlines()]
    assert len(rows) > 100 and all(len(row) == 3 for row in rows[2:])
    found = {row[0].removeprefix("| "): row[2].removesuffix(" |") for row in rows[2:]}
    assert "BSD-3-Clause" in found["torch"] and "MIT" in found["pydantic"]
    assert all(found.values()), [name for name, said in found.items() if not said]


def test_a_release_whose_files_disagree_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = script("release.py")["notes"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 0.1.0\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n- later\n")
    with pytest.raises(ValueError, match=r"CHANGELOG.md: found version none; accepted: 0.1.0, as the tag says"):
        notes("0.1.0")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-01-01\n\n### Added\n\n- all\n\n## [0.0.9]\n\n- old\n"
    )
    assert notes("0.1.0") == "### Added\n\n- all\n"
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [0.1.0] - 2026-01-01\n\n- first\n")
    assert notes("0.1.0") == "- first\n"
    with pytest.raises(ValueError, match=r"mar/__init__.py: found version 0.1.0; CITATION.cff: .*accepted: 0.2.0"):
        notes("0.2.0")
