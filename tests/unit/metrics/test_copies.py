"""The share of copies: what the test of three samples says of known sets, before and after."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.recitation import digits, simulated
from mar.metrics import copies


def test_known_sets_of_real_images() -> None:
    """Shrunk and guided sets copy nothing; half copies are found; each interval covers the truth."""
    table = simulated(digits(), (800, 500, 400), runs=20, seed=5)
    rates = {name: {rule: np.mean(rows, axis=0) for rule, rows in row.items()} for name, row in table.items()}
    assert rates["shrunk"]["mean"][0] > 0.4, "the mean distance, the rule before, calls shrunk images recited"
    for name in ("fresh", "shrunk", "guided", "few"):
        assert rates[name]["all"][0] <= 0.05, name
    assert rates["few"]["all, independent"][0] > 0.1, "images with one neighbour are no independent evidence"
    assert rates["30% copies"]["all"][0] >= 0.6 > rates["30% copies"]["equal"][0], "subsets miss copies of the others"
    assert rates["50% copies"]["all"][0] == 1.0
    for name, row in rates.items():
        assert row["all"][1] >= 0.8, name
    assert rates["30% copies"]["all"][2] == pytest.approx(0.3, abs=0.06)


def test_share_by_hand() -> None:
    """Of four images two have one neighbour: 3 of 4 are training images where half are expected."""
    value, error = copies.share(np.array([7, 7, 3, 9]), np.array([1.0, 1, 1, 0]), np.full(4, 0.5))
    assert value == pytest.approx(0.5)
    drawn = (0.25 + 0.0625 + 0.0625) * 0.25 / 0.25
    assert error == pytest.approx((drawn + 0.5 * 0.5 / 4) ** 0.5)


def test_without_held_out_images_of_a_class_nothing_is_told() -> None:
    assert copies.share(np.arange(3), np.ones(3), np.ones(3)) == (0.0, 1.0)


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 3000), (6.0, 3000), (25.0, 3000)])
def test_intervals_cover_where_neighbours_repeat(ratio: float, count: int) -> None:
    """Neighbours by a distribution with heavy weights; each is a training image with probability r / (r + 1)."""
    rng, p, covered, narrow = np.random.default_rng(0), ratio / (ratio + 1), [], []
    for _ in range(300):
        weights = rng.pareto(1.2, 2000)
        neighbour = rng.choice(2000, size=count, p=weights / weights.sum())
        train = (rng.random(2000) < p)[neighbour].astype(float)
        value, error = copies.share(neighbour, train, np.full(count, p))
        covered.append(abs(value) <= copies.Z * error)
        narrow.append(abs(value) <= copies.Z * copies.share(np.arange(count), train, np.full(count, p))[1])
    assert np.mean(covered) >= 0.9 and np.mean(narrow) < 0.75
