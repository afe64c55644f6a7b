"""The GPUs of this machine, of which each job that runs here takes its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mar.runtime.folders import lock

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL = 1.0  # seconds between looks for a free GPU


def visible() -> list[str]:
    """Names of the GPUs that a process may use, as in CUDA_VISIBLE_DEVICES; without that variable all of the machine.

    Raises:
        ValueError: CUDA_VISIBLE_DEVICES names one GPU twice.
    """
    if (listed := os.environ.get(VISIBLE)) is None:
        return _installed()
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise ValueError(f"{VISIBLE}: found {listed!r}, which names a GPU twice; accepted: each once")
    # CUDA itself ends the list at the first name that is none: -1 and what follows are hidden.
    return names[: names.index("-1")] if "-1" in names else names


def _installed() -> list[str]:
    """Numbers of the GPUs that NVIDIA's driver lists; none where there is no driver."""
    if not (smi := shutil.which("nvidia-smi")):
        return []
    query = [smi, "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, timeout=60)
    return listed.stdout.split() if listed.returncode == 0 else []


def usable(number: int) -> list[str]:
    """Names of the GPUs that a process may use, at least so many.

    Raises:
        ValueError: there are fewer.
    """
    if number > len(names := visible()):
        limit = f"up to gpu={len(names)}, or no limit on gpu, which lets all jobs share what there is"
        raise ValueError(
            f"gpu={number}: found {len(names)} GPUs on this machine ({', '.join(names) or 'none'}; {VISIBLE} is "
            f"{os.environ.get(VISIBLE, 'not set')}); accepted: {limit if names else 'no limit on gpu'}"
        )
    return names


@contextlib.contextmanager
def taken(number: int) -> Iterator[list[str]]:
    """Take so many GPUs of this machine from all other jobs of this user, waiting until they are free.

    Each GPU has a lock, which the kernel frees when the process ends or dies. All of them are taken at once or none, so
    that two jobs never wait for each other.

    Raises:
        ValueError: the process may use fewer.
    """
    names = usable(number)
    waits = False
    while True:
        with contextlib.ExitStack() as locks:
            free: list[str] = []
            for name in names[: len(names) if number else 0]:
                with contextlib.suppress(BlockingIOError):
                    locks.enter_context(lock(_locks() / name, wait=False))
                    free.append(name)
                if len(free) == number:
                    break
            if len(free) == number:
                yield free
                return
        if not waits:
            print(f"launch: waiting for {number} of the GPUs {', '.join(names)}, which other jobs have", flush=True)
            waits = True
        time.sleep(POLL)


def _locks() -> Path:
    """Where this user's locks lie, for all folders of results on this machine.

    Raises:
        ValueError: the folder is another user's.
    """
    folder = Path(tempfile.gettempdir(), f"mar-gpus-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise ValueError(f"{folder}: is not this user's; remove it, or set TMPDIR to a folder of yours")
    return folder


def torchrun(number: int, arguments: Sequence[str]) -> list[str]:
    """The command line that runs a command of `mar` in so many processes of this machine, one for each GPU."""
    ranks = ["--standalone", "--nproc-per-node", str(number)]
    return [sys.executable, "-m", "torch.distributed.run", *ranks, "-m", "mar.cli", *arguments]
