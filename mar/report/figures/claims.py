"""The figure of claims: what was measured of each, with its interval, beside what the paper's numbers say."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.wording import published_numbers
from mar.paper.claims import Claim, Ordered, load
from mar.report.figures.style import SMALL, VERDICTS, WIDTH, Rows, caption, legend, log_axis
from mar.runtime.files import read
from mar.study import layout
from mar.study.records import Verdict, Verdicts
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS: dict[str, dict[str, Any]] = {  # by verdict: filled marks are decided
    "replicated": {"marker": "o"},
    "not replicated": {"marker": "s"},
    "undecided": {"marker": "o", "markerfacecolor": "white"},
}
LETTERS = 58  # of a line of a claim's text
LINE, PAD = 0.125, 0.1  # inches: height of a line of text, and what is between two claims
ASIDE = 0.035  # inches by which ours stands above the middle of its row and the paper's below: neither hides the other
PANELS = (
    ("log ratio", "ratio (log scale); left of the line: the paper's claim"),
    ("difference", "difference of Inception Scores; right: the paper's claim"),
)


def claims(study: Study, root: Path) -> tuple[Figure, Rows]:
    """One row for each claim that compares two numbers: those with a ratio above, those with a difference below.

    Raises:
        ValueError: the claims have not been decided.
    """
    from matplotlib.figure import Figure

    verdicts = [v for v in read(layout.claims(root), Verdicts).root if v.effect is not None and v.verdict in LOOKS]
    stated = {claim.id: claim for claim in load(layout.shipped("claims.yaml"))}
    panels = [(of, axis) for scale, axis in PANELS if (of := [v for v in verdicts if v.scale == scale])]
    heights = [sum(_height(verdict) for verdict in of) + 0.5 for of, _ in panels]
    figure = Figure(figsize=(WIDTH, max(1.0, sum(heights) + 0.75)), layout="constrained")
    rows: Rows = []
    handles: dict[str, Any] = {}
    places = figure.add_gridspec(max(1, len(panels)), 1, height_ratios=heights or [1])
    for number, (of, axis) in enumerate(panels):
        axes = figure.add_subplot(places[number])
        rows += _panel(axes, of, stated, handles)
        axes.set_xlabel(axis)
    order = [name for name in (*LOOKS, "the paper") if name in handles]
    legend(figure, [handles[name] for name in order], order)
    counted = f"{len(verdicts)} claims that compare two numbers, with 95% intervals; filled: decided"
    edges = "; bar across: a claim's own edge" if any(row["edge"] not in ("", 0.0, 1.0) for row in rows) else ""
    scales = "; the paper's Inception Scores are on another scale" if len(panels) > 1 else ""
    caption(figure, counted + edges + scales if verdicts else "No claim has been measured that compares two numbers.")
    return figure, rows


def _panel(axes: Axes, verdicts: Sequence[Verdict], stated: dict[str, Claim], handles: dict[str, Any]) -> Rows:
    """Draw the claims of one scale, from top to bottom; returns their rows of the CSV."""
    rows: Rows = []
    log = verdicts[0].scale == "log ratio"
    place, places = 0.0, []
    for verdict in verdicts:
        height = _height(verdict)
        places.append(-(place + height / 2))
        place += height
        value, low, high = (math.exp(x) if log else x for x in _effect(verdict))
        colour, y = VERDICTS[verdict.verdict], places[-1] + ASIDE
        drawn = axes.errorbar(
            [value], [y], xerr=[[value - low], [high - value]], color=colour, markersize=4.5, linewidth=1.2,
            linestyle="none", **LOOKS[verdict.verdict],
        )  # fmt: skip
        handles.setdefault(verdict.verdict, drawn.lines[0])
        ratio, edge = _paper(stated.get(verdict.id), log), _edge(stated.get(verdict.id), log)
        if edge not in (None, 0.0, 1.0):
            axes.plot([edge], [places[-1]], "|", color="#333333", markersize=9, markeredgewidth=1.2)
        if ratio is not None:
            (handles["the paper"],) = axes.plot(
                [ratio], [places[-1] - ASIDE], "D", color="black", markersize=3.8, zorder=4
            )
        numbers = {"value": value, "low": low, "high": high}
        row = {"claim": verdict.id, "text": verdict.text, "verdict": verdict.verdict, "scale": verdict.scale}
        paper = {"paper": "" if ratio is None else ratio, "edge": "" if edge is None else edge}
        rows.append(row | numbers | paper | {"seeds": " ".join(map(str, verdict.seeds))})
    axes.axvline(1.0 if log else 0.0, color="#333333", linewidth=0.9, linestyle="--", zorder=1)
    if log:
        log_axis(axes.xaxis)
    axes.set_yticks(places, ["\n".join(_lines(verdict)) for verdict in verdicts], fontsize=SMALL)
    axes.set_ylim(-place, 0)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    return rows


def _effect(verdict: Verdict) -> tuple[float, float, float]:
    """What was measured, and the ends of its interval."""
    assert verdict.effect is not None and verdict.low is not None and verdict.high is not None
    return verdict.effect, verdict.low, verdict.high


def _lines(verdict: Verdict) -> list[str]:
    return textwrap.wrap(verdict.text.rstrip("."), LETTERS)


def _height(verdict: Verdict) -> float:
    """Inches of a claim."""
    return LINE * len(_lines(verdict)) + PAD


def _paper(claim: Claim | None, log: bool) -> float | None:
    """The paper's ratio of the two sides of a claim; None where it prints none, or another scale is drawn."""
    if claim is None or not log or isinstance(claim.check, Ordered):
        return None
    numbers = [float(text) for text in published_numbers(claim.check)]
    return numbers[0] / numbers[1] if len(numbers) == 2 else None


def _edge(claim: Claim | None, log: bool) -> float | None:
    """The ratio on whose one side a claim holds: 1, or what the claim itself says."""
    if claim is None:
        return None
    return float(getattr(claim.check, "within", 1.0)) if log else 0.0
