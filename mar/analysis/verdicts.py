"""Verdicts on the claims of the paper (`mar/paper/claims.py`), by a study's numbers and their intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mar.analysis import confounds
from mar.analysis.confounds import Cell
from mar.analysis.curve_points import along
from mar.analysis.estimates import Comparison, Results
from mar.analysis.learning_curves import still_learning
from mar.analysis.metric_kinds import lower_is_better
from mar.analysis.paper_columns import COLUMNS, NOT_RUN, printed
from mar.analysis.result_files import Estimate, duration, short
from mar.paper.claims import (
    Better,
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
from mar.paper.numbers import paper_rows
from mar.runtime.files import write
from mar.study import layout
from mar.study.records import Evidence, Verdict, Verdicts
from mar.study.study import Study

RELATIVE = "it compares numbers of one study with each other, whatever its size"


class Finding(NamedTuple):
    """A verdict and why.

    Attributes:
        verdict: one of the rulings of a Verdict.
        comparison: the comparison that decides, which is shown beside the verdict; None if nothing was compared.
        reason: the reason in words.
        evidence: every number that the verdict rests on.
        one_seed: whether a comparison is inconclusive because a side has one training seed.
    """

    verdict: str
    comparison: Comparison | None
    reason: str
    evidence: Sequence[Estimate] = ()
    one_seed: bool = False


def decide(study: Study, root: Path, claims_file: str | Path) -> tuple[Verdict, ...]:
    """Decide every claim, write claims.json and return its content.

    Raises:
        ValueError: the claims file is not accepted, or a metric or speed file of a trained variant is missing.
    """
    results = Results(study, root)
    verdicts = tuple(_decide(claim, results) for claim in load(claims_file))
    write(layout.claims(Path(root)), Verdicts(verdicts))
    print(f"{Path(root) / 'claims.json'}: {len(verdicts)} claims", flush=True)
    return verdicts


def _decide(claim: Claim, results: Results) -> Verdict:
    check: Any = claim.check  # one of Check
    if results.extractor in results.random and not isinstance(check, Faster | Cheaper | Share):
        return _entry(claim, Finding("not decidable here", None, f"{results.extractor} has random weights"))
    if claim.decides == "imagenet" and not results.comparable:
        why = f"{claim.because}; the study has {results.incomparable}"
        return _entry(claim, Finding("not decidable here", None, why))
    if (metric := getattr(check, "metric", "fid")) not in results.names:
        return _entry(claim, Finding(NOT_RUN, None, f"the study's metrics have no {metric}"))
    finding = DECIDERS.get(type(check), _compared)(check, results)
    return _entry(claim, _unless_learning(finding, results))


def _unless_learning(finding: Finding, results: Results) -> Finding:
    """The finding, made inconclusive if a model in it was still learning: its final FID is not the one it tends to."""
    caveat = still_learning(finding.evidence, results)
    if not caveat:
        return finding
    if finding.verdict in ("replicated", "not replicated"):
        reason = f"undecided: still learning: {finding.reason}; {caveat}"
        return finding._replace(verdict="inconclusive", reason=reason)
    return finding._replace(reason=f"{finding.reason}; {caveat}")


def _compared(check: Better | Close | Guidance | Faster, results: Results) -> Finding:
    """A claim that one cell is better than another, or is at most `within` times worse."""
    guided = getattr(check, "guided", False)
    if isinstance(check, Guidance):
        a, b = _cell(results, check.table, check.row, True), _cell(results, check.table, check.row, False)
    else:
        a, b = _cell(results, check.table, check.a, guided), _cell(results, check.table, check.b, guided)
    metric = "seconds" if isinstance(check, Faster) else check.metric
    edge = math.log(check.within) if isinstance(check, Close) else 0.0
    comparison = confounds.compare(results, a, b, metric, edge) if a and b else None
    if a is None or b is None or comparison is None:
        missing = "train and time" if metric == "seconds" else "train"
        return Finding(NOT_RUN, None, f"the study does not {missing} what this compares")
    if isinstance(check, Close):
        below, above = comparison.high < edge, comparison.low > edge
        verdict = _verdict(comparison.fair(0) and below, comparison.fair(1) and above)
    else:
        verdict = _verdict(comparison.better, comparison.worse)
    reason = _reason(comparison, verdict) + _published(check)
    one_seed = _one_seed(comparison, verdict)
    if isinstance(check, Close):
        reason += f"; accepted up to ratio {short(check.within)}"
    return Finding(verdict, comparison, reason, _sides(comparison), one_seed)


def _ordered(check: Ordered, results: Results) -> Finding:
    """A claim that each row of a table is better than the row before it."""
    cells = [_cell(results, check.table, row, check.guided) for row in check.rows]
    pairs = [
        (confounds.compare(results, b, a, check.metric) if a and b else None) for a, b in itertools.pairwise(cells)
    ]
    if any(step is None for step in pairs):
        return Finding(NOT_RUN, None, "the study does not train all of these rows")
    steps = [step for step in pairs if step is not None]
    verdicts = [_verdict(step.better, step.worse) for step in steps]
    reasons = [
        f"{b} against {a}: {_reason(step, verdict)}"
        for (a, b), step, verdict in zip(itertools.pairwise(check.rows), steps, verdicts, strict=True)
    ]
    # the step that is shown is the one that decides: the least improvement
    sign = 1 if lower_is_better(check.metric) else -1
    shown = max(steps, key=lambda step: sign * step.effect)
    one_seed = any(map(_one_seed, steps, verdicts))
    return Finding(_all(verdicts), shown, "; ".join(reasons) + _published(check), _sides(*steps), one_seed)


def _saturates(check: Saturates, results: Results) -> Finding:
    """A claim that from some number of diffusion steps on, more of them improve FID by less than a ratio `within`."""
    points = _points(results, "diffusion_steps", check.curve)
    start, later = dict(points).get(check.at), [(x, cell) for x, cell in points if x > check.at]
    if start is None or not later:
        has = ", ".join(f"{x:g}" for x, _ in points) or "none"
        why = f"it takes a point at {check.at} diffusion steps and one after it; curve {check.curve!r} has {has}"
        return Finding(NOT_RUN, None, why)
    edge = math.log(check.within)  # of log(FID at `at` steps / FID at more steps)
    comparisons = [
        (x, c) for x, cell in later if (c := confounds.compare(results, start, cell, "fid", edge)) is not None
    ]
    if not comparisons:
        return Finding(NOT_RUN, None, "the study does not train this curve")
    verdicts = [_verdict(c.fair(0) and c.high < edge, c.fair(1) and c.low > edge) for _, c in comparisons]
    x, shown = max(comparisons, key=lambda point: point[1].effect)  # the later point that improves most
    verdict = _all(verdicts)
    reason = f"{check.at} diffusion steps against {x:g}: {_reason(shown, verdict)}"
    reason += f"; accepted up to ratio {short(check.within)}"
    return Finding(verdict, shown, reason, _sides(*(c for _, c in comparisons)), _one_seed(shown, verdict))


def _optimum(check: Optimum, results: Results) -> Finding:
    """A claim that the best temperature of a curve is at neither of its ends."""
    points = _points(results, "temperature", check.curve)
    if len(points) < 3:
        return Finding(NOT_RUN, None, f"the study has no curve {check.curve!r} of three temperatures")
    sign = 1 if lower_is_better(check.metric) else -1
    inside = [(e, x, cell) for x, cell in points[1:-1] if (e := results.cell(*cell, check.metric)) is not None]
    if not inside:
        return Finding(NOT_RUN, None, "the study does not train this curve")
    chosen, best, cell = min(inside, key=lambda point: sign * point[0].value)
    others = [e for e, _, _ in inside if e is not chosen]
    pairs = ((x, confounds.compare(results, cell, end, check.metric)) for x, end in (points[0], points[-1]))
    ends = [(x, c) for x, c in pairs if c is not None]
    # the best inside point is chosen by its value: if even it is worse than an end, no inside point is the optimum
    verdict = _verdict(all(c.better for _, c in ends), any(c.worse for _, c in ends))
    reasons = [f"temperature {best:g} against {x:g}: {_reason(c, verdict)}" for x, c in ends]
    shown = max((c for _, c in ends), key=lambda c: sign * c.effect)
    evidence = [*_sides(*(c for _, c in ends)), *others]
    return Finding(verdict, shown, "; ".join(reasons), evidence, any(_one_seed(c, verdict) for _, c in ends))


def _reaches(check: Reaches, results: Results) -> Finding:
    """A claim that a point of a curve has a FID below `fid` in less than `seconds` per image on the paper's device."""
    verdicts, reasons, evidence = [], [], []
    curve = _curve(results, check.curve)
    timed = {v for v, s in curve if results.seconds(v, s) is not None and not results.timed_as_published(v)}
    if timed:
        why = f"{', '.join(sorted(timed))} was not timed as in the paper, on one A100 in batches of 256"
        return Finding("not decidable here", None, why)
    for variant, setting in curve:
        fid, seconds = results.cell(variant, setting, "fid"), results.seconds(variant, setting)
        if fid is None or seconds is None:
            continue
        sure = len(fid.seeds) > 1  # one training seed decides nothing
        recites = confounds.recites(results, (variant, setting))
        holds = fid.high < check.fid and seconds.high < check.seconds and not recites
        fails = fid.low > check.fid or seconds.low > check.seconds
        verdicts.append(_verdict(sure and holds, seconds.low > check.seconds or (sure and fails)))
        reasons.append(f"{setting}: FID {fid} in {seconds} seconds" + (f" ({recites})" if recites else ""))
        evidence += [fid, seconds]
    if not verdicts:
        return Finding(NOT_RUN, None, f"the study does not train or time curve {check.curve!r}")
    every = all(verdict == "not replicated" for verdict in verdicts)
    verdict = _verdict("replicated" in verdicts, every)
    threshold = f"asked for FID below {short(check.fid)} in {short(check.seconds)} seconds"
    return Finding(verdict, None, "; ".join([*reasons, threshold]), evidence)


