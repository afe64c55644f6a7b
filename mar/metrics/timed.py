"""Intervals of timings: of the median of timed batches, and of the ratio of two such medians.

*Median.* From the k-th fastest to the k-th slowest of n batches, with the largest k for which the interval covers the
median of independent batches of any distribution with at least 95%: for ten batches k = 2 and 97.9%. Fewer than six
batches have no such interval; theirs is the range.

*Ratio of two settings of one variant.* Their batches alternate, so the ratio is taken round by round; that cancels what
slows down the machine, and the interval is that of the median of these ratios.

*Ratio of two variants.* These are timed one after the other, so a machine that is slower in one of them makes a false
difference that the scatter of the batches does not show. Each round therefore times a fixed piece of work too, the
yardstick. The interval reaches from the lower to the upper end of two: that of the seconds, and that of the seconds in
units of the yardstick; each from the lowest to the highest ratio of both intervals. That costs some
power where the machine is steady: `python -m benchmarks.timed` shows coverage and false rates.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Interval = tuple[float, float, float]  # value, lower end, upper end


def median(values: Sequence[float]) -> Interval:
    """The median with its interval."""
    ordered, n = sorted(values), len(values)
    k, below = 1, 2.0**-n  # below: probability that fewer than k batches are faster than the true median
    while 2.0 * (below + math.comb(n, k) * 2.0**-n) <= 0.05:
        below += math.comb(n, k) * 2.0**-n
        k += 1
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def paired(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Log ratio of two settings whose batches alternate."""
    return median([math.log(x / y) for x, y in zip(a, b, strict=True)])


def apart(a: Sequence[float], b: Sequence[float], yard_a: Sequence[float], yard_b: Sequence[float]) -> Interval:
    """Log ratio of two settings that were timed one after the other, each beside a yardstick."""
    effect, low, high = _ratio(a, b)
    in_yards = [[x / yard for x, yard in zip(x, y, strict=True)] for x, y in ((a, yard_a), (b, yard_b))]
    _, low_too, high_too = _ratio(*in_yards)
    return effect, min(low, low_too), max(high, high_too)


def _ratio(a: Sequence[float], b: Sequence[float]) -> Interval:
    x, y = median(a), median(b)
    return math.log(x[0] / y[0]), math.log(x[1] / y[2]), math.log(x[2] / y[1])
