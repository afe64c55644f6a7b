"""Which orderings of the paper's Table 1 a study can decide, by images a set and training seeds a side.

    python -m benchmarks.power --images 3.4 --seeds 0.05

Needs numpy and scipy. A claim is decided if 80% of repetitions of the study would decide it, were its effect the
paper's (`mar/analysis/power.py`). Scatter is that of log FID; that of a set's images falls with sqrt(n).
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence

from mar.analysis.intervals import effective
from mar.analysis.power import MOST_SEEDS, decides
from mar.paper.numbers import paper_rows

PAIRS = {
    "Diffusion Loss, raster order": ("ar-raster-diffloss", "ar-raster-crossent"),
    "Diffusion Loss, random order, causal": ("mar-causal-diffloss", "mar-causal-crossent"),
    "Diffusion Loss, bidirectional, one token": ("mar-one-diffloss", "mar-one-crossent"),
    "Diffusion Loss, bidirectional, many": ("mar-default-diffloss", "mar-default-crossent"),
    "random order, cross-entropy": ("mar-causal-crossent", "ar-raster-crossent"),
    "random order, Diffusion Loss": ("mar-causal-diffloss", "ar-raster-diffloss"),
    "bidirectional, cross-entropy": ("mar-one-crossent", "mar-causal-crossent"),
    "bidirectional, Diffusion Loss": ("mar-one-diffloss", "mar-causal-diffloss"),
}


def decided(effect: float, images: float, seeds: float, n: int, k: int, variants: int) -> bool:
    """Whether an effect on log FID is decided; `images`: sd by the images of a set, times sqrt(n)."""
    part = 2 * images**2 / n / k
    dofs = {str(i): k - 1 for i in range(variants)}
    return decides(abs(effect), part + 2 * seeds**2 / k, part, effective(dofs, [("0", 1 / k), ("1", 1 / k)]))


def least(images: float, seeds: float, n: int, k: int, variants: int) -> float:
    """The least effect that is decided, by bisection."""
    low, high = 0.0, 50.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if decided(middle, images, seeds, n, k, variants) else (middle, high)
    return high


def main(arguments: Sequence[str] | None = None) -> None:
    """Print two tables: the least effect, and the seeds a side that each ordering takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=float, default=3.4, help="sd of log FID by images, times sqrt(n)")
    parser.add_argument("--seeds", type=float, default=0.05, help="sd of log FID that training seeds add")
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 2500, 5000, 10000], help="images a sample set")
    parser.add_argument("--k", type=int, nargs="+", default=[2, 3, 4, 5], help="training seeds a side")
    parser.add_argument("--variants", type=int, default=8, help="variants with as many seeds, which share the pool")
    o = parser.parse_args(arguments)
    print(f"scatter of log FID: images {o.images:g} / sqrt(n), seeds {o.seeds:g}; {o.variants} variants\n")
    print("least log ratio that is decided\n\n| n | " + " | ".join(f"{k} seeds" for k in o.k) + " |")
    print("|---|" + "---|" * len(o.k))
    for n in o.n:
        print(f"| {n} | " + " | ".join(f"{least(o.images, o.seeds, n, k, o.variants):.2f}" for k in o.k) + " |")
    print("\nseeds a side that decide\n\n| ordering (FID) | log ratio | " + " | ".join(f"n = {n}" for n in o.n) + " |")
    print("|---|---|" + "---|" * len(o.n))
    rows = paper_rows("mar_table1")
    for (name, (a, b)), (column, how) in itertools.product(PAIRS.items(), (("fid_nocfg", ""), ("fid_cfg", ", guided"))):
        effect = math.log(float(rows[a][column]) / float(rows[b][column]))
        counts = range(2, MOST_SEEDS + 1)
        needed = [
            next((k for k in counts if decided(effect, o.images, o.seeds, n, k, o.variants)), f"over {MOST_SEEDS}")
            for n in o.n
        ]
        print(f"| {name}{how} | {effect:+.2f} | " + " | ".join(map(str, needed)) + " |")


if __name__ == "__main__":
    main()
