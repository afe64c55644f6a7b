"""How often the intervals of verdicts cover, and how wide they are: the rule of before and that of now, simulated.

    python -m benchmarks.verdict_rules

Before: one Student's t for both parts, one pooled scatter. Now: `mar/analysis/intervals.py`. Normal numbers; images
scatter by 1, seeds by 0 to 4 times as much; two variants of V with K seeds each are compared. Widths are half-widths in
units of the true standard deviation of the effect (1.96 is the least with 95%), means over the ratios.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from mar.analysis.intervals import effective, half_width, quantile, shrunk

RATIOS = np.arange(0.0, 4.01, 0.25)


def simulate(scale: Sequence[float], k: int, n: int) -> list[tuple[float, float]]:
    """Least coverage over the ratios and mean half-width: before, and now."""
    rows = []
    for ratio in RATIOS:
        rng, variants = np.random.default_rng(0), len(scale)
        true = (ratio * np.array(scale)) ** 2 + 1.0
        effect = np.abs(np.diff(rng.normal(0.0, np.sqrt(true[:2] / k), (n, 2)))[:, 0])
        own = true * rng.chisquare(k - 1, (n, variants)) / (k - 1) - 1.0  # less the images' part
        pool = own.mean(1)
        dof = effective({str(i): k - 1 for i in range(variants)}, [("0", 1 / k), ("1", 1 / k)])
        total = sum((shrunk(own[:, i], k - 1, pool) + 1.0) / k for i in (0, 1))
        before = quantile(variants * (k - 1)) * np.sqrt(2 / k * (np.maximum(0.0, pool) + 1.0))
        halves = before, half_width(total, 2 / k, dof)
        sd = np.sqrt(true[:2].sum() / k)
        rows.append([((effect < half).mean(), half.mean() / sd) for half in halves])
    values = np.array(rows)  # (ratios, 2 rules, coverage and width)
    return [(float(values[:, rule, 0].min()), float(values[:, rule, 1].mean())) for rule in (0, 1)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one row per design and scatter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40_000)
    n = parser.parse_args(arguments).repetitions
    print("| scatter | variants | seeds | degrees | worst coverage before | now | half-width before | now |")
    print("|---|---|---|---|---|---|---|---|")
    equal = [(v, 2) for v in range(2, 15)] + [(3, 3), (6, 3), (7, 3)]
    designs = [("equal", v, k) for v, k in equal]
    designs += [(how, v, k) for how in ("one triple", "both triple") for v, k in ((4, 2), (8, 2), (8, 3), (24, 3))]
    for how, v, k in designs:
        triple = {"equal": 0, "one triple": 1, "both triple": 2}[how]
        (c, w), (cc, ww) = simulate([3.0] * triple + [1.0] * (v - triple), k, n)
        print(f"| {how} | {v} | {k} | {v * (k - 1)} | {100 * c:.1f}% | {100 * cc:.1f}% | {w:.2f} | {ww:.2f} |")


if __name__ == "__main__":
    main()
