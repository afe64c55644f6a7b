"""Intervals of timings: by hand, and their false rates and power on a steady and on a busy machine."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.timed import rates
from mar.metrics import timed


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (3, 1), (5, 1), (6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (20, 6)])
def test_ranks_of_the_interval_are_those_of_the_sign_test(n: int, rank: int) -> None:
    values = list(np.random.default_rng(n).permutation(n) + 1.0)
    assert timed.median(values) == ((n + 1) / 2, rank, n + 1 - rank)


def test_ratio_of_alternating_batches_does_not_see_the_machine() -> None:
    machine = np.array([1, 5, 2, 9, 1, 1, 3, 1, 1, 4.0])
    assert timed.paired(list(0.3 * machine), list(0.1 * machine)) == pytest.approx([math.log(3)] * 3)


def test_a_machine_that_is_slower_in_one_stage_makes_no_difference() -> None:
    batch, slow = np.linspace(0.99, 1.01, 10), 1.5
    effect, low, high = timed.apart(list(slow * batch), list(batch), [slow] * 10, [1.0] * 10)
    assert effect == pytest.approx(math.log(slow)) and low < 0 < effect < high
    _, low, _ = timed.apart(list(2 * slow * batch), list(batch), [slow] * 10, [1.0] * 10)
    assert low == pytest.approx(math.log(2 * batch[1] / batch[8])), "what is slower in units of the yardstick is found"


def test_false_rates_and_power() -> None:
    steady, busy = rates(600, False), rates(600, True)
    assert steady["before"][0] > 0.03 and busy["before"][0] > 0.2, "the range of three batches, the rule before"
    assert busy["seconds"][0] > 0.2, "ten batches alone do not know that the machine was slower"
    for found in (steady, busy):
        assert found["yardstick"][0] <= 0.01 and found["one stage"][0] <= 0.025
        assert found["one stage"][1] >= 0.9
    assert steady["yardstick"][1] >= 0.75 and busy["yardstick"][1] >= 0.5
