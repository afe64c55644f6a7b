"""Ratios that hold on a busy machine: baseline and ours in turn, medians of pairs.

    row = paired("sampling, guidance 3.0", baseline=lambda: ..., ours=lambda: ..., pairs=5)
    print(table([row]))

A pair is one call of each, in alternating order, so that a machine that slows down slows both. All pairs are measured
twice: with one thread in CPU seconds, with two in wall seconds. The ratio of a row is the median of the ratios of its
pairs, and its spread their lower and upper quartile. One call of each, uncounted, comes first.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Ratio:
    """Seconds of the baseline and of this package, and their ratio over pairs."""

    baseline: float  # median seconds of the baseline
    ours: float  # median seconds of this package
    ratio: float  # median over pairs of baseline / ours
    low: float  # lower quartile of these ratios
    high: float  # upper quartile


@dataclass(frozen=True)
class Row:
    """One comparison: CPU seconds with one thread, wall seconds with two."""

    name: str
    pairs: int
    cpu: Ratio
    wall: Ratio


def paired(name: str, baseline: Callable[[], object], ours: Callable[[], object], pairs: int = 7) -> Row:
    """Compare two ways of doing the same.

    Args:
        name: what is done, the first cell of the table's row.
        baseline: does it once, the way that the ratio is relative to.
        ours: does it once.
        pairs: how many pairs are counted with one thread, and again with two.
    """
    before = torch.get_num_threads()
    try:
        baseline(), ours()
        ratios = []
        for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
            torch.set_num_threads(threads)
            ratios.append(_ratio([_pair(baseline, ours, clock, swap=i % 2 == 1) for i in range(pairs)]))
    finally:
        torch.set_num_threads(before)
    return Row(name, pairs, *ratios)


def _pair(
    baseline: Callable[[], object], ours: Callable[[], object], clock: Callable[[], float], swap: bool
) -> tuple[float, float]:
    seconds = {}
    for action in (ours, baseline) if swap else (baseline, ours):
        start = clock()
        action()
        seconds[action] = clock() - start
    return seconds[baseline], seconds[ours]


def _ratio(pairs: Sequence[tuple[float, float]]) -> Ratio:
    seconds = np.array(pairs)  # (n, 2)
    low, median, high = np.quantile(seconds[:, 0] / seconds[:, 1], [0.25, 0.5, 0.75])
    return Ratio(*map(float, (*np.median(seconds, axis=0), median, low, high)))


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table: seconds of the baseline and ours, ratio with quartiles, number of pairs."""
    head = "| | CPU s, 1 thread: baseline | ours | ratio | wall s, 2 threads: baseline | ours | ratio | pairs |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{r.baseline:.3g} | {r.ours:.3g} | **{r.ratio:.2f}** ({r.low:.2f} to {r.high:.2f})"
            for r in (row.cpu, row.wall)
        ]
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.pairs} |")
    return "\n".join(lines)


def machine() -> str:
    """The processor and the version of torch."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # no Linux
    return f"{model}, torch {torch.__version__}"


def operations(baseline: Callable[[], object], ours: Callable[[], object]) -> str:
    """Operations of both in matrix products, as torch counts them: their ratio is about the speed-up to be expected."""
    counts = []
    for action in (baseline, ours):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            action()
        counts.append(counter.get_total_flops())
    return f"{counts[0] / 1e9:.1f} against {counts[1] / 1e9:.1f} GFLOP, {counts[0] / counts[1]:.2f} times as many"
