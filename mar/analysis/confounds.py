"""Confounds: why a comparison decides no claim although its interval is clear. Memorisation, and unequal training."""

from __future__ import annotations

from collections.abc import Sequence

from mar.analysis.estimates import Comparison, Results
from mar.analysis.metric_kinds import lower_is_better
from mar.analysis.result_files import Estimate
from mar.study.study import Study

Cell = tuple[str, str]  # variant, setting


def recited(evidence: Sequence[Estimate], results: Results) -> str:
    """A sentence on the models among the evidence that recite their training images; empty if none does.

    A model recites if its samples are nearer to their nearest training images than held-out real images are: the upper
    end of the samples' interval is below the lower end of the held-out images' interval.
    """
    if "nearest" not in results.names or "nearest" not in results.measured:
        return ""
    heldout, quality = results.floor("nearest"), set(results.names)
    sources = [e.source for e in evidence if e.source and e.source.setting and e.source.metric in quality]
    cells = dict.fromkeys((source.variant, source.setting or "") for source in sources)
    near = {cell: e for cell in cells if (e := results.cell(*cell, "nearest")) is not None and e.high < heldout.low}
    if not near:
        return ""
    models = ", ".join(f"{variant} {setting} {e}" for (variant, setting), e in near.items())
    return f"recites training images: distance to the nearest of {models}, of held-out images {heldout}"


def unequal(study: Study, a: Cell | None, b: Cell | None) -> str:
    """A caveat if the two sides were trained on different numbers of images; empty otherwise."""
    if a is None or b is None or (images_a := _trained(study, a)) == (images_b := _trained(study, b)):
        return ""
    return f"; trained on {images_a} against {images_b} images"


def longer_wins(study: Study, a: Cell, b: Cell, comparison: Comparison) -> bool:
    """Whether the side that trained on more images is the better one, since the longer training may be the reason."""
    images_a, images_b = _trained(study, a), _trained(study, b)
    a_is_better = (comparison.effect < 0) == lower_is_better(comparison.metric)
    return images_a != images_b and (images_a > images_b) == a_is_better


def _trained(study: Study, cell: Cell) -> int:
    """Number of images that a cell's variant is trained on."""
    return study.recipes[study.variants[cell[0]].recipe].images
