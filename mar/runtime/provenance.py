"""What a result was made with: commit, versions of software, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mar.runtime import project
from mar.runtime.files import Part


@cache
def git_commit() -> str:
    """Commit that this package is of, with `-dirty` if tracked files of its checkout differ; or `unknown`.

    A repository around ours, as of a thesis into which a tarball was unpacked, is another one. Files of results/ and
    figures/ do not count: either may be a link to where there is more room.
    """
    if os.environ.get("MAR_GIT_COMMIT"):
        return os.environ["MAR_GIT_COMMIT"]  # a job on a cluster runs a copy of the checkout
    checkout = project.ROOT
    if checkout == project.INSIDE:
        return project.COMMIT.read_text(encoding="utf-8").strip() if project.COMMIT.is_file() else "unknown"
    try:
        top = _git(checkout, "rev-parse", "--show-toplevel")
        if not top or not os.path.samefile(top, checkout):
            return "unknown"
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no", ".", ":!results", ":!figures")
        return _git(checkout, "rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *words: str) -> str:
    """What git says in a folder."""
    command = ["git", "--no-optional-locks", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    """Name of the processor, from the kernel."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class Provenance(Part):
    """Commit, versions and machine of a result.

    Attributes:
        git_commit: commit, with `-dirty` where tracked files differed from it.
        time: local time with its offset.
        python: version of Python.
        torch: installed version of torch.
        machine: name of the processor.
        cores: number of its cores.
        device: name of the GPU, else `cpu`.
        threads: threads of torch; None where the stage did not use torch.
    """

    git_commit: str
    time: str
    python: str
    torch: str
    machine: str
    cores: int | None
    device: str
    threads: int | None


def _used_torch() -> Any:
    """The module torch, where code of ours has it; a fork server imports it for jobs that do not need it too."""
    torch = sys.modules.get("torch")
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("mar.")]
    return torch if torch and any(getattr(module, "torch", None) is torch for module in ours) else None


def provenance() -> Provenance:
    """Commit, versions and machine of this process."""
    torch, device = _used_torch(), "cpu"
    if torch is not None and os.environ.get("MAR_DEVICE") != "cpu" and torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return Provenance(
        git_commit=git_commit(),
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        python=platform.python_version(),
        torch=version("torch"),
        machine=processor(),
        cores=os.cpu_count(),
        device=device,
        threads=torch.get_num_threads() if torch is not None else None,
    )
