"""How often the rule "still learning" is right: coverage and power by simulation.

`python -m benchmarks.learning` prints for some numbers of images the share of intervals that cover the true change, and
how often a model is said to be still learning where its FID fell by none, 5, 10 or 20%.

Features are normal, F = 16. The real ones have mean zero and unit covariance. Those of the model at three quarters of
its training are shifted by a vector of squared length 1.6, which gives FID at 4,000 images an interval of +-5%, as in
trials with Fashion-MNIST. At the end the vector is turned by an angle and shortened as FID falls. The images of both
points share a part of their noise, as those of `mar learning` do.
"""

from __future__ import annotations

import math

import numpy as np

from mar.analysis.estimates import Z
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


def main() -> None:
    """Print the table."""
    print(f"{'images':>7} {'fall':>6} {'coverage':>9} {'still learning':>15}")
    for n, trials in ((1000, 1000), (2000, 600), (5000, 300)):
        for fall in (0.0, 0.05, 0.1, 0.2):
            coverage, called = shares(n, fall, trials)
            print(f"{n:7d} {fall:6.0%} {coverage:9.1%} {called:15.1%}", flush=True)


if __name__ == "__main__":
    main()
