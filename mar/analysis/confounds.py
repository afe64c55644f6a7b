"""Confounds: why the better side of a comparison does not decide a claim although its interval is clear.

A side may be better because it recites its training images, which a distance to these images rewards, or because it was
trained on more images than the other side. Either counts only where that side wins.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from mar.analysis.estimates import Comparison, Results
from mar.study.study import Study

Cell = tuple[str, str]  # variant, setting

COPIES = 0.1  # share of copies above which a model recites


def compare(results: Results, a: Cell, b: Cell, metric: str, edge: float = 0.0) -> Comparison | None:
    """`Results.compare`, with what would explain that either side wins."""
    comparison = results.compare(a, b, metric, edge)
    if comparison is None or metric == "seconds":
        return comparison
    return replace(comparison, unfair=(unfair(results, a, b), unfair(results, b, a)), edge=edge)


def unfair(results: Results, winner: Cell, loser: Cell) -> str:
    """Why a win of one cell over another decides nothing, in words; empty if nothing speaks against it."""
    images, others = _trained(results.study, winner), _trained(results.study, loser)
    longer = f"trained unequally: {winner[0]} on {images} images, {loser[0]} on {others}" if images > others else ""
    return "; ".join(filter(None, (longer, recites(results, winner))))


def recites(results: Results, cell: Cell) -> str:
    """A sentence on a cell whose samples copy training images; empty if they do not, or it was not measured.

    The cell recites if the lower end of its share of copies (`mar/metrics/copies.py`), averaged over its training
    seeds, is above COPIES. All seeds are compared with the same real images, so the average keeps the width of one
    interval. Held-out images copy nothing; where even the upper end of their share is below 0, they are not
    distributed as the training images are, and COPIES is raised by as much.
    """
    shares, floor = results.copied(*cell), results.floor_copied
    if not shares or floor is None:
        return ""
    value, low, high = (fmean(getattr(share, key) for share in shares) for key in ("value", "low", "high"))
    if low <= COPIES - min(0.0, floor.high):
        return ""
    return f"recites: {value:.0%} [{low:.0%}, {high:.0%}] of {cell[0]} {cell[1]} are copies of training images"


def _trained(study: Study, cell: Cell) -> int:
    """Number of images that a cell's variant is trained on."""
    return study.recipes[study.variants[cell[0]].recipe].images
