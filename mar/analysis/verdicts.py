"""Verdicts on the claims of the paper (`mar/paper/claims.py`), by a study's numbers and their intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mar.analysis import confounds, laws, quantising, targets, tasks, wording
from mar.analysis.confounds import Cell
from mar.analysis.curve_points import along
from mar.analysis.estimates import Comparison, Results
from mar.analysis.findings import Finding
from mar.analysis.findings import cell_of as _cell
from mar.analysis.findings import verdict_of as _verdict
from mar.analysis.learning_curves import still_learning
from mar.analysis.metric_kinds import lower_is_better
from mar.analysis.paper_columns import NOT_RUN
from mar.analysis.result_files import Estimate, duration, short
from mar.analysis.tally import tally
from mar.paper.claims import (
    All,
    Better,
    Claim,
    Close,
    Dominates,
    Faster,
    Fits,
    Guidance,
    Improves,
    Law,
    Optimum,
    Ordered,
    Parameters,
    Published,
    Reaches,
    Recovers,
    Rfid,
    Saturates,
    Share,
    Target,
    load,
    own,
)
from mar.runtime.files import write
from mar.study import layout
from mar.study.records import Evidence, Missing, UnderExtractor, Verdict, Verdicts
from mar.study.study import Study

UNDECIDED = _verdict(False, False)
RELATIVE = "it compares numbers of one study with each other, whatever its size"


def decide(study: Study, root: Path, claims_file: str | Path) -> tuple[Verdict, ...]:
    """Decide every claim, write claims.json and return its content.

    Raises:
        ValueError: the claims file is not accepted, or a metric or speed file of a trained variant is missing.
    """
    results = Results(study, root)
    claims = (*load(claims_file), *own(study))
    single = {claim.id: _decide(claim, results) for claim in claims if not isinstance(claim.check, All)}
    verdicts = tuple(single[c.id] if c.id in single else _conjunction(c, single) for c in claims)
    write(layout.claims(Path(root)), Verdicts(verdicts))
    print(f"{Path(root) / 'claims.json'}: {' '.join(tally(verdicts))}", flush=True)
    return verdicts


def _decide(claim: Claim, results: Results) -> Verdict:
    check: Any = claim.check  # one of mar.paper.claims.Check
    if results.extractor in results.random and not isinstance(check, Faster | Share | Parameters | Law):
        return _entry(claim, Finding("not decidable here", None, f"{results.extractor} has random weights"))
    if claim.decides == "imagenet" and not results.comparable:
        why = f"{claim.because}; the study has {results.incomparable}"
        return _entry(claim, Finding("not decidable here", None, why))
    if (metric := getattr(check, "metric", "fid")) not in [*results.names, "seconds"]:
        return _entry(claim, Finding(NOT_RUN, None, f"the study's metrics have no {metric}"))
    return _entry(claim, _decided(check, results), _elsewhere(check, results))


def _conjunction(claim: Claim, single: dict[str, Verdict]) -> Verdict:
    """The verdict on a claim that all of some others hold, by their verdicts, also those under each extractor.

    It is replicated where all are, so no more often in error than each of them. It is not replicated where one of
    them is not; then it errs as often as any of them does, up to n times as often as one of n.
    """
    assert isinstance(claim.check, All)
    parts = [single[name] for name in claim.check.claims]
    verdicts = [part.verdict for part in parts]
    verdict = _joined(verdicts)
    counts = (f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    others = [f"{part.id} {part.verdict}" for part in parts if part.verdict != "replicated"]
    reason = f"of {len(parts)} claims {', '.join(counts)}" + (f": {', '.join(others)}" if others else "")
    evidence = list({(e.variant, e.setting, e.metric): e for part in parts for e in part.evidence}.values())
    missing = next((part.missing for part in parts if part.missing), None) if verdict == UNDECIDED else None
    elsewhere = []
    for name in dict.fromkeys(e.extractor for part in parts for e in part.extractors):
        under = [next((e.verdict for e in part.extractors if e.extractor == name), part.verdict) for part in parts]
        elsewhere.append(UnderExtractor(extractor=name, verdict=_joined(under), effect=None, low=None, high=None))
    entry = _entry(claim, Finding(verdict, None, reason, missing=missing), tuple(elsewhere))
    return entry.model_copy(update={"evidence": tuple(evidence)})


def _joined(verdicts: Sequence[str]) -> str:
    """The verdict on a claim that consists of others, some of which may not be judged at all."""
    verdict = _all(verdicts)
    unjudged = [v for v in (NOT_RUN, "not decidable here") if v in verdicts]
    return unjudged[0] if unjudged and verdict == UNDECIDED else verdict


def _decided(check: Any, results: Results) -> Finding:
    """The finding on a predicate that the study can decide; an undecided one says what is missing."""
    finding = DECIDERS.get(type(check), _compared)(check, results)
    finding = finding._replace(evidence=_once(finding.evidence, results))
    variants = {e.source.variant for e in finding.evidence if e.source}
    if (imported := sorted(filter(results.imported, variants))) and not isinstance(check, Published):
        finding = finding._replace(reason=f"{finding.reason}; with published weights: {', '.join(imported)}")
    if finding.verdict != UNDECIDED:
        return finding._replace(missing=None)
    if finding.missing and not finding.one_seed:
        return finding
    missing = wording.missing(finding.comparison, finding.one_seed)
    return finding._replace(missing=missing, reason=f"{finding.reason}; {missing.text}")


def _elsewhere(check: Any, results: Results) -> tuple[UnderExtractor, ...]:
    """The verdict by each further extractor, of a claim about FID; none of a claim about FID as a number."""
    if getattr(check, "metric", None) != "fid" or isinstance(check, Target | Published | Recovers):
        return ()
    further = [name for name in results.extractors if f"fid_{name}" in results.names and name not in results.random]
    findings = [(name, _decided(check.model_copy(update={"metric": f"fid_{name}"}), results)) for name in further]
    return tuple(
        UnderExtractor(
            extractor=name,
            verdict=finding.verdict,
            effect=c.effect if (c := finding.comparison) else None,
            low=c.low if c else None,
            high=c.high if c else None,
        )
        for name, finding in findings
    )


def _compared(check: Better | Close | Guidance | Faster, results: Results) -> Finding:
    """A claim that one cell is better than another, or is at most `within` times worse."""
    guided = getattr(check, "guided", False)
    if isinstance(check, Guidance):
        a, b = _cell(results, check.table, check.row, True), _cell(results, check.table, check.row, False)
    else:
        a, b = _cell(results, check.table, check.a, guided), _cell(results, check.table, check.b, guided)
    metric = "seconds" if isinstance(check, Faster) else check.metric
    edge = math.log(check.within) if isinstance(check, Close) else 0.0
    recipes = getattr(check, "recipes", "equal")
    comparison = confounds.compare(results, a, b, metric, edge, recipes) if a and b else None
    if a is None or b is None or comparison is None:
        missing = "train and time" if metric == "seconds" else "train"
        return Finding(NOT_RUN, None, f"the study does not {missing} what this compares")
    if isinstance(check, Close):
        below, above = comparison.high < edge, comparison.low > edge
        verdict = _verdict(comparison.fair(0) and below, comparison.fair(1) and above)
    else:
        verdict = _verdict(comparison.better, comparison.worse)
    reason = wording.reason(comparison, verdict) + wording.published(check)
    one_seed = wording.one_seed(comparison, verdict)
    if isinstance(check, Close):
        reason += f"; accepted up to ratio {short(check.within)}"
    return Finding(verdict, comparison, reason, _sides(comparison), one_seed, comparison.blocked)


def _ordered(check: Ordered, results: Results) -> Finding:
    """A claim that each row of a table is better than the row before it."""
    cells = [_cell(results, check.table, row, check.guided) for row in check.rows]
    pairs = [
        confounds.compare(results, b, a, check.metric, recipes=check.recipes) if a and b else None
        for a, b in itertools.pairwise(cells)
    ]
    if any(step is None for step in pairs):
        return Finding(NOT_RUN, None, "the study does not train all of these rows")
    steps = [step for step in pairs if step is not None]
    verdicts = [_verdict(step.better, step.worse) for step in steps]
    reasons = [
        f"{b} against {a}: {wording.reason(step, verdict)}"
        for (a, b), step, verdict in zip(itertools.pairwise(check.rows), steps, verdicts, strict=True)
    ]
    # the step that is shown is the one that decides: the least improvement
    sign = 1 if lower_is_better(check.metric) else -1
    shown = max(steps, key=lambda step: sign * step.effect)
    one_seed = any(map(wording.one_seed, steps, verdicts))
    reason = "; ".join(reasons) + wording.published(check)
    return Finding(_all(verdicts), shown, reason, _sides(*steps), one_seed, wording.blocked(*steps))


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
        (x, c) for x, cell in later if (c := confounds.compare(results, start, cell, check.metric, edge)) is not None
    ]
    if not comparisons:
        return Finding(NOT_RUN, None, "the study does not train this curve")
    verdicts = [_verdict(c.fair(0) and c.high < edge, c.fair(1) and c.low > edge) for _, c in comparisons]
    x, shown = max(comparisons, key=lambda point: point[1].effect)  # the later point that improves most
    verdict = _all(verdicts)
    reason = f"{check.at} diffusion steps against {x:g}: {wording.reason(shown, verdict)}"
    reason += f"; accepted up to ratio {short(check.within)}"
    every = [c for _, c in comparisons]
    return Finding(
        verdict, shown, reason, _sides(*every), wording.one_seed(shown, verdict), wording.blocked(shown, *every)
    )


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
    reasons = [f"temperature {best:g} against {x:g}: {wording.reason(c, verdict)}" for x, c in ends]
    shown = max((c for _, c in ends), key=lambda c: sign * c.effect)
    evidence = [*_sides(*(c for _, c in ends)), *others]
    one_seed, lack = any(wording.one_seed(c, verdict) for _, c in ends), wording.blocked(*(c for _, c in ends))
    return Finding(verdict, shown, "; ".join(reasons), evidence, one_seed, lack)


def _reaches(check: Reaches, results: Results) -> Finding:
    """A claim that a point of a curve has a FID below `fid` in less than `seconds` per image on the paper's device."""
    verdicts, reasons, evidence = [], [], []
    missing: Missing | None = None
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
        recites, learning = confounds.recites(results, (variant, setting)), still_learning(results, (variant,))
        reached, worse = fid.high < check.fid and seconds.high < check.seconds, fid.low > check.fid
        fails = seconds.low > check.seconds or (sure and worse and not learning)
        verdicts.append(_verdict(sure and reached and not recites, fails))
        if sure and not fails:  # a model that was still learning may yet reach it; one that has reached it has
            missing = missing or (recites if reached else learning if worse else None)
        caveats = wording.caveats(tuple(why for why in (recites, learning) if why))
        reasons.append(f"{setting}: FID {fid} in {duration(seconds)}{caveats}")
        evidence += [fid, seconds]
    if not verdicts:
        return Finding(NOT_RUN, None, f"the study does not train or time curve {check.curve!r}")
    every = all(verdict == "not replicated" for verdict in verdicts)
    verdict = _verdict("replicated" in verdicts, every)
    threshold = f"asked for FID below {short(check.fid)} in {short(check.seconds)} seconds"
    return Finding(verdict, None, "; ".join([*reasons, threshold]), evidence, missing=missing)


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
    reason = f"{curve[-1][1]} against {curve[0][1]}: " + wording.reason(total, verdict)
    reason += f"; worse than the point before: {', '.join(back)}" if back else ""
    return Finding(verdict, total, reason, _sides(*steps), wording.one_seed(total, verdict), total.blocked)


