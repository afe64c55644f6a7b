"""Progress of long work: one plain line now and then, readable on a terminal and in a log file."""

from __future__ import annotations

import time


class Progress:
    """Counts up to a total and prints how far the work is, its rate and its latest numbers.

    The lines are `every` so many seconds apart, and a fifth of the time that the work has taken.
    """

    def __init__(self, label: str, total: int, done: int = 0, unit: str = "images", every: float = 10.0) -> None:
        self.label, self.total, self.unit, self.every = label, total, unit, every
        self.done = self.first = done
        self.start = self.last = time.monotonic()

    def update(self, count: int, **fields: float) -> None:
        """Add `count` units; `fields` are numbers to show after the count, as a loss or a learning rate."""
        self.done += count
        now = time.monotonic()
        if now - self.last < max(self.every, (now - self.start) / 5) and self.done < self.total:
            return
        self.last = now
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        remaining = (self.total - self.done) / max(rate, 1e-9)  # seconds
        shown = "".join(f", {key} {value:.4g}" for key, value in fields.items())
        tail = f", {remaining:.0f} s left" if self.done < self.total else f", {now - self.start:.0f} s"
        print(f"{self.label}: {self.done}/{self.total} {self.unit}, {rate:.0f}/s{tail}{shown}", flush=True)
