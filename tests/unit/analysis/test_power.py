"""What would decide a comparison, against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mar.analysis import power
from mar.analysis.intervals import effective, half_width


@pytest.mark.parametrize(("tau", "b"), [(0.05, 0.1), (0.1, 0.02)])
def test_the_seeds_that_are_said_decide_in_80_of_100_repetitions(tau: float, b: float) -> None:
    variants, distance, now = 6, 0.25, 2
    dof = effective({str(i): now - 1 for i in range(variants)}, [("0", 1.0), ("1", 1.0)])
    k = power.seeds(distance, tau**2 + b**2, b**2, dof, now)
    assert k is not None and k > now
    decided = []
    for seeds in (k, k - 1):
        rng, n = np.random.default_rng(0), 40_000
        free = dof * (seeds - 1) / (now - 1)
        total = (tau**2 + b**2) * rng.chisquare(free, n) / free * 2 / seeds
        effect = rng.normal(distance, math.sqrt((tau**2 + b**2) * 2 / seeds), n)
        decided.append((effect > half_width(total, b**2 * 2 / seeds, free)).mean())
    assert decided[0] > 0.78 and decided[1] < 0.83, "and with a seed less about or under 80"


def test_images_help_where_images_are_the_noise() -> None:
    found = power.images(0.2, 0.01, 0.0095, 6.0, 1000)
    assert found is not None and 1000 < found < 4000 and found % 100 == 0
    assert power.images(0.2, 0.01, 0.0001, 6.0, 1000) is None
    assert power.images(0.0, 0.01, 0.0095, 6.0, 1000) is None and power.seeds(0.0, 0.01, 0.005, 6.0, 2) is None
    assert power.decides(0.2, 0.001, 0.001, math.inf) and not power.decides(0.05, 0.001, 0.001, math.inf)
