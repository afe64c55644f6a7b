"""A process that has imported what jobs import, and forks the jobs of this machine.

A job that computes for a second spends several more on importing torch and what builds on it. So the workflow starts
one such process (`begin`), of which `mar launch` asks each job of one thread, and timings (`ask`). It ends with the
workflow: it waits on a pipe whose other end only the workflow holds. Jobs that it has forked go on. Where there is
none, or not yet, or one of another installation, a job starts anew; so do all where torch sees a GPU, which no forked
process could use.

The server computes nothing: a forked job finds torch as it is after the import, without threads, numbers drawn or a GPU
in use, and its results are to the bit those of a process of its own. Of `mar` it imports nothing that makes results, so
that jobs run the code that is on the disk when they start, and record which of it they have imported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mar.cluster.failures import log
from mar.cluster.job_process import Command, verb
from mar.runtime.environment import REPEATABLE, THREADS

ADDRESS = "MAR_FORK_SERVER"  # variable of the environment: the server's socket; set and empty, there is to be none
TIMING = "speed"  # the command whose jobs have several threads, none of them scipy's
FEW = 4  # jobs that start anew sooner than the server is there
PATIENCE = 30.0  # seconds in which either side says what it has to
# Without pandas, whose Arrow starts a thread.
LIBRARIES = (
    *("torch", "torch._dynamo", "torchvision.models", "scipy.linalg", "scipy.stats", "PIL.Image"),
    *("safetensors.torch", "click", "pydantic", "yaml"),
    *("diffusers.models.autoencoders.autoencoder_kl", "diffusers.models.autoencoders.vq_model"),
)


def begin(jobs: int) -> int | None:
    """Start the server of a workflow that runs so many jobs here, unless they are few or ADDRESS is set already.

    Returns:
        The end of a pipe. The server ends when it is closed, as it is when this process ends, in whatever way.

    Raises:
        OSError: there is no room for its folder, or for another process.
    """
    if jobs < FEW or ADDRESS in os.environ:
        return None
    place = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="mar-", dir=place if len(place) < 80 else "/tmp")  # 107 bytes name a socket
    environment = REPEATABLE | os.environ | dict.fromkeys(THREADS, "1") | {ADDRESS: str(Path(folder) / "socket")}
    waiting, held = os.pipe()
    subprocess.Popen(
        [sys.executable, "-u", "-m", __name__],
        stdin=waiting,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    os.close(waiting)
    os.environ[ADDRESS] = environment[ADDRESS]
    return held


@contextlib.contextmanager
def ask(command: Command) -> Iterator[int | None]:
    """Have the server fork a job, which begins at the end of the context and prints into the file that `log` names.

    Yields:
        Process id of the job, or None where the job has to start anew: there is no server, or the job has several
        threads. (Libraries of linear algebra read how many they may use when they are loaded. Torch takes another
        number later too, so a timing of its models may be forked with several.)
    """
    address = os.environ.get(ADDRESS)
    alike = verb(command.arguments) == TIMING or all(os.environ.get(name) == "1" for name in THREADS)
    with contextlib.ExitStack() as connection:
        pid = None
        if address and alike:
            with contextlib.suppress(OSError, ValueError):  # such as nothing to read, where the server has ended
                server = connection.enter_context(socket.socket(socket.AF_UNIX))
                server.settimeout(PATIENCE)
                server.connect(address)
                server.sendall(request(command))
                pid = int(server.makefile().readline())  # the job's own word
        yield pid
        if pid is not None:
            with contextlib.suppress(OSError):  # something has ended it, which shows as the end of any job does
                server.sendall(b"go\n")


def request(command: Command) -> bytes:
    """What a launcher sends: the command, in its working directory, environment and installation."""
    wanted = {"command": dataclasses.asdict(command), "folder": os.getcwd(), "environment": dict(os.environ)}
    return json.dumps({**wanted, "installation": installation()}).encode() + b"\n"


def installation() -> list[Any]:
    """What a launcher and its server have in common, or the job starts anew: container, Python and the code of both."""
    spaces = [os.readlink(f"/proc/self/ns/{space}") for space in ("mnt", "pid")]
    folders = [Path(__file__).parent, Path(__file__).parents[1] / "runtime"]
    code = [[str(file), file.stat().st_mtime_ns] for folder in folders for file in sorted(folder.glob("*.py"))]
    return [*spaces, sys.prefix, code]


def serve(server: socket.socket) -> tuple[socket.socket, dict[str, Any]] | None:
    """Fork a process for each launcher that asks, until the workflow ends.

    Returns:
        In a forked process, the connection to its launcher and what it wants; in the server, at the end, None.
    """
    ours = json.loads(json.dumps(installation()))
    while True:
        ready, _, _ = select.select([server, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        launcher, _ = server.accept()
        launcher.settimeout(PATIENCE)
        with contextlib.suppress(OSError, ValueError):  # the launcher has ended, or there is no room for a process
            wanted = json.loads(launcher.makefile().readline())
            if wanted["installation"] == ours and os.fork() == 0:
                return launcher, wanted
        launcher.close()


def run(launcher: socket.socket, wanted: dict[str, Any]) -> int:
    """Exit status of a job, run in this process, which becomes what submitit would have started."""
    said: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in wanted["command"].items()}
    command, job = Command(**said), str(os.getpid())
    launcher.sendall(f"{job}\n".encode())
    if launcher.makefile().readline() != "go\n":
        return 1  # it ended before it had this job on record
    launcher.close()
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environment"] | {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": job})
    tempfile.tempdir = None  # where an import has asked for it
    printed = log(Path(command.folder), job)
    printed.parent.mkdir(parents=True, exist_ok=True)
    for descriptor in (0, 1, 2):
        file, mode = (
            (printed, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if descriptor else (Path(os.devnull), os.O_RDONLY)
        )
        opened = os.open(file, mode, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(f"mar {verb(command.arguments)}", encoding="utf-8")  # what `top` shows
    return command()


def main(address: Path) -> int:
    """Import, and serve; then, in a forked process, do the job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends a job through its launcher, as under submitit
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.ExitStack() as end, socket.socket(socket.AF_UNIX) as server:
        end.callback(address.parent.rmdir)
        for library in LIBRARIES:
            importlib.import_module(library)
        if len(os.listdir("/proc/self/task")) > 1:
            return 1  # a library has started threads, which a fork does not have
        if (torch := sys.modules.get("torch")) and torch.accelerator.is_available():
            return 1  # to have looked for a GPU, as diffusers does too, leaves CUDA in a state that a fork cannot use
        gc.freeze()  # else a job that looks for unused objects gets a copy of the memory of all
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # of jobs that ended nothing stays
        server.bind(f"{address}-")
        server.listen()
        Path(f"{address}-").rename(address)
        end.callback(address.unlink)
        if asked := serve(server):
            end.pop_all()  # the folder is the server's
    return run(*asked) if asked else 0


if __name__ == "__main__":
    sys.exit(main(Path(os.environ[ADDRESS])))
