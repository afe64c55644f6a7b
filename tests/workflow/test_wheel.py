"""The wheel: what it holds, and that it plans a study in an empty folder where no checkout is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]
FOLDERS = ("config", "workflow", "profiles", "slurm")
BUILD = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools writes into its source."""
    place = tmp_path_factory.mktemp("wheel")
    for name in (*FOLDERS, "mar"):
        shutil.copytree(SOURCE / name, place / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "setup.py", "pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(SOURCE / name, place / "source" / name)
    environment = {**os.environ, "MAR_GIT_COMMIT": "0123"}
    subprocess.run([*BUILD, str(place), str(place / "source")], env=environment, check=True)
    (built,) = place.glob("*.whl")
    return built


def test_it_holds_what_a_checkout_has_beside_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [path for folder in FOLDERS for path in (SOURCE / folder).rglob("*") if path.is_file()]
    assert len(files) > 80
    assert {f"mar/project/{path.relative_to(SOURCE)}" for path in files} | {"mar/project/Snakefile"} <= names
    assert {"mar/py.typed", "mar/report/templates/report.html"} <= names
    licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "THIRD_PARTY.md"}
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"mar"}


def test_a_study_is_planned_from_it_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    command = [str(SOURCE / "tests/workflow/from_wheel.sh"), str(tmp_path / "there"), str(wheel)]
    command += ["snakemake", "-n", "--quiet", "rules", "--configfile", "config/smoke.yaml"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("MAR_GIT_COMMIT", None)
    told = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr + told.stdout
    assert told.stdout.startswith("mar 0.1.0, commit 0123\nwork: ")
    assert re.search("^train +7$", told.stdout, re.MULTILINE)
    work = tmp_path / "there" / "work"
    assert (work / "results" / "smoke" / "study.json").exists()
    assert (work / "config" / "smoke.yaml").read_bytes() == (SOURCE / "config" / "smoke.yaml").read_bytes()
    assert not (work / "config" / "claims.yaml").exists() and (work / "slurm" / "config.yaml").exists()
    again = subprocess.run([command[0], *command[1:3], "true"], env=environment, capture_output=True, text=True)
    assert "work: found files; accepted: a new or an empty folder" in again.stderr