def _dominates(check: Dominates, results: Results) -> Finding:
    """A claim that for each point of curve b some point of curve a is both better and faster."""
    curve_a, curve_b = _curve(results, check.a), _curve(results, check.b)
    verdicts, reasons, shown, one_seed = [], [], None, False
    evidence: list[Estimate] = []
    missing: Missing | None = None
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
        shown, one_seed = quality, one_seed or wording.one_seed(quality, verdicts[-1])
        missing = missing or quality.blocked
        times = f"time per image {duration(speed.a)} against {duration(speed.b)}"
        reasons.append(f"{a[1]} against {b[1]}: {wording.reason(quality, verdicts[-1])}; {times}")
    if not verdicts:
        return Finding(NOT_RUN, None, f"the study has no curve {check.b!r}")
    return Finding(_all(verdicts), shown, "; ".join(reasons), evidence, one_seed, missing)


def _share(check: Share, results: Results) -> Finding:
    """A claim that the head takes less than a share `below` of the sampling time."""
    cell = _cell(results, check.table, check.row, check.guided)
    share = results.head_share(*cell) if cell else None
    if share is None:
        return Finding(NOT_RUN, None, "the study does not time this row")
    verdict = _verdict(share.high < check.below, share.low > check.below)
    reason = f"the head takes {share} of the sampling time; asked for less than {short(check.below)}"
    return Finding(verdict, None, reason, (share,))


