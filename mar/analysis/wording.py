"""Verdicts in words: a comparison with its numbers of seeds, and what the paper prints of it."""

from __future__ import annotations

from mar.analysis.estimates import Comparison
from mar.analysis.paper_columns import COLUMNS, printed
from mar.paper.claims import Cheaper, Check, Faster, Guidance, OfCurves, Ordered, Share
from mar.paper.numbers import paper_rows


def reason(c: Comparison, verdict: str) -> str:
    """A comparison in words, with its numbers of training seeds."""
    label = {"fid": "FID", "inception_score": "IS", "seconds": "seconds per image"}.get(c.metric, c.metric)
    text = f"{label} {c.a} against {c.b}, {c}"
    if c.metric == "seconds":
        return text + ("; timed by different protocols, which decides nothing" if c.few else "")
    seeds = sorted({len(c.a.seeds), len(c.b.seeds)})
    text += f", {' and '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''} a side"
    if one_seed(c, verdict):
        return f"inconclusive (1 seed): {text}"
    return text + (", far outside the measured seed spread" if c.few and c.far else "")


def one_seed(c: Comparison, verdict: str) -> bool:
    """Whether a comparison of quality is inconclusive because a side has one training seed."""
    return c.metric != "seconds" and c.few and not c.far and verdict == "inconclusive"


def published(check: Check) -> str:
    """The paper's own numbers in words; empty if its table does not print them."""
    if isinstance(check, Cheaper):
        rows = paper_rows(check.table)
        days = [f"{rows[row]['days']} days on {rows[row]['gpus']}" for row in (check.a, check.b) if "days" in rows[row]]
        return f"; the paper: {' against '.join(days)}" if days else ""
    if isinstance(check, Guidance):
        cells = [(check.row, True), (check.row, False)]
    elif isinstance(check, Ordered):
        cells = [(row, check.guided) for row in check.rows]
    elif isinstance(check, Faster | Share | OfCurves):
        return ""
    else:
        cells = [(check.a, check.guided), (check.b, check.guided)]
    rows = paper_rows(check.table)
    column = {(c.metric, c.guided): c.paper for c in COLUMNS}
    values = [printed(rows[row].get(column.get((check.metric, g), ""), ""), check.metric) for row, g in cells]
    between = ", " if isinstance(check, Ordered) else " against "
    return f"; the paper: {between.join(values)}" if all(values) else ""
