"""Precision and recall of features of 2,048 numbers: torch-fidelity's function (float32) and ours (decided in float64).

python -m benchmarks.precision 50000     seconds and peak memory at full size, with the interval of recall
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from benchmarks.paired import paired
from benchmarks.tables import Pairs, Parts
from mar.metrics import formulas
from mar.metrics.bootstrap import Bootstrap
from mar.study.limits import REAL

COUNT, PAIRS, FEATURES, CLASSES = 3000, 2, 2048, 1000


def report() -> Parts:
    """The table of both functions on sets of equal size."""
    drawn, real = features(COUNT, 0), features(COUNT, 1)
    tensors = torch.from_numpy(drawn), torch.from_numpy(real)
    row = paired(
        f"{COUNT:,} against {COUNT:,} images",
        lambda: calculate_precision_recall_full(*tensors, 3, 10_000),
        lambda: formulas.precision_recall(drawn, real, 3),
        PAIRS,
    )
    return [Pairs(rows=[row])]


def features(count: int, seed: int) -> np.ndarray:
    """Stand-in features, float32 (N, 2048), of 64 directions and noise, cut off at 0 like Inception's."""
    directions = np.random.default_rng(0).standard_normal((64, FEATURES), dtype=np.float32)
    rng, rows = np.random.default_rng(seed), np.empty((count, FEATURES), np.float32)
    for start in range(0, count, 1000):
        part = rows[start : start + 1000]
        part[:] = 0.4 + 0.04 * (rng.standard_normal((len(part), 64), dtype=np.float32) @ directions)
        part += 0.15 * rng.standard_normal(part.shape, dtype=np.float32)
    return rows.clip(min=0.0, out=rows)


def main() -> None:
    """One evaluation's precision and recall at the size asked for."""
    count = int(sys.argv[1])
    drawn, real = features(count, 0), features(min(count, REAL), 1)
    wall, cpu = time.monotonic(), time.process_time()
    metrics = Bootstrap(np.arange(count) % CLASSES, 200, 0).precision_recall(drawn, real, 3)
    print(*(f"{metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f})" for metric in metrics))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{count:,} x {FEATURES} against {len(real):,}: {time.monotonic() - wall:.0f} s, "
        f"{time.process_time() - cpu:.0f} CPU s, peak memory {peak:.2f} GB"
    )


if __name__ == "__main__":
    main()