# Functions that decide the checks that are more than one comparison of two cells; `_compared` decides the others, and
# `_conjunction` claims that consist of others.
DECIDERS: dict[type, Callable[[Any, Results], Finding]] = {
    Dominates: _dominates,
    Improves: _improves,
    Ordered: _ordered,
    Reaches: _reaches,
    Saturates: _saturates,
    Optimum: _optimum,
    Share: _share,
    Parameters: targets.parameters,
    Target: targets.target,
    Published: targets.published,
    Rfid: quantising.rfid,
    Recovers: quantising.recovers,
    Law: laws.law,
    Fits: tasks.fits,
}


def _sides(*comparisons: Comparison) -> list[Estimate]:
    """Both estimates of each comparison."""
    return [side for c in comparisons for side in (c.a, c.b)]


def _once(evidence: Sequence[Estimate], results: Results) -> list[Estimate]:
    """The evidence without numbers of sets that are equal to an earlier one's, whatever their settings are called."""
    first: dict[tuple[str, ...], Estimate] = {}
    for i, e in enumerate(evidence):
        key: tuple[str, ...] = (str(i),)
        if e.source:
            setting = e.source.setting
            used = results.sampling(e.source.variant, setting).model_dump_json() if setting else ""
            key = (e.source.variant, e.source.metric, used)
        first.setdefault(key, e)
    return list(first.values())


def _all(verdicts: Sequence[str]) -> str:
    """The verdict on a claim all of whose parts must be replicated."""
    return _verdict(all(v == "replicated" for v in verdicts), "not replicated" in verdicts)


def _curve(results: Results, label: str) -> list[Cell]:
    """The cells of a trade-off curve, in the order of the study."""
    curves = [c for c in results.study.tradeoff if c.label == label]
    return [(c.variant, setting) for c in curves for setting in c.sampling]


def _points(results: Results, figure: str, label: str) -> list[tuple[float, Cell]]:
    """The points of a figure's curve: the value that it varies, ascending, and the cell."""
    curves = [c for c in getattr(results.study, figure) if c.label == label]
    return [(x, (c.variant, setting)) for c in curves for x, setting in along(results, figure, c)]


def _entry(claim: Claim, finding: Finding, elsewhere: tuple[UnderExtractor, ...] = ()) -> Verdict:
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
        missing=finding.missing,
        extractors=elsewhere,
        evidence=tuple(
            Evidence(variant=s.variant, setting=s.setting, metric=s.metric, seeds=seeds, files=s.files)
            for s, seeds in cells.items()
        ),
    )
