"""Sums and differences of estimates, with intervals."""

from __future__ import annotations

import math

from mar.analysis.result_files import Estimate


def combine(*terms: tuple[float, Estimate]) -> Estimate:
    """The sum of factor x estimate, with a 95% interval from the intervals of the estimates.

    The distances from the sum to its two ends are the roots of the summed squares of those of the terms (Zou and
    Donner, Statistics in Medicine 27, 2008, 1693): exact for normal estimates, and it takes intervals as they are,
    also uneven ones and those of few seeds. The estimates count as independent. Of two FIDs of the same images, such
    as rFID and its floor, the interval of the difference is then too wide rather than too narrow, as these rise and
    fall together.

    Returns:
        The sum, on the scale of its terms. It has the least n of those that were measured with images.
    """
    value = sum(factor * e.value for factor, e in terms)
    below = sum((factor * (e.value - (e.low if factor > 0 else e.high))) ** 2 for factor, e in terms)
    above = sum((factor * ((e.high if factor > 0 else e.low) - e.value)) ** 2 for factor, e in terms)
    n = min((e.n for _, e in terms if e.n), default=0)
    return Estimate(value, value - below**0.5, value + above**0.5, n)


def widened(e: Estimate, factor: float) -> Estimate:
    """An estimate with both ends of its interval as many times as far from it."""
    return Estimate(
        e.value, e.value - factor * (e.value - e.low), e.value + factor * (e.high - e.value), e.n, e.seeds, e.source
    )


# With one training seed an effect decides only if it is three times as far from its threshold as half the interval is
# wide that two seeds would have (`mar/analysis/estimates.py`, "One training seed"): this many half-widths with one.
FAR = 3 / math.sqrt(2)
