"""What keeps a comparison that its interval decides from deciding a claim: recitation, unequal training."""

from __future__ import annotations

from collections.abc import Sequence

from mar.analysis.estimates import Comparison, Results
from mar.analysis.metric_kinds import lower_is_better
from mar.analysis.result_files import Estimate
from mar.study.study import Study

Cell = tuple[str, str]  # variant, setting


def recited(evidence: Sequence[Estimate], results: Results) -> str:
    """Which models among the evidence about quality recite their training images, in words; empty if none does.

    One does where its samples lie nearer to training images than held-out real images do, by both intervals.
    """
    if "nearest" not in results.names or "nearest" not in results.measured:
        return ""
    held, quality = results.floor("nearest"), set(results.names)
    sources = [e.source for e in evidence if e.source and e.source.setting and e.source.metric in quality]
    cells = dict.fromkeys((source.variant, source.setting or "") for source in sources)
    near = {cell: e for cell in cells if (e := results.cell(*cell, "nearest")) is not None and e.high < held.low}
    if not near:
        return ""
    said = ", ".join(f"{variant} {setting} {e}" for (variant, setting), e in near.items())
    return f"recites training images: distance to the nearest of {said}, of held-out images {held}"


def unequal(study: Study, a: Cell | None, b: Cell | None) -> str:
    """A caveat where the two sides did not see equally many images in training."""
    if a is None or b is None or (ours := _trained(study, a)) == (theirs := _trained(study, b)):
        return ""
    return f"; trained on {ours} against {theirs} images"


def longer_wins(study: Study, a: Cell, b: Cell, comparison: Comparison) -> bool:
    """Whether a comparison goes to the side that trained on more images, which alone may be why."""
    ours, theirs = _trained(study, a), _trained(study, b)
    return ours != theirs and (ours > theirs) == ((comparison.effect < 0) == lower_is_better(comparison.metric))


def _trained(study: Study, cell: Cell) -> int:
    """Images of a cell's training."""
    return study.recipes[study.variants[cell[0]].recipe].images
