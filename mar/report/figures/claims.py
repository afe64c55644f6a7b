"""The figure of claims: what was measured of each, with its interval, beside what the paper's numbers say."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.wording import published_numbers
from mar.paper.claims import Claim, Ordered, load, own
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
LINE, PAD = 0.105, 0.07  # inches: height of a line of text, and what is between two claims
DARK = "#333333"
ASIDE = 0.03  # inches by which ours stands above the middle of its row and the paper's below: neither hides the other


def claims(study: Study, root: Path) -> tuple[Figure, Rows]:
    """One row for each claim that compares two numbers by their ratio; those with a difference are rows of the CSV.

    The paper's Inception Scores are of other images, so a difference of two of ours has nothing to stand beside.

    Raises:
        ValueError: the claims have not been decided.
    """
    from matplotlib.figure import Figure

    verdicts = [v for v in read(layout.claims(root), Verdicts).root if v.effect is not None and v.verdict in LOOKS]
    stated = {claim.id: claim for claim in (*load(layout.shipped("claims.yaml")), *own(study))}
    drawn = [verdict for verdict in verdicts if verdict.scale == "log ratio"]
    figure = Figure(figsize=(WIDTH, sum(map(_height, drawn)) + 1.1), layout="constrained")
    handles = _panel(figure.add_subplot(), drawn, stated) if drawn else {}
    order = [name for name in (*LOOKS, "the paper") if name in handles]
    legend(figure, [handles[name] for name in order], order)
    rows = [_row(verdict, stated.get(verdict.id)) for verdict in verdicts]
    text = f"{len(drawn)} claims that compare two numbers, with 95% intervals; filled: decided"
    text += "; bar across: the claim's own edge" if any(_edge(stated.get(v.id), True) != 1.0 for v in drawn) else ""
    text += f"; {others} on Inception Scores are in the CSV" if (others := len(verdicts) - len(drawn)) else ""
    caption(figure, text if drawn else "No claim has been measured that compares two numbers.")
    return figure, rows


def _panel(axes: Axes, verdicts: Sequence[Verdict], stated: dict[str, Claim]) -> dict[str, Any]:
    """Draw the claims from top to bottom; returns what the legend shows, by its text."""
    handles: dict[str, Any] = {}
    place, places = 0.0, []
    for verdict in verdicts:
        height = _height(verdict)
        places.append(-(place + height / 2))
        place += height
        value, low, high = map(math.exp, _effect(verdict))
        claim, colour, y = stated.get(verdict.id), VERDICTS[verdict.verdict], places[-1] + ASIDE
        style = LOOKS[verdict.verdict] | {"color": colour, "linestyle": "none", "markersize": 4.5, "linewidth": 1.2}
        drawn = axes.errorbar([value], [y], xerr=[[value - low], [high - value]], **style)
        handles.setdefault(verdict.verdict, drawn.lines[0])
        ratio, edge = _paper(claim, True), _edge(claim, True)
        if edge not in ("", 1.0):
            axes.plot([edge], [places[-1]], "|", color=DARK, markersize=8, markeredgewidth=1.2)
        if ratio != "":
            (point,) = axes.plot([ratio], [places[-1] - ASIDE], "D", color="black", markersize=3.8, zorder=4)
            handles["the paper"] = point
    axes.axvline(1.0, color=DARK, linewidth=0.9, linestyle="--", zorder=1)
    log_axis(axes.xaxis)
    axes.set_xlabel("ratio (log scale); left of the line: the paper's claim")
    axes.set_yticks(places, ["\n".join(_lines(verdict)) for verdict in verdicts], fontsize=SMALL, linespacing=1.0)
    axes.set_ylim(-place, 0)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    return handles


def _row(verdict: Verdict, claim: Claim | None) -> dict[str, Any]:
    """The row of the CSV of a claim: ratios, not their logarithms."""
    log = verdict.scale == "log ratio"
    value, low, high = (math.exp(x) if log else x for x in _effect(verdict))
    row: dict[str, Any] = {
        "claim": verdict.id,
        "text": verdict.text,
        "verdict": verdict.verdict,
        "scale": verdict.scale,
    }
    row |= {"value": value, "low": low, "high": high, "paper": _paper(claim, log), "edge": _edge(claim, log)}
    return row | {"seeds": " ".join(map(str, verdict.seeds))}


def _effect(verdict: Verdict) -> tuple[float, float, float]:
    """What was measured, and the ends of its interval."""
    assert verdict.effect is not None and verdict.low is not None and verdict.high is not None
    return verdict.effect, verdict.low, verdict.high


def _lines(verdict: Verdict) -> list[str]:
    return textwrap.wrap(verdict.text.rstrip("."), LETTERS)


def _height(verdict: Verdict) -> float:
    """Inches of a claim."""
    return LINE * len(_lines(verdict)) + PAD


def _paper(claim: Claim | None, log: bool) -> float | str:
    """The paper's ratio of the two sides of a claim; empty where it prints none, or a difference is asked."""
    if claim is None or not log or isinstance(claim.check, Ordered):
        return ""
    numbers = [float(text) for text in published_numbers(claim.check)]
    return numbers[0] / numbers[1] if len(numbers) == 2 else ""


def _edge(claim: Claim | None, log: bool) -> float | str:
    """The ratio or difference on whose one side a claim holds; empty where the claims file has no such claim."""
    if claim is None:
        return ""
    return float(getattr(claim.check, "within", 1.0)) if log else 0.0
