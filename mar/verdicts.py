"""Verdicts: the claims of the paper (`mar/claims.py`), judged by a study's numbers and their intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mar.claims import (
    Cheaper,
    Check,
    Claim,
    Close,
    Dominates,
    Faster,
    Guidance,
    Improves,
    OfCurves,
    Optimum,
    Ordered,
    Reaches,
    Saturates,
    Share,
    load,
)
from mar.config import Study
from mar.curves import along
from mar.estimates import Comparison, Estimate, Results, short
from mar.files import write_json
from mar.paper import paper_rows
from mar.results import lower_is_better
from mar.tables import COLUMNS, NOT_RUN, printed

Cell = tuple[str, str]  # variant, setting
Finding = tuple[str, Comparison | None, str]  # verdict, what it rests on, reason


def judge(study: Study, root: Path, claims_file: str | Path) -> list[dict[str, Any]]:
    """Judge every claim, write claims.json and return its content.

    An entry: id, text, source, verdict (replicated, not replicated, inconclusive, not run, not decidable here), effect
    with low and high (`scale` says log ratio or difference; null where nothing was compared), reason, seeds of both
    sides.

    Raises:
        ValueError: the claims file is not accepted, or a metric or speed file of a trained variant is missing.
    """
    results = Results(study, root)
    verdicts = [_judge(claim, results) for claim in load(claims_file)]
    write_json(Path(root) / "claims.json", verdicts)
    print(f"{Path(root) / 'claims.json'}: {len(verdicts)} claims", flush=True)
    return verdicts


def _judge(claim: Claim, results: Results) -> dict[str, Any]:
    check: Any = claim.check  # one of Check
    if claim.decides == "imagenet" and not results.comparable:
        why = f"{claim.because}; the study has {results.incomparable}"
        return _entry(claim, "not decidable here", None, why)
    if type(check) in JUDGES:
        return _entry(claim, *JUDGES[type(check)](check, results))
    guided = getattr(check, "guided", False)
    if isinstance(check, Guidance):
        a, b = _cell(results, check.table, check.row, True), _cell(results, check.table, check.row, False)
    else:
        a, b = _cell(results, check.table, check.a, guided), _cell(results, check.table, check.b, guided)
    metric = "seconds" if isinstance(check, Faster) else check.metric
    edge = math.log(check.within) if isinstance(check, Close) else 0.0
    comparison = results.compare(a, b, metric, edge) if a and b else None
    if comparison is None:
        done = "train and time" if metric == "seconds" else "train"
        return _entry(claim, NOT_RUN, None, f"the study does not {done} what this compares")
    if isinstance(check, Close):
        below, above = comparison.high < edge, comparison.low > edge
        verdict = _verdict(comparison.trusted and below, comparison.trusted and above)
    else:
        verdict = _verdict(comparison.better, comparison.worse)
    reason = _reason(comparison, verdict) + _published(check) + _unequal(results.study, a, b)
    if isinstance(check, Close):
        reason += f"; accepted up to ratio {short(check.within)}"
    return _entry(claim, verdict, comparison, reason)


def _ordered(check: Ordered, results: Results) -> Finding:
    cells = [_cell(results, check.table, row, check.guided) for row in check.rows]
    steps = [(results.compare(b, a, check.metric) if a and b else None) for a, b in itertools.pairwise(cells)]
    if any(step is None for step in steps):
        return NOT_RUN, None, "the study does not train all of these rows"
    found = [step for step in steps if step is not None]
    verdicts = [_verdict(step.better, step.worse) for step in found]
    reasons = [
        f"{b} against {a}: {_reason(step, verdict)}"
        for (a, b), step, verdict in zip(itertools.pairwise(check.rows), found, verdicts, strict=True)
    ]
    # the step to show: the one that decides, that is the least improvement
    sign = 1 if lower_is_better(check.metric) else -1
    shown = max(found, key=lambda step: sign * step.effect)
    return _all(verdicts), shown, "; ".join(reasons) + _published(check)


def _saturates(check: Saturates, results: Results) -> Finding:
    points = _points(results, "diffusion_steps", check.curve)
    start, later = dict(points).get(check.at), [(x, cell) for x, cell in points if x > check.at]
    if start is None or not later:
        has = ", ".join(f"{x:g}" for x, _ in points) or "none"
        why = f"it takes a point at {check.at} diffusion steps and one after it; curve {check.curve!r} has {has}"
        return NOT_RUN, None, why
    edge = math.log(check.within)  # of the FID at the start over the FID of a later point
    found = [(x, c) for x, cell in later if (c := results.compare(start, cell, "fid", edge)) is not None]
    if not found:
        return NOT_RUN, None, "the study does not train this curve"
    verdicts = [_verdict(c.trusted and c.high < edge, c.trusted and c.low > edge) for _, c in found]
    x, shown = max(found, key=lambda point: point[1].effect)  # the later point that improves most
    verdict = _all(verdicts)
    reason = f"{check.at} diffusion steps against {x:g}: {_reason(shown, verdict)}"
    return verdict, shown, f"{reason}; accepted up to ratio {short(check.within)}"


def _optimum(check: Optimum, results: Results) -> Finding:
    points = _points(results, "temperature", check.curve)
    if len(points) < 3:
        return NOT_RUN, None, f"the study has no curve {check.curve!r} of three temperatures"
    sign = 1 if lower_is_better(check.metric) else -1
    inside = [(e.value, x, cell) for x, cell in points[1:-1] if (e := results.cell(*cell, check.metric)) is not None]
    if not inside:
        return NOT_RUN, None, "the study does not train this curve"
    _, best, cell = min(inside, key=lambda point: sign * point[0])
    ends = [(x, c) for x, end in (points[0], points[-1]) if (c := results.compare(cell, end, check.metric)) is not None]
    # the best inside is chosen by its value, so if it is worse than an end by its interval, no point inside is better
    verdict = _verdict(all(c.better for _, c in ends), any(c.worse for _, c in ends))
    reasons = [f"temperature {best:g} against {x:g}: {_reason(c, verdict)}" for x, c in ends]
    return verdict, max((c for _, c in ends), key=lambda c: sign * c.effect), "; ".join(reasons)


def _reaches(check: Reaches, results: Results) -> Finding:
    verdicts, reasons = [], []
    for variant, setting in _curve(results, check.curve):
        fid, seconds = results.cell(variant, setting, "fid"), results.seconds(variant, setting)
        if fid is None or seconds is None:
            continue
        sure = len(fid.seeds) > 1 or results.spread("fid").dof > 0  # else the interval lacks the seeds' part
        holds = fid.high < check.fid and seconds.high < check.seconds
        fails = fid.low > check.fid or seconds.low > check.seconds
        verdicts.append(_verdict(sure and holds, seconds.low > check.seconds or (sure and fails)))
        reasons.append(f"{setting}: FID {fid} in {seconds} seconds")
    if not verdicts:
        return NOT_RUN, None, f"the study does not train or time curve {check.curve!r}"
    every = all(verdict == "not replicated" for verdict in verdicts)
    verdict = _verdict("replicated" in verdicts, every)
    asked = f"asked for FID below {short(check.fid)} in {short(check.seconds)} seconds"
    return verdict, None, "; ".join([*reasons, asked])


def _improves(check: Improves, results: Results) -> Finding:
    curve = _curve(results, check.curve)
    if len(curve) < 2:
        return NOT_RUN, None, f"the study has no curve {check.curve!r} of two points"
    whole = results.compare(curve[-1], curve[0], check.metric)
    steps = [results.compare(b, a, check.metric) for a, b in itertools.pairwise(curve)]
    if whole is None:
        return NOT_RUN, None, "the study does not train this curve"
    back = [curve[i + 1][1] for i, step in enumerate(steps) if step is not None and step.worse]
    verdict = _verdict(whole.better and not back, whole.worse or bool(back))
    reason = f"{curve[-1][1]} against {curve[0][1]}: " + _reason(whole, verdict)
    return verdict, whole, reason + (f"; worse than the point before: {', '.join(back)}" if back else "")


def _dominates(check: Dominates, results: Results) -> Finding:
    ours, theirs = _curve(results, check.a), _curve(results, check.b)
    verdicts, reasons, shown = [], [], None
    for b in theirs:
        pairs = []
        for a in ours:
            speed, quality = results.compare(a, b, "seconds"), results.compare(a, b, check.metric)
            if speed is not None and quality is not None:
                pairs.append((a, speed, quality))
        if not pairs:
            return NOT_RUN, None, "the study does not train both curves"
        sign = 1 if lower_is_better(check.metric) else -1
        # the point to show: the best of those that are faster, else the fastest
        faster = [p for p in pairs if p[1].better]
        a, speed, quality = (
            min(faster, key=lambda p: sign * p[2].effect) if faster else min(pairs, key=lambda p: p[1].effect)
        )
        verdicts.append(
            _verdict(any(q.better and s.better for _, s, q in pairs), all(q.worse or s.worse for _, s, q in pairs))
        )
        shown = quality
        reasons.append(
            f"{a[1]} against {b[1]}: {_reason(quality, verdicts[-1])}; seconds per image {speed.a} against {speed.b}"
            + _unequal(results.study, a, b)
        )
    if not verdicts:
        return NOT_RUN, None, f"the study has no curve {check.b!r}"
    return _all(verdicts), shown, "; ".join(reasons)


def _cheaper(check: Cheaper, results: Results) -> Finding:
    variants = [_variant(results, check.table, row) for row in (check.a, check.b)]
    a, b = (results.training(variant) if variant else None for variant in variants)
    if a is None or b is None:
        return NOT_RUN, None, "the study does not train both: imported weights cost it nothing"
    verdict = _verdict(a.high < b.low, a.low > b.high)
    return verdict, None, f"{a} against {b} device seconds of training, least and most of the seeds"


def _share(check: Share, results: Results) -> Finding:
    cell = _cell(results, check.table, check.row, check.guided)
    share = results.head_share(*cell) if cell else None
    if share is None:
        return NOT_RUN, None, "the study does not time this row"
    verdict = _verdict(share.high < check.below, share.low > check.below)
    return verdict, None, f"the head takes {share} of the sampling time; asked for less than {short(check.below)}"


# Checks that are more than one comparison of two cells.
JUDGES: dict[type, Callable[[Any, Results], Finding]] = {
    Dominates: _dominates,
    Improves: _improves,
    Ordered: _ordered,
    Reaches: _reaches,
    Saturates: _saturates,
    Optimum: _optimum,
    Cheaper: _cheaper,
    Share: _share,
}


def _verdict(holds: bool, fails: bool) -> str:
    return "replicated" if holds else "not replicated" if fails else "inconclusive"


def _all(verdicts: list[str]) -> str:
    """The verdict of a claim that needs each of its parts."""
    return _verdict(all(v == "replicated" for v in verdicts), "not replicated" in verdicts)


def _reason(c: Comparison, verdict: str) -> str:
    label = {"fid": "FID", "inception_score": "IS", "seconds": "seconds per image"}.get(c.metric, c.metric)
    text = f"{label} {c.a} against {c.b}, {c}"
    if c.metric == "seconds":
        return text
    seeds = sorted({len(c.a.seeds), len(c.b.seeds)})
    text += f", {' and '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''} a side"
    if c.few and not c.far and verdict == "inconclusive":
        return f"inconclusive (1 seed): {text}"
    return text + (", far outside the measured seed spread" if c.few and c.far else "")


def _unequal(study: Study, a: Cell | None, b: Cell | None) -> str:
    """A caveat where the two sides did not see equally many images in training."""
    if a is None or b is None:
        return ""
    ours, theirs = (study.recipes[study.variants[variant].recipe].images for variant, _ in (a, b))
    return "" if ours == theirs else f"; trained on {ours} against {theirs} images"


def _published(check: Check) -> str:
    """The paper's numbers, where its table prints them."""
    if isinstance(check, Guidance):
        wanted = [(check.row, True), (check.row, False)]
    elif isinstance(check, Ordered):
        wanted = [(row, check.guided) for row in check.rows]
    elif isinstance(check, Faster | Cheaper | Share | OfCurves):
        return ""
    else:
        wanted = [(check.a, check.guided), (check.b, check.guided)]
    rows = paper_rows(check.table)
    column = {(c.metric, c.guided): c.paper for c in COLUMNS}
    values = [printed(rows[row].get(column.get((check.metric, g), ""), ""), check.metric) for row, g in wanted]
    between = ", " if isinstance(check, Ordered) else " against "
    return f"; the paper: {between.join(values)}" if all(values) else ""


