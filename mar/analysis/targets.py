"""Claims on absolute numbers: FIDs that the paper prints, and numbers of parameters."""

from __future__ import annotations

import math

from mar.analysis import confounds, power, wording
from mar.analysis.contrasts import FAR
from mar.analysis.estimates import Comparison, Results
from mar.analysis.findings import Finding, cell_of, variant_of, verdict_of
from mar.analysis.intervals import Z
from mar.analysis.learning_curves import still_learning
from mar.analysis.metric_kinds import by_ratio
from mar.analysis.paper_columns import NOT_RUN
from mar.analysis.result_files import Estimate, short
from mar.paper.claims import TOLERANCE, Parameters, Published, Target
from mar.paper.numbers import printed_rows
from mar.study.records import Missing


def target(check: Target, results: Results) -> Finding:
    """A claim that a row's FID is at most `within` times a number that the paper prints, which has no interval."""
    cell = cell_of(results, check.table, check.row, check.guided)
    fid = results.cell(*cell, "fid") if cell else None
    if cell is None or fid is None:
        return Finding(NOT_RUN, None, "the study does not train this row")
    printed, edge = check.printed, math.log(check.within)
    effect, low, high = (math.log(x / printed) for x in (fid.value, fid.low, fid.high))
    few = len(fid.seeds) == 1 and not results.imported(cell[0])
    far = results.spread("fid").dof > 0 and abs(effect - edge) > FAR * (high - low) / 2
    paper = Estimate(printed, printed, printed, 0)
    # a model that was still learning may yet reach the target; one that has reached it has
    recites, learning = confounds.recites(results, cell), still_learning(results, cell[:1])
    unfair = ((recites,) if recites else ()), ((learning,) if learning else ())
    comparison = Comparison("fid", fid, paper, effect, low, high, few, far, edge, unfair=unfair)
    verdict = verdict_of(comparison.fair(0) and high < edge, comparison.fair(1) and low > edge)
    whose = "the paper's" if not check.of else f"the lowest that the paper prints for {', '.join(check.of)}"
    reason = f"FID {fid} against {short(printed)}, {whose}; {comparison}; accepted up to ratio {short(check.within)}"
    reason += wording.caveats(*unfair)
    if one_seed := wording.one_seed(comparison, verdict):
        reason = f"{wording.undecided('one seed')}{reason}"
    elif comparison.blocked:
        reason = f"{wording.undecided(comparison.blocked.kind)}{reason}"
    return Finding(verdict, comparison, reason, (fid,), one_seed, comparison.blocked)


def published(check: Published, results: Results) -> Finding:
    """A claim that published weights have the number that the paper prints."""
    cell = cell_of(results, check.table, check.row, check.guided, imported=True)
    if cell is None or not results.imported(cell[0]):
        return Finding(NOT_RUN, None, "the study has no published weights of this row")
    found = results.cell(*cell, check.metric)
    if found is None:
        return Finding(NOT_RUN, None, "the study does not run the published weights of this row")
    return against_print(check.metric, found, check.printed)


def against_print(metric: str, found: Estimate, printed: float) -> Finding:
    """Whether a number lies within the tolerance of the printed one: with its whole interval, not at all, or unknown.

    The interval is that of the images alone, since the weights are the published ones themselves. FID is compared by
    its ratio, the Inception Score by its share, precision and recall by their difference.
    """
    tolerance, log = TOLERANCE[metric], by_ratio(metric)
    scale = printed if metric == "inception_score" else 1.0

    def distance(x: float) -> float:
        return math.log(x / printed) if log else (x - printed) / scale

    edge = math.log1p(tolerance) if log else tolerance
    effect, low, high = map(distance, (found.value, found.low, found.high))
    verdict = verdict_of(-edge <= low and high <= edge, high < -edge or low > edge)
    allowed = f"{tolerance:.0%}" if metric in ("fid", "inception_score") else f"{tolerance:g}"
    label = {"fid": "FID", "inception_score": "IS"}.get(metric, metric)
    reason = f"{label} {found} with the published weights; the paper: {printed:g}, accepted within {allowed}"
    missing = None
    if verdict == "undecided":
        noise = ((high - low) / (2 * Z)) ** 2
        more = power.images(abs(abs(effect) - edge), noise, noise, math.inf, found.n)
        need = (
            f"about {more:,} images (now {found.n:,}) would decide"
            if more
            else f"{power.MOST_TIMES} times the images would not decide"
        )
        missing = Missing(kind="interval", text=f"the interval reaches both sides of the tolerance: {need}")
        reason = f"{reason}; {missing.text}"
    return Finding(verdict, None, reason, (found,), missing=missing)


def parameters(check: Parameters, results: Results) -> Finding:
    """A claim that the head has less than `below` times the parameters of the rest of the model; both are counted."""
    variant = variant_of(results, check.table, check.row)
    if variant is None or not results.study.variants[variant].seeds:
        return Finding(NOT_RUN, None, "the study does not train this row")
    whole, head = results.parameters(variant), results.head_parameters(variant)
    if head is None:
        return Finding(NOT_RUN, None, "this row has no head")
    share = head.value / (whole.value - head.value)
    printed = printed_rows(check.table).get(check.row, {}).get("head_params", "")
    reason = f"the head has {head.value:,.0f} parameters, {share:.1%} of the other {whole.value - head.value:,.0f}"
    reason += f"; asked for less than {check.below:.1%}" + (f"; the paper: {printed}" if printed else "")
    return Finding(verdict_of(share < check.below, share >= check.below), None, reason, (whole,))
