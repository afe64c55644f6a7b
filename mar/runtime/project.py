"""Where the files lie that ship beside the package: config/, workflow/, profiles/ and slurm/.

In a checkout they lie at its root. An installed wheel, and the copy of the package that a job on a cluster runs, hold
them inside the package, in mar/project.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
INSIDE = PACKAGE / "project"
ROOT = INSIDE if INSIDE.is_dir() else PACKAGE.parent
COMMIT = INSIDE / "COMMIT"  # the commit that a wheel was built from


def path(*names: str) -> Path:
    """A file or folder of the project by its name in a checkout, such as `config`, `claims.yaml`."""
    return ROOT.joinpath(*names)