def _improves(check: Improves, results: Results) -> Finding:
    """A claim that a curve's last point is better than its first, and no point worse than the one before it."""
    curve = _curve(results, check.curve)
    if len(curve) < 2:
        return Finding(NOT_RUN, None, f"the study has no curve {check.curve!r} of two points")
    total = confounds.compare(results, curve[-1], curve[0], check.metric)
    if total is None:
        return Finding(NOT_RUN, None, "the study does not train this curve")
    pairs = itertools.pairwise(curve)
    steps = [step for a, b in pairs if (step := confounds.compare(results, b, a, check.metric)) is not None]
    back = [curve[i + 1][1] for i, step in enumerate(steps) if step.worse]
    verdict = _verdict(total.better and not back, total.worse or bool(back))
    reason = f"{curve[-1][1]} against {curve[0][1]}: " + _reason(total, verdict)
    reason += f"; worse than the point before: {', '.join(back)}" if back else ""
    return Finding(verdict, total, reason, _sides(*steps), _one_seed(total, verdict))


def _dominates(check: Dominates, results: Results) -> Finding:
    """A claim that for each point of curve b some point of curve a is both better and faster."""
    curve_a, curve_b = _curve(results, check.a), _curve(results, check.b)
    verdicts, reasons, shown, one_seed = [], [], None, False
    evidence: list[Estimate] = []
    for b in curve_b:
        pairs = []
        for a in curve_a:
            speed, quality = results.compare(a, b, "seconds"), confounds.compare(results, a, b, check.metric)
            if speed is not None and quality is not None:
                pairs.append((a, speed, quality))
        if not pairs:
            return Finding(NOT_RUN, None, "the study does not train both curves")
        evidence += _sides(*(c for _, speed, quality in pairs for c in (speed, quality)))
        sign = 1 if lower_is_better(check.metric) else -1
        # the point that is shown is the best of the faster ones, or the fastest if none is faster
        faster = [p for p in pairs if p[1].better]
        a, speed, quality = (
            min(faster, key=lambda p: sign * p[2].effect) if faster else min(pairs, key=lambda p: p[1].effect)
        )
        verdicts.append(
            _verdict(any(q.better and s.better for _, s, q in pairs), all(q.worse or s.worse for _, s, q in pairs))
        )
        shown, one_seed = quality, one_seed or _one_seed(quality, verdicts[-1])
        times = f"seconds per image {duration(speed.a)} against {duration(speed.b)}"
        reasons.append(f"{a[1]} against {b[1]}: {_reason(quality, verdicts[-1])}; {times}")
    if not verdicts:
        return Finding(NOT_RUN, None, f"the study has no curve {check.b!r}")
    return Finding(_all(verdicts), shown, "; ".join(reasons), evidence, one_seed)


