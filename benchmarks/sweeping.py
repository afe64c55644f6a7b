"""How far the point that a sweep chooses depends on chance: the lowest FID against one standard error.

`python -m benchmarks.sweeping` prints the table. The grid is that of a typical sweep: five guidance scales, three
temperatures. FID falls with guidance to a flat valley and rises again; the noise of a point has a relative standard
error of `error`, of which all points share a part, since they are drawn with the same random numbers. "By chance" is
how often two sweeps that differ in their noise alone choose different points, "guidance" the standard deviation of the
chosen scale, and "loss" by how much the true FID at the chosen point exceeds the least one, in percent.
"""

from __future__ import annotations

import numpy as np

from mar.sampling.sweep import Z, plainest, winner, within
from mar.study.records import Metric, SweepPoint

GUIDANCE, TEMPERATURE = (1.0, 1.5, 2.0, 3.0, 4.0), (0.9, 1.0, 1.1)
SHARED = 0.5  # correlation of the noise of two points
BEST = 2.5  # guidance scale of the least FID


def truth() -> np.ndarray:
    """FID without noise at each point, (scales, temperatures)."""
    scales, temperatures = np.log(GUIDANCE)[:, None] - np.log(BEST), np.array(TEMPERATURE) - 1.0
    return 10.0 * (1.0 + 0.15 * scales**2 + 2.0 * temperatures**2)


def chosen(error: float, runs: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Index of the chosen scale and temperature by each rule, (runs, 2), for a relative standard error of FID."""
    rng, known = np.random.default_rng(seed), truth()
    found: dict[str, list] = {"lowest": [], "one standard error": []}
    for _ in range(runs):
        noise = SHARED**0.5 * rng.normal() + (1.0 - SHARED) ** 0.5 * rng.normal(size=known.shape)
        points = [point(i, j, value, error) for (i, j), value in np.ndenumerate(known * (1.0 + error * noise))]
        lowest = winner(points)
        assert lowest is not None
        for rule, best in (("lowest", lowest), ("one standard error", plainest(within(points, lowest)))):
            found[rule].append((GUIDANCE.index(best.guidance), TEMPERATURE.index(best.temperature)))
    return {rule: np.array(places) for rule, places in found.items()}


def point(i: int, j: int, value: float, error: float) -> SweepPoint:
    """A point of the grid with its FID."""
    half = Z * error * value
    fid = Metric(
        value=value, low=value - half, high=value + half, n=1000, bootstrap=200, seed=0, higher_is_better=False
    )
    return SweepPoint(guidance=GUIDANCE[i], temperature=TEMPERATURE[j], round=0, fid=fid)


def summary(places: np.ndarray) -> tuple[float, float, float]:
    """Share of pairs of runs that choose different points, standard deviation of the scale, mean loss of FID."""
    half = len(places) // 2
    differ = (places[:half] != places[half : 2 * half]).any(1).mean()
    known = truth()
    loss = known[places[:, 0], places[:, 1]].mean() / known.min() - 1.0
    return float(differ), float(np.array(GUIDANCE)[places[:, 0]].std()), float(loss)


def main() -> None:
    """Print the table."""
    print("| error of FID | rule | by chance | guidance | loss |\n|---|---|---|---|---|")
    for error in (0.005, 0.01, 0.03, 0.08):
        for rule, places in chosen(error, 2000).items():
            differ, spread, loss = summary(places)
            print(f"| {error:.1%} | {rule} | {differ:.0%} | {spread:.2f} | {loss:.1%} |")


if __name__ == "__main__":
    main()
