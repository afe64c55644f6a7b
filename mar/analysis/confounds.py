"""Confounds: why the better side of a comparison does not decide a claim although its interval is clear.

A side may be better because it recites its training images, which a distance to these images rewards, or because it was
trained on more images than the other side. Or the other side was still learning when its training ended, and might have
caught up, unless that is out of reach (`mar/analysis/learning_curves.py`). Each counts only where that side wins: a
winner that was still learning would have won by more.

Of published weights a study does not know on how many images they were trained. And where a claim of the paper is
about models that each have a recipe of their own (`recipes: published`), a study on ImageNet trains by these recipes:
that one is longer than the other belongs to the claim, so it is said and does not count.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from mar.analysis.estimates import Comparison, Results
from mar.analysis.learning_curves import FAR, records, still_learning, trend
from mar.analysis.result_files import short
from mar.study import labels
from mar.study.records import Lack, Missing
from mar.study.study import Study

Cell = tuple[str, str]  # variant, setting

COPIES = 0.1  # share of copies above which a model recites
UNEQUAL: Lack = "trained unequally"
LEARNING: Lack = "still learning"


def compare(
    results: Results, a: Cell, b: Cell, metric: str, edge: float = 0.0, recipes: str = "equal"
) -> Comparison | None:
    """`Results.compare`, with what would explain that either side wins; `recipes` as in a claim's check."""
    comparison = results.compare(a, b, metric, edge)
    if comparison is None or metric == "seconds":
        return comparison
    sides, said = list[tuple[Missing, ...]](), list[Missing]()
    for winner, loser, gap in ((a, b, edge - comparison.high), (b, a, comparison.low - edge)):
        side = list[Missing]()
        for why in unfair(results, winner, loser):
            counts = why.kind != UNEQUAL or recipes == "equal" or not results.comparable
            if why.kind == LEARNING and metric == "fid" and gap > 0:  # the winner's lead, at the least
                counts, why = _in_reach(results, loser, gap, why)
            (side if counts else said).append(why)
        sides.append(tuple(side))
    return replace(comparison, unfair=(sides[0], sides[1]), said=tuple(said))


def _in_reach(results: Results, loser: Cell, gap: float, why: Missing) -> tuple[bool, Missing]:
    """Whether a losing side that was still learning could have come level in FID by training on, and that in words.

    Args:
        loser: the cell.
        gap: log ratio of FID by which it misses the claim's edge, at the least.
        why: that it was still learning.
    """
    rate = trend(records(results, loser[0]))
    assert rate is not None  # it was found to fall
    times = rate.longer(gap)
    after = f"{short(times)}" if times <= FAR else f"more than {FAR:g}"
    text = f"{why.text}; at that rate the comparison turns after {after} times as many images at the soonest"
    return times <= FAR, why.model_copy(update={"text": text})


def both(results: Results, a: Cell, b: Cell) -> tuple[tuple[Missing, ...], tuple[Missing, ...]]:
    """Why a win of a, and why a win of b, decides nothing."""
    return unfair(results, a, b), unfair(results, b, a)


def unfair(results: Results, winner: Cell, loser: Cell) -> tuple[Missing, ...]:
    """Why a win of one cell over another decides nothing; empty if nothing speaks against it."""
    why = [longer(results.study, winner, loser), recites(results, winner)]
    if winner[0] != loser[0]:  # settings of one training are compared at one point of it
        why.append(still_learning(results, loser[:1]))
    return tuple(filter(None, why))


def longer(study: Study, winner: Cell, loser: Cell) -> Missing | None:
    """That the variant of one cell was trained on more images than that of another; None if it was not.

    None also where either has published weights: the recipe of such a variant is not what they were trained by.
    """
    if any(study.variants[name].pretrained for name, _ in (winner, loser)):
        return None
    images, others = _trained(study, winner), _trained(study, loser)
    if images <= others:
        return None
    return Missing(
        kind=UNEQUAL,
        text=f"{labels.label(study, winner[0])} on {images:,} images, {labels.label(study, loser[0])} on {others:,}",
    )


def recites(results: Results, cell: Cell) -> Missing | None:
    """That the samples of a cell copy training images; None if they do not, or it was not measured.

    The cell recites if the lower end of its share of copies (`mar/metrics/copies.py`), averaged over its training
    seeds, is above COPIES. All seeds are compared with the same real images, so the average keeps the width of one
    interval. Held-out images copy nothing; where even the upper end of their share is below 0, they are not
    distributed as the training images are, and COPIES is raised by as much.
    """
    shares, floor = results.copied(*cell), results.floor_copied
    if not shares or floor is None:
        return None
    value, low, high = (fmean(getattr(share, key) for share in shares) for key in ("value", "low", "high"))
    if low <= COPIES - min(0.0, floor.high):
        return None
    text = f"{value:.0%} [{low:.0%}, {high:.0%}] of {labels.cell(results.study, *cell)} are copies of training images"
    return Missing(kind="recites", text=text)


def _trained(study: Study, cell: Cell) -> int:
    """Number of images that a cell's variant is trained on."""
    return study.recipes[study.variants[cell[0]].recipe].images
