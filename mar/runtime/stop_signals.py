"""A request to leave soon: before a time limit or a preemption, a cluster sends its jobs a signal.

A training looks for the request between two steps, saves and leaves with status LEFT. Every other command loses at most
one chunk or shard of its work, so it leaves at once. Both go on where they were when the same command runs again.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

LEFT = 75  # exit status of a command that left before its work was done; EX_TEMPFAIL of sysexits.h
WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # they say that time is running out; SIGTERM says that the job is ending

_received: list[int] = []


def listen(at_once: bool) -> None:
    """Note warnings and SIGTERM from now on, instead of being ended by them.

    With `at_once` the first of them raises SystemExit(LEFT) right there; without, the work calls `asked` from time to
    time and leaves by itself.

    Children that it forks (workers of a data loader) ignore warnings and end at SIGTERM as if they were done: a cluster
    signals them too, and a worker that fails would look like an error of the job.
    """
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:
            if number == signal.SIGTERM:
                os._exit(0)
            return
        first = not _received
        _received.append(number)
        if first:
            print(f"{signal.Signals(number).name}: leaving, to go on later", flush=True)
            if at_once:
                raise SystemExit(LEFT)

    for number in (*WARNINGS, signal.SIGTERM):
        signal.signal(number, handle)


def asked() -> bool:
    """Whether this process was asked to leave."""
    return bool(_received)


def warned() -> bool:
    """Whether the request was a warning, so that the job still exists and may be put back into the queue."""
    return any(number in WARNINGS for number in _received)