def _cheaper(check: Cheaper, results: Results) -> Finding:
    """A claim that one variant takes fewer device seconds to train than another."""
    variants = [_variant(results, check.table, row) for row in (check.a, check.b)]
    a, b = (results.training(variant) if variant else None for variant in variants)
    if a is None or b is None:
        return Finding(NOT_RUN, None, "the study does not train both: imported weights cost it nothing")
    reason = f"{a} against {b} device seconds of training, least and most of the seeds{_published(check)}"
    if min(len(a.seeds), len(b.seeds)) == 1:
        reason = f"inconclusive (1 seed): {reason}; one training has no range"
        return Finding("inconclusive", None, reason, (a, b), one_seed=True)
    return Finding(_verdict(a.high < b.low, a.low > b.high), None, reason, (a, b))


def _share(check: Share, results: Results) -> Finding:
    """A claim that the head takes less than a share `below` of the sampling time."""
    cell = _cell(results, check.table, check.row, check.guided)
    share = results.head_share(*cell) if cell else None
    if share is None:
        return Finding(NOT_RUN, None, "the study does not time this row")
    verdict = _verdict(share.high < check.below, share.low > check.below)
    reason = f"the head takes {share} of the sampling time; asked for less than {short(check.below)}"
    return Finding(verdict, None, reason, (share,))


