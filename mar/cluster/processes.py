"""Processes of this machine: whether the process of a job runs, how it is ended, what it printed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

from mar.cluster.records import LocalJob
from mar.runtime.text import printable


def started(pid: int) -> int | None:
    """Start of a process in clock ticks since boot, None when the process is gone (or a zombie)."""
    fields = stat_fields(pid)
    return None if not fields or fields[0] == "Z" else int(fields[19])  # field 22 of proc(5); the name was field 2


def stat_fields(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on: field 3 of proc(5) and those after it; [] if it is gone."""
    try:
        _, _, fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")  # a name may hold spaces
        return fields.decode().split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def print_lines(path: Path, position: int, last: bool, prefix: str = "") -> int:
    """Print what a file says from byte `position` on, without submitit's own lines; returns the new position.

    An unfinished line is printed only if it is the `last` call; each line begins with `prefix`.
    """
    if not path.is_file():
        return position
    with open(path, "rb") as file:
        file.seek(position)
        content = file.read()
    if not last:
        content = content[: content.rfind(b"\n") + 1]
    lines = content.decode(errors="replace").splitlines(keepends=True)
    sys.stdout.write("".join(prefix + line for line in lines if not line.startswith("submitit ")))
    sys.stdout.flush()
    return position + len(content)


def alive(job: LocalJob) -> bool:
    """Whether a job of this machine runs. The process id alone proves nothing: ids come again, start times do not."""
    since = started(job.pid) if job.host == socket.gethostname() else None
    return since is not None and since == job.started


def stop(job: LocalJob) -> None:
    """End a job and wait for its end. Stages write by atomic renames, so an end at any moment is safe.

    Raises:
        ValueError: it does not end, or is no process of ours, whatever its record says.
    """
    if job.pid == os.getpid():
        return
    if why := _foreign(job.pid):
        raise ValueError(
            f"launch: job {job.job}: process {job.pid} {why}; accepted: a process that `mar launch` of this user "
            "started; end it by hand, and delete job.json"
        )
    for _ in range(3):  # a job that is just starting may ignore the first SIGTERM
        with contextlib.suppress(ProcessLookupError):
            os.kill(job.pid, signal.SIGTERM)
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            if not alive(job):
                return
            time.sleep(0.05)
    raise ValueError(f"launch: job {job.job} does not end at SIGTERM; end process {job.pid} by hand")


def _foreign(pid: int) -> str:
    """Why a process is none that `mar launch` of this user started; empty if it is, or if it has ended."""
    place = Path(f"/proc/{pid}")
    try:
        owner, words = place.stat().st_uid, place.joinpath("cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    if owner != os.geteuid():
        return f"is of user {owner}"
    started = (b"submitit.", b"mar.cluster.fork_server")
    ours = any(word.startswith(started) or word == b"launch" for word in words)  # the latter computes in itself
    return "" if ours else f"is {printable(words[0].decode(errors='replace'))!r}"
