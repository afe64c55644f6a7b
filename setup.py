"""What pyproject.toml cannot say: a wheel holds, inside the package, what a checkout has beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
FOLDERS = ("config", "workflow", "profiles", "slurm")


def commit() -> str:
    """The commit of the checkout, with `-dirty` if tracked files differ from it; `unknown` without git."""
    if os.environ.get("MAR_GIT_COMMIT"):
        return os.environ["MAR_GIT_COMMIT"]
    git = ["git", "-C", str(HERE)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    folder, head = top.stdout.split("\n")[:2]
    if not os.path.samefile(folder, HERE):  # a repository around ours
        return "unknown"
    return head + ("-dirty" if changed.stdout else "")


class BuildWithProject(build_py):
    """Copies config/, workflow/, profiles/ and slurm/ to mar/project, and writes the commit; mar/runtime/project.py."""

    def run(self) -> None:
        """Build the package; an editable one finds its checkout instead."""
        super().run()
        if self.editable_mode:
            return
        project = Path(self.build_lib) / "mar" / "project"
        shutil.rmtree(project, ignore_errors=True)
        for name in (*FOLDERS, "Snakefile"):
            copy = shutil.copytree if (HERE / name).is_dir() else shutil.copy
            project.mkdir(exist_ok=True)
            copy(HERE / name, project / name)
        (project / "COMMIT").write_text(f"{commit()}\n", encoding="utf-8")


setup(cmdclass={"build_py": BuildWithProject})
