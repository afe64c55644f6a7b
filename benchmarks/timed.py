"""How often timings of equal speed are called different, and different ones found, on a steady and on a busy machine.

`python -m benchmarks.timed` prints the table. A batch takes t x drift x noise: noise is lognormal with 4% and, in one
batch of ten, up to half as much again (another process). The drift of a busy machine is slow: 15% between stages
and, within a stage, a tenth of that between rounds. "before" is the range of three batches; "seconds" are ten batches
without a yardstick; "yardstick" is `mar/metrics/timed.py`, whose yardstick has a noise of its own of 4%. False: share
of equal pairs called different in one direction, the other being as frequent. Found: share of pairs 1.3 times apart.
"""

from __future__ import annotations

import math

import numpy as np

from mar.metrics import timed

NOISE, BETWEEN, WITHIN = 0.04, 0.15, 0.015


def stage(rng: np.random.Generator, seconds: tuple[float, ...], rounds: int, busy: bool) -> list[np.ndarray]:
    """Seconds of the batches of a stage, for each setting (rounds,), and last of the yardstick."""
    start = BETWEEN * rng.normal() * busy
    drift = start + np.cumsum(WITHIN * rng.normal(size=rounds) * busy)

    def batches(t: float, stalls: bool = True) -> np.ndarray:
        stalled = stalls * (rng.random(rounds) < 0.1) * rng.uniform(0, 0.4, rounds)
        return t * np.exp(drift + NOISE * rng.normal(size=rounds) + stalled)

    return [*(batches(t) for t in seconds), batches(1.0)]


def simulated(apart: float, busy: bool, runs: int, seed: int = 0) -> dict[str, np.ndarray]:
    """By rule the ends of the interval of the log ratio of two times that are `apart` times apart, (runs, 2)."""
    rng = np.random.default_rng(seed)
    found: dict[str, list] = {"before": [], "seconds": [], "yardstick": [], "one stage, before": [], "one stage": []}
    for _ in range(runs):
        (a, yard_a), (b, yard_b) = (stage(rng, (t,), 10, busy) for t in (apart, 1.0))
        found["before"].append((math.log(a[:3].min() / b[:3].max()), math.log(a[:3].max() / b[:3].min())))
        same = np.ones(10)
        found["seconds"].append(timed.apart(*map(list, (a, b, same, same)))[1:])
        found["yardstick"].append(timed.apart(*map(list, (a, b, yard_a, yard_b)))[1:])
        a, b, _ = stage(rng, (apart, 1.0), 10, busy)
        found["one stage, before"].append((math.log(a[:3].min() / b[:3].max()), math.log(a[:3].max() / b[:3].min())))
        found["one stage"].append(timed.paired(list(a), list(b))[1:])
    return {rule: np.array(ends) for rule, ends in found.items()}


def rates(runs: int, busy: bool) -> dict[str, tuple[float, float]]:
    """By rule the false rate in one direction and the share of pairs 1.3 times apart that are found."""
    equal, different = simulated(1.0, busy, runs), simulated(1.3, busy, runs, seed=1)
    false = {rule: float(((ends[:, 0] > 0) | (ends[:, 1] < 0)).mean() / 2) for rule, ends in equal.items()}
    return {rule: (false[rule], float((ends[:, 0] > 0).mean())) for rule, ends in different.items()}


def main() -> None:
    """Print the table."""
    print("| machine | rule | false | found |\n|---|---|---|---|")
    for busy in (False, True):
        for rule, (false, found) in rates(4000, busy).items():
            print(f"| {'busy' if busy else 'steady'} | {rule} | {false:.1%} | {found:.0%} |")


if __name__ == "__main__":
    main()
