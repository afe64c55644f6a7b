"""The sample sets along a curve of a figure."""

from __future__ import annotations

from mar.analysis.estimates import Results
from mar.study.sections import Curve


def along(results: Results, figure: str, curve: Curve) -> list[tuple[float, str]]:
    """The points of a curve: the value of the varied key and the setting, in ascending order.

    Args:
        results: numbers of the study.
        figure: the figure, which is also the key of the sampling settings that it varies.
        curve: the curve.

    Returns:
        Value and setting of each point. A temperature that a sweep has chosen is the chosen one.

    Raises:
        ValueError: a setting lacks the key, or two settings have the same value.
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