# Functions that decide the checks that are more than one comparison of two cells; `_compared` decides the others.
DECIDERS: dict[type, Callable[[Any, Results], Finding]] = {
    Dominates: _dominates,
    Improves: _improves,
    Ordered: _ordered,
    Reaches: _reaches,
    Saturates: _saturates,
    Optimum: _optimum,
    Cheaper: _cheaper,
    Share: _share,
}


def _sides(*comparisons: Comparison) -> list[Estimate]:
    """Both estimates of each comparison."""
    return [side for c in comparisons for side in (c.a, c.b)]


def _verdict(holds: bool, fails: bool) -> str:
    return "replicated" if holds else "not replicated" if fails else "inconclusive"


def _all(verdicts: list[str]) -> str:
    """The verdict on a claim all of whose parts must be replicated."""
    return _verdict(all(v == "replicated" for v in verdicts), "not replicated" in verdicts)


def _reason(c: Comparison, verdict: str) -> str:
    """A comparison in words, with its numbers of training seeds."""
    label = {"fid": "FID", "inception_score": "IS", "seconds": "seconds per image"}.get(c.metric, c.metric)
    a, b = (duration(x) if c.metric == "seconds" else str(x) for x in (c.a, c.b))
    text = f"{label} {a} against {b}, {c}"
    if c.metric == "seconds":
        return text + ("; timed by different protocols, which decides nothing" if c.few else "")
    seeds = sorted({len(c.a.seeds), len(c.b.seeds)})
    text += f", {' and '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''} a side"
    text += "".join(f"; {why}" for why in c.unfair if why)
    if _one_seed(c, verdict):
        return f"inconclusive (1 seed): {text}"
    if verdict == "inconclusive" and c.blocked:
        return f"inconclusive ({c.blocked.partition(':')[0]}): {text}"
    return text + (", far outside the measured seed spread" if c.few and c.far else "")


def _one_seed(c: Comparison, verdict: str) -> bool:
    """Whether a comparison of quality is inconclusive because a side has one training seed."""
    return c.metric != "seconds" and c.few and not c.far and verdict == "inconclusive"


def _published(check: Check) -> str:
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


def _cell(results: Results, paper: str, row: str, guided: bool) -> Cell | None:
    """The study's cell for a row of a table of the paper, from the first of its tables that has one."""
    for table in results.study.tables.values():
        for entry in table.rows:
            setting = entry.guided if guided else entry.without
            if table.paper == paper and entry.paper == row and entry.variant and setting:
                return entry.variant, setting
    return None


def _variant(results: Results, paper: str, row: str) -> str | None:
    """The study's variant for a row of a table of the paper."""
    tables = (table for table in results.study.tables.values() if table.paper == paper)
    rows = (entry for table in tables for entry in table.rows)
    return next((entry.variant for entry in rows if entry.paper == row and entry.variant), None)


def _curve(results: Results, label: str) -> list[Cell]:
    """The cells of a trade-off curve, in the order of the study."""
    curves = [c for c in results.study.tradeoff if c.label == label]
    return [(c.variant, setting) for c in curves for setting in c.sampling]


def _points(results: Results, figure: str, label: str) -> list[tuple[float, Cell]]:
    """The points of a figure's curve: the value that it varies, ascending, and the cell."""
    curves = [c for c in getattr(results.study, figure) if c.label == label]
    return [(x, (c.variant, setting)) for c in curves for x, setting in along(results, figure, c)]


def _entry(claim: Claim, finding: Finding) -> Verdict:
    """The entry of claims.json for a claim and its finding."""
    c = finding.comparison
    cells = {e.source: e.seeds for e in finding.evidence if e.source}
    return Verdict(
        id=claim.id,
        text=claim.text,
        source=claim.source,
        decides=claim.decides,
        because=claim.because or RELATIVE,
        verdict=finding.verdict,
        effect=c.effect if c else None,
        low=c.low if c else None,
        high=c.high if c else None,
        scale=None if c is None else "log ratio" if c.log else "difference",
        reason=finding.reason,
        seeds=(len(c.a.seeds), len(c.b.seeds)) if c else (),
        one_seed=finding.one_seed,
        evidence=tuple(
            Evidence(variant=s.variant, setting=s.setting, metric=s.metric, seeds=seeds, files=s.files)
            for s, seeds in cells.items()
        ),
    )
