"""How many more seeds or images would decide a comparison: those with which 80% of repetitions of the study would.

A comparison decides if its effect lies further from the claim's edge than its interval reaches. With the effect and the
parts of the variance as they were estimated, that happens in 80% of repetitions if the distance is

    distance >= half-width + 0.8416 sqrt(variance),

the half-width being that of `mar/analysis/intervals.py`. More seeds divide the whole variance and give it more degrees
of freedom; more images divide the part of the images alone.
"""

from __future__ import annotations

import math

from mar.analysis.intervals import half_width

POWER = 0.841621  # 80% quantile of the normal distribution
MOST_SEEDS, MOST_TIMES = 200, 100  # more seeds, or more times the images, are as good as none


def decides(distance: float, variance: float, images: float, dof: float) -> bool:
    """Whether an effect at this distance from the edge is decided in 80% of repetitions."""
    scatter = math.sqrt(max(variance, images))
    return distance >= float(half_width(variance, images, dof)) + POWER * scatter


def seeds(distance: float, variance: float, images: float, dof: float, now: int) -> int | None:
    """Seeds a side that decide, more than the present ones; None if MOST_SEEDS do not.

    Args:
        distance: |effect - edge|.
        variance: estimated variance of the effect with the present seeds.
        images: its part from the images.
        dof: its degrees of freedom.
        now: the present number of seeds a side.
    """
    for k in range(now + 1, MOST_SEEDS + 1):
        free = (
            dof * (k - 1) / (now - 1) if now > 1 else max(dof, 2.0 * (k - 1)) if math.isfinite(dof) else 2.0 * (k - 1)
        )
        if decides(distance, variance * now / k, images * now / k, free):
            return k
    return None


def images(distance: float, variance: float, images: float, dof: float, now: int) -> int | None:
    """Images a sample set that decide, more than the present ones, to two digits; None if MOST_TIMES as many do not."""
    rest, times = variance - images, 1.0
    while times < MOST_TIMES:
        times *= 1.05
        if decides(distance, rest + images / times, images / times, dof):
            step = 10 ** max(0, len(str(round(now * times))) - 2)
            return math.ceil(now * times / step) * step
    return None
