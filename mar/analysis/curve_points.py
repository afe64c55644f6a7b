"""The sample sets along a curve of a figure."""

from __future__ import annotations

from mar.analysis.estimates import Results
from mar.study.sections import Curve


def along(results: Results, figure: str, curve: Curve) -> list[tuple[float, str]]:
    """The points of a curve: the value of the varied key and the setting, in ascending order.

    Args:
        results: numbers of the study.
        figure: the figure, which is also what its sampling settings vary: a key, or the evaluations of the head.
        curve: the curve.

    Returns:
        Value and setting of each point. A temperature that a sweep has chosen is the chosen one.

    Raises:
        ValueError: a setting lacks the key, or two settings have the same value.
    """
    points = []
    for setting in curve.sampling:
        used = results.sampling(curve.variant, setting)
        head = results.study.heads[results.study.variants[curve.variant].head]
        x = head.evaluations(used) if figure == "evaluations" else getattr(used, figure)
        if x is None:
            raise ValueError(f"{figure}: curve {curve.label!r}: sampling.{setting} has no {figure}; accepted: a number")
        points.append((x, setting))
    points.sort()
    if len({x for x, _ in points}) < len(points):
        found = ", ".join(f"{setting}: {x:g}" for x, setting in points)
        raise ValueError(f"{figure}: curve {curve.label!r}: found {found}; accepted: each {figure} once")
    return points
