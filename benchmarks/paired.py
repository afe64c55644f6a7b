"""Ratios that hold on a busy machine: baseline and ours in turn, medians of pairs.

    row = paired("sampling, guidance 3.0", baseline=lambda: ..., ours=lambda: ..., pairs=5)
    print(Pairs(rows=[row]).markdown())

A pair is one call of each, in alternating order, so that a machine that slows down slows both. All pairs are measured
twice: with one thread in CPU seconds, with two in wall seconds. The ratio of a row is the median of the ratios of its
pairs, and its spread their lower and upper quartile. One call of each, uncounted, comes first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tables import Row


def paired(name: str, baseline: Callable[[], object], ours: Callable[[], object], pairs: int = 5) -> Row:
    """Compare two ways of doing the same.

    Args:
        name: what is done, the first cell of the table's row.
        baseline: does it once, the way that the ratio is relative to.
        ours: does it once.
        pairs: how many pairs are counted with one thread, and again with two.
    """
    before, seconds = torch.get_num_threads(), []
    try:
        baseline(), ours()
        for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
            torch.set_num_threads(threads)
            seconds.append([_pair(baseline, ours, clock, swap=i % 2 == 1) for i in range(pairs)])
    finally:
        torch.set_num_threads(before)
    return Row(name=name, cpu=seconds[0], wall=seconds[1])


def _pair(
    baseline: Callable[[], object], ours: Callable[[], object], clock: Callable[[], float], swap: bool
) -> tuple[float, float]:
    seconds = {}
    for action in (ours, baseline) if swap else (baseline, ours):
        start = clock()
        action()
        seconds[action] = clock() - start
    return seconds[baseline], seconds[ours]


def operations(baseline: Callable[[], object], ours: Callable[[], object]) -> str:
    """Operations of both in matrix products, as torch counts them: their ratio is about the speed-up to be expected."""
    counts = []
    for action in (baseline, ours):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            action()
        counts.append(counter.get_total_flops())
    return f"{counts[0] / 1e9:.1f} against {counts[1] / 1e9:.1f} GFLOP, {counts[0] / counts[1]:.2f} times as many"
