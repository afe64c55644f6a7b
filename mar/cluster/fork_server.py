"""A process that has imported what jobs import, and forks the jobs of this machine.

A job that computes for a second spends three more on importing torch and what builds on it. So the workflow starts one
such process (`begin`), of which `mar launch` asks each job of one thread (`fork`). It ends with the workflow: it waits
on a pipe whose other end only the workflow holds. Jobs that it has forked go on. Where there is none, or not yet, a job
starts anew.

The server computes nothing: a forked job finds torch as it is after the import, without threads, numbers drawn
or a GPU in use, and its results are to the bit those of a process of its own. Of `mar` it imports nothing that makes
results, so that jobs run the code that is on the disk when they start, and record which of it they have imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mar.cluster.failures import log
from mar.cluster.job_process import THREADS, Command, verb

ADDRESS = "MAR_FORK_SERVER"  # variable of the environment: the server's socket; set and empty, there is to be none
FEW = 4  # jobs that start anew sooner than the server is there
PATIENCE = 10.0  # seconds in which a launcher says what it wants
LIBRARIES = (
    *("torch", "torch._dynamo", "torchvision.models", "scipy.linalg", "scipy.stats", "pandas", "PIL.Image"),
    *("safetensors.torch", "click", "pydantic", "yaml"),
    *("diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.autoencoders.vq_model"),
)


def begin(jobs: int) -> int | None:
    """Start the server of a workflow that runs so many jobs here, unless they are few or ADDRESS is set already.

    Returns:
        The end of a pipe. The server ends when it is closed, as it is when this process ends, in whatever way.
    """
    if jobs < FEW or ADDRESS in os.environ:
        return None
    os.environ[ADDRESS] = str(Path(tempfile.mkdtemp(prefix="mar-")) / "socket")
    waiting, held = os.pipe()
    subprocess.Popen(
        [sys.executable, "-u", "-m", __name__, os.environ[ADDRESS]],
        stdin=waiting,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | dict.fromkeys(THREADS, "1"),
        start_new_session=True,  # Ctrl-C in a terminal goes to the workflow alone
    )
    os.close(waiting)
    return held


def fork(command: Command) -> int | None:
    """Have the server fork a job; it prints into the file that `log` names by its process id, as submitit's jobs do.

    Returns:
        Process id of the job, or None where the job has to start anew: there is no server, or the job has several
        threads. (Libraries of linear algebra read how many they may use when they are loaded.)
    """
    address = os.environ.get(ADDRESS)
    if not address or any(os.environ.get(name) != "1" for name in THREADS):
        return None
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(address)
            server.sendall(request(command))
            return int(server.makefile().readline())  # from the job itself; nothing, where the server ended meanwhile
    except (OSError, ValueError):
        return None


def request(command: Command) -> bytes:
    """What a launcher sends: the command, in its working directory and environment."""
    wanted = {"command": dataclasses.asdict(command), "folder": os.getcwd(), "environment": dict(os.environ)}
    return json.dumps(wanted).encode() + b"\n"


def serve(address: str) -> tuple[socket.socket, dict[str, Any]] | None:
    """Fork a process for each launcher that asks, until the workflow ends.

    Returns:
        In a forked process, the connection to its launcher and what it wants; in the server, at the end, None.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while True:
            ready, _, _ = select.select([server, sys.stdin], [], [])
            if sys.stdin in ready:
                return None
            launcher, _ = server.accept()
            launcher.settimeout(PATIENCE)
            try:
                wanted = json.loads(launcher.makefile().readline())
            except (OSError, ValueError):  # it ended
                launcher.close()
                continue
            if os.fork() == 0:
                return launcher, wanted
            launcher.close()


def run(launcher: socket.socket, wanted: dict[str, Any]) -> int:
    """Exit status of a job, run in this process, which becomes what submitit would have started."""
    said: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in wanted["command"].items()}
    command = Command(**said)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.chdir(wanted["folder"])
    job = str(os.getpid())
    os.environ.clear()
    os.environ.update(wanted["environment"] | {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": job})
    printed = log(Path(command.folder), job)
    printed.parent.mkdir(parents=True, exist_ok=True)
    for descriptor in (0, 1, 2):
        file, mode = (
            (printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if descriptor else (Path(os.devnull), os.O_RDONLY)
        )
        opened = os.open(file, mode)
        os.dup2(opened, descriptor)
        os.close(opened)
    Path("/proc/self/comm").write_text(f"mar {verb(command.arguments)}", encoding="utf-8")  # what `top` shows
    launcher.sendall(f"{job}\n".encode())  # fails, before anything is done, where the launcher has ended
    launcher.close()
    return command()


def main(address: str) -> int:
    """Import, and serve; then, in a forked process, do the job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a job ends through its launcher, as under submitit
    with contextlib.ExitStack() as end:
        end.callback(shutil.rmtree, Path(address).parent, ignore_errors=True)
        for library in LIBRARIES:
            importlib.import_module(library)
        gc.freeze()  # else a job that looks for unused objects gets a copy of the memory of all
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of jobs that ended nothing stays
        if asked := serve(address):
            end.pop_all()  # the folder is the server's
    return run(*asked) if asked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