def _cell(results: Results, paper: str, row: str, guided: bool) -> Cell | None:
    """The study's answer to a row of the paper, from the first of its tables that has one."""
    for table in results.study.tables.values():
        for ours in table.rows:
            setting = ours.guided if guided else ours.without
            if table.paper == paper and ours.paper == row and ours.variant and setting:
                return ours.variant, setting
    return None


def _variant(results: Results, paper: str, row: str) -> str | None:
    """The study's variant for a row of the paper."""
    tables = (table for table in results.study.tables.values() if table.paper == paper)
    return next((ours.variant for table in tables for ours in table.rows if ours.paper == row and ours.variant), None)


def _curve(results: Results, label: str) -> list[Cell]:
    curves = [c for c in results.study.tradeoff if c.label == label]
    return [(c.variant, setting) for c in curves for setting in c.sampling]


def _points(results: Results, figure: str, label: str) -> list[tuple[float, Cell]]:
    """What a curve of a figure varies, ascending, and the cell of each point."""
    curves = [c for c in getattr(results.study, figure) if c.label == label]
    return [(x, (c.variant, setting)) for c in curves for x, setting in along(results.study, figure, c)]


def _entry(claim: Claim, verdict: str, comparison: Comparison | None, reason: str) -> dict[str, Any]:
    numbers: dict[str, Any] = dict.fromkeys(("effect", "low", "high", "scale"))
    sides: tuple[Estimate, ...] = ()
    if comparison is not None:
        numbers = {"effect": comparison.effect, "low": comparison.low, "high": comparison.high}
        numbers["scale"] = "log ratio" if comparison.log else "difference"
        sides = (comparison.a, comparison.b)
    said = {"id": claim.id, "text": claim.text, "source": claim.source, "verdict": verdict}
    return said | numbers | {"reason": reason, "seeds": [len(side.seeds) for side in sides]}
