"""Verdicts in words: a comparison with its numbers of seeds, what would decide it, and what the paper prints."""

from __future__ import annotations

import itertools
import math

from mar.analysis import power
from mar.analysis.estimates import Comparison
from mar.analysis.paper_columns import COLUMNS, printed
from mar.analysis.result_files import duration, short
from mar.paper.claims import Better, Check, Close, Guidance, Ordered
from mar.paper.numbers import printed_rows
from mar.study.records import Lack, Missing, UnderExtractor, Verdict


def reason(c: Comparison, verdict: str) -> str:
    """A comparison in words, with its numbers of training seeds."""
    label = {"fid": "FID", "inception_score": "IS", "seconds": "time per image"}.get(c.metric, c.metric)
    a, b = (duration(x) if c.metric == "seconds" else str(x) for x in (c.a, c.b))
    text = f"{label} {a} against {b}, {c}"
    if c.metric == "seconds":
        return text + ("; timed by different protocols, which decides nothing" if c.few else "")
    seeds = sorted({len(c.a.seeds), len(c.b.seeds)})
    text += f", {' and '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''} a side"
    text += caveats(*c.unfair, c.said)
    if one_seed(c, verdict):
        return f"{undecided('one seed')}{text}"
    if verdict == "undecided" and c.blocked:
        return f"{undecided(c.blocked.kind)}{text}"
    return text + (", far outside the measured seed spread" if c.few and c.far else "")


def effect(verdict: Verdict | UnderExtractor, log: bool) -> str:
    """What a verdict's comparison measured, as `ratio 0.37 [0.28, 0.42]`; empty where nothing was compared."""
    if verdict.effect is None or verdict.low is None or verdict.high is None:
        return ""
    value, low, high = (short(math.exp(x) if log else x) for x in (verdict.effect, verdict.low, verdict.high))
    return f"{'ratio' if log else 'difference'} {value} [{low}, {high}]"


def caveats(*unfair: tuple[Missing, ...]) -> str:
    """Why wins of the sides of a comparison decide nothing, and what else is said of them; empty without any."""
    return "".join(f"; {why.kind}: {why.text}" for why in dict.fromkeys(itertools.chain(*unfair)))


def one_seed(c: Comparison, verdict: str) -> bool:
    """Whether a comparison of quality is undecided because a side has one training seed."""
    return c.metric != "seconds" and c.few and not c.far and verdict == "undecided"


def undecided(kind: Lack) -> str:
    """What stands before the reason of a comparison that decides nothing whatever its interval."""
    return f"undecided ({kind}): "


def blocked(*comparisons: Comparison) -> Missing | None:
    """Why the winning sides of some comparisons decide nothing, of one kind; None if that is so of none of them."""
    found = dict.fromkeys(c.blocked for c in comparisons if c.blocked)
    alike = [why for why in found if why.kind == next(iter(found)).kind]
    if len(alike) < 2:
        return next(iter(alike), None)
    variants = tuple(dict.fromkeys(itertools.chain(*(why.variants for why in alike))))
    return Missing(kind=alike[0].kind, text="; ".join(why.text for why in alike), variants=variants)


def missing(c: Comparison | None, alone: bool) -> Missing:
    """What an undecided claim lacks, where no confound forbids a verdict.

    Args:
        c: the comparison that is shown with the claim; None if it has none.
        alone: whether a side with one training seed leaves the claim open.
    """
    if alone:
        return Missing(kind="one seed", text="a side has one training seed: two or more a side would tell")
    if c is None:
        return Missing(kind="interval", text="the measured ranges reach both sides")
    if c.metric == "seconds":
        if c.few:
            return Missing(kind="protocol", text="the sides were timed by different protocols")
        return Missing(kind="interval", text="the timed batches of both sides overlap")
    edge, low, high = (short(math.exp(x) if c.log else x) for x in (c.edge, c.low, c.high))
    if not c.low <= c.edge <= c.high:
        return Missing(kind="interval", text=f"another part of the claim reaches both sides of {edge}")
    text = f"the interval reaches both sides of {edge}, to {low} and {high}"
    if not c.b.seeds:  # a number that the paper prints
        return Missing(kind="interval", text=text)
    return _more(c, text)


def _more(c: Comparison, text: str) -> Missing:
    """How many more images or seeds would decide a comparison of two models at the effect that was measured."""
    parts = abs(c.effect - c.edge), c.variance, c.images, c.dof
    seeds, now = min(len(c.a.seeds), len(c.b.seeds)), min(c.a.n, c.b.n)
    images, many = power.images(*parts, now), power.seeds(*parts, seeds)
    ways = [f"{images:,} images a set (now {now:,})"] if images else []
    ways += [f"{many} seeds a side (now {seeds})"] if many else []
    more = f"about {' or '.join(ways)} would decide" if ways else "the effect is too near to it for any number of them"
    return Missing(kind="interval", text=f"{text}: {more}", seeds=many, images=images)


def published(check: Check) -> str:
    """The paper's own numbers in words; empty if its table does not print them."""
    values = published_numbers(check)
    between = ", " if isinstance(check, Ordered) else " against "
    return f"; the paper: {between.join(values)}" if values else ""


def published_numbers(check: Check) -> list[str]:
    """The paper's own numbers of the sides of a claim, as it prints them; empty if it does not print all of them."""
    if isinstance(check, Guidance):
        cells = [(check.row, True), (check.row, False)]
    elif isinstance(check, Ordered):
        cells = [(row, check.guided) for row in check.rows]
    elif isinstance(check, Better | Close):
        cells = [(check.a, check.guided), (check.b, check.guided)]
    else:
        return []
    rows = printed_rows(check.table)
    column = {(c.metric, c.guided): c.paper for c in COLUMNS}
    values = [printed(rows.get(row, {}).get(column.get((check.metric, g), ""), ""), check.metric) for row, g in cells]
    return values if all(values) else []
