"""The commit of a result: ours, not that of a repository around ours; links in the place of results are not dirty."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3]
SAY = "from mar.runtime.provenance import git_commit; print(git_commit())"


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def said(folder: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "MAR_GIT_COMMIT"} | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", SAY]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "thesis" / "ours"
    for name in ("__init__.py", *(f"runtime/{name}.py" for name in ("__init__", "provenance", "files", "project"))):
        (folder / "mar" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SOURCE / "mar" / name, folder / "mar" / name)
    (folder / "results").mkdir()
    (folder / "results" / "README.md").write_text("what is here")
    return folder


def test_a_repository_around_ours_is_another_one(checkout: Path) -> None:
    git(checkout.parent, "init", "-q", ".")
    git(checkout.parent, "commit", "-q", "--allow-empty", "-m", "thesis")
    assert said(checkout) == "unknown"


def test_our_own_and_what_makes_it_dirty(checkout: Path, tmp_path: Path) -> None:
    git(checkout, "init", "-q", ".")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "ours")
    commit = git(checkout, "rev-parse", "HEAD")
    assert said(checkout) == commit and len(commit) == 40
    shutil.move(checkout / "results", tmp_path / "large-disk")
    (checkout / "results").symlink_to(tmp_path / "large-disk")
    assert said(checkout) == commit
    with open(checkout / "mar" / "__init__.py", "a") as file:
        file.write("# changed\n")
    assert said(checkout) == f"{commit}-dirty"


def test_an_installed_wheel_says_what_it_was_built_from(checkout: Path) -> None:
    git(checkout, "init", "-q", ".")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "a repository around site-packages")
    (checkout / "mar" / "project").mkdir()
    assert said(checkout) == "unknown"
    (checkout / "mar" / "project" / "COMMIT").write_text("0123-dirty\n")
    assert said(checkout) == "0123-dirty"


@pytest.mark.parametrize(("used", "threads"), [("", "None"), (", mar.models.blocks", "1")])
def test_torch_is_on_record_where_code_of_ours_uses_it(used: str, threads: str) -> None:
    """A fork server has imported it for jobs that do without as well."""
    code = f"import torch{used}; from mar.runtime.provenance import provenance; print(provenance().threads)"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == threads
