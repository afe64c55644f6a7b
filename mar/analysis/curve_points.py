"""The sample sets along a curve of a figure."""

from __future__ import annotations

from mar.analysis.estimates import Results
from mar.study.sections import Curve


def along(results: Results, figure: str, curve: Curve) -> list[tuple[float, str]]:
    """What a curve varies and the setting of each of its points, in ascending order.

    A temperature is the one that was used, also where a sweep has chosen it.

    Raises:
        ValueError: a setting does not say it, or two settings say the same.
    """
    points = []
    for setting in curve.sampling:
        x = getattr(results.sampling(curve.variant, setting), figure)
        if x is None:
            raise ValueError(f"{figure}: curve {curve.label!r}: sampling.{setting} has no {figure}; accepted: a number")
        points.append((x, setting))
    points.sort()
    if len({x for x, _ in points}) < len(points):
        found = ", ".join(f"{setting}: {x:g}" for x, setting in points)
        raise ValueError(f"{figure}: curve {curve.label!r}: found {found}; accepted: each {figure} once")
    return points
