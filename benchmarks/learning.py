"""How often the rule "still learning" is right: coverage and power by simulation.

`python -m benchmarks.learning` prints for some numbers of images the share of intervals that cover the true change, and
how often a model is said to be still learning where its FID fell by none, 5, 10 or 20%.

Features are normal, F = 16. The real ones have mean zero and unit covariance. Those of the model at three quarters of
its training are shifted by a vector of squared length 1.6, which gives FID at 4,000 images an interval of +-5%, as in
trials with Fashion-MNIST. At the end the vector is turned by an angle and shortened as FID falls. The images of both
points share a part of their noise, as those of `mar learning` do.

Then for the rule "out of reach": of pairs of trainings whose intervals are clear, the share that each of three rules
decides, and of these the share whose order is the other one at some length up to FAR times the training's. FID is
c + b n^-p at n times the length, with random c, b and p for each side, and is measured with the errors of `fashion`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mar.analysis.estimates import Z
from mar.analysis.learning_curves import FAR, Trend
from mar.metrics import jackknife
from mar.sampling.learning import change, within_classes

FEATURES, CLASSES, SHIFT = 16, 10, 1.6
COSINE = 0.8  # of the angle between the shifts of both points
SHARED = 0.7  # correlation of the features of paired images
REAL = {"mu": np.zeros(FEATURES), "sigma": np.eye(FEATURES)}


def trial(rng: np.random.Generator, n: int, fall: float, shared: float = SHARED) -> tuple[float, float]:
    """Effect and standard error of the change of log FID from one pair of sets of n images."""
    first = rng.standard_normal((n, FEATURES))
    last = shared * first + math.sqrt(1 - shared**2) * rng.standard_normal((n, FEATURES))
    first[:, 0] += math.sqrt(SHIFT)
    length = math.sqrt(SHIFT * (1 - fall))
    last[:, 0] += length * COSINE
    last[:, 1] += length * math.sqrt(1 - COSINE**2)
    labels, found = np.arange(n) % CLASSES, []
    for rows in (first, last):
        value, moves = jackknife.fid(rows, REAL)
        found.append((value, within_classes(moves, labels)))
    return change(*found)


def shares(n: int, fall: float, trials: int, seed: int = 0) -> tuple[float, float]:
    """Share of intervals that cover the mean measured change, and of trials that are called still learning."""
    rng = np.random.default_rng(seed)
    effects, errors = np.array([trial(rng, n, fall) for _ in range(trials)]).T
    covered = np.abs(effects - effects.mean()) < Z * errors
    return float(covered.mean()), float((effects + Z * errors < 0).mean())


@dataclass(frozen=True)
class Curve:
    """FID over images, which are counted in lengths of the training."""

    floor: float
    excess: float
    power: float

    def fid(self, n: float) -> float:
        """FID after n times the length."""
        return self.floor + self.excess * n**-self.power


RULES = ("whatever was still learning", "unless the loser was still learning", "unless it comes within reach")


def reach(trials: int, seed: int = 0, fid: float = 0.03, fall: float = 0.006) -> dict[str, tuple[float, float]]:
    """Share of clear pairs that each rule decides, and share of those decided whose order changes later.

    Args:
        trials: number of pairs.
        seed: of the random numbers.
        fid: standard error of log FID at the end of a training.
        fall: standard error of its change in the last quarter.
    """
    rng = np.random.default_rng(seed)
    clear, decided, wrong = 0, dict.fromkeys(RULES, 0), dict.fromkeys(RULES, 0)
    for _ in range(trials):
        # FID at the end is within a factor of e of 1.6; up to 80% of it can still be gained, at powers as in `fashion`
        ends, shares_ = 1.6 * np.exp(rng.uniform(-1, 1, 2)), rng.uniform(0, 0.8, 2)
        a, b = (Curve(e * (1 - s), e * s, p) for e, s, p in zip(ends, shares_, rng.uniform(0.3, 2, 2), strict=True))
        effect = math.log(a.fid(1) / b.fid(1)) + math.sqrt(2) * fid * rng.standard_normal()
        gap = abs(effect) - Z * math.sqrt(2) * fid
        if gap <= 0:
            continue
        winner, loser = (a, b) if effect < 0 else (b, a)
        change = math.log(loser.fid(1) / loser.fid(0.75)) + fall * rng.standard_normal()
        trend = Trend(75, 100, change, change - Z * fall, change + Z * fall)
        rules = (True, not trend.falls, not trend.falls or trend.longer(gap) > FAR)
        changes = any(loser.fid(n) < winner.fid(n) for n in np.geomspace(1, FAR, 40))
        clear += 1
        for rule, decides in zip(RULES, rules, strict=True):
            decided[rule] += decides
            wrong[rule] += decides and changes
    return {rule: (decided[rule] / clear, wrong[rule] / max(decided[rule], 1)) for rule in RULES}


def main() -> None:
    """Print the tables."""
    print(f"{'images':>7} {'fall':>6} {'coverage':>9} {'still learning':>15}")
    for n, trials in ((1000, 1000), (2000, 600), (5000, 300)):
        for fall in (0.0, 0.05, 0.1, 0.2):
            coverage, called = shares(n, fall, trials)
            print(f"{n:7d} {fall:6.0%} {coverage:9.1%} {called:15.1%}", flush=True)
    print(f"\n{'decides':>36} {'of clear pairs':>15} {'order changes later':>20}")
    for rule, (decided, wrong) in reach(20_000).items():
        print(f"{rule:>36} {decided:15.1%} {wrong:20.2%}")


if __name__ == "__main__":
    main()
