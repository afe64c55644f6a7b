"""`python -m snakemake` in a process that is forked off one which has imported it: half of a dry run is imports."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
# What Snakemake imports late too, and what `mar` imports. Of `mar` itself nothing: each project has its own copy.
SERVER.set_forkserver_preload(
    ["snakemake.cli", "snakemake.report.html_reporter", "numpy", "pydantic", "smart_open", "yaml"]
)


def snakemake(arguments: tuple[str, ...], folder: Path, environment: dict[str, str], timeout: float) -> tuple[int, str]:
    """Exit status and output of a call in a folder."""
    with tempfile.NamedTemporaryFile() as output:
        process = SERVER.Process(target=_run, args=(arguments, str(folder), environment, output.name))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)  # and the jobs that it has started
            raise TimeoutError(f"snakemake {' '.join(arguments)}: {Path(output.name).read_text()}")
        return process.exitcode, Path(output.name).read_text()


def _run(arguments: tuple[str, ...], folder: str, environment: dict[str, str], output: str) -> None:
    from snakemake.cli import main

    assert not {"mar", "torch"} & sys.modules.keys()
    for descriptor, path, mode in ((0, os.devnull, os.O_RDONLY), (1, output, os.O_WRONLY | os.O_APPEND)):
        os.dup2(os.open(path, mode), descriptor)
    os.dup2(1, 2)
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    installed = [path for path in sys.path if path.startswith(sys.base_prefix) or "site-packages" in path]
    sys.path[:] = [folder, *environment["PYTHONPATH"].split(os.pathsep), *installed]
    sys.argv = ["snakemake", *arguments]
    main()
