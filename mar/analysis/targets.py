"""Claims on absolute numbers: FIDs that the paper prints, and numbers of parameters."""

from __future__ import annotations

import math

from mar.analysis import confounds, wording
from mar.analysis.contrasts import FAR
from mar.analysis.estimates import Comparison, Results
from mar.analysis.findings import Finding, cell_of, variant_of, verdict_of
from mar.analysis.learning_curves import still_learning
from mar.analysis.paper_columns import NOT_RUN
from mar.analysis.result_files import Estimate, short
from mar.paper.claims import Parameters, Target
from mar.paper.numbers import paper_rows


def target(check: Target, results: Results) -> Finding:
    """A claim that a row's FID is at most `within` times a number that the paper prints, which has no interval."""
    cell = cell_of(results, check.table, check.row, check.guided)
    fid = results.cell(*cell, "fid") if cell else None
    if cell is None or fid is None:
        return Finding(NOT_RUN, None, "the study does not train this row")
    printed, edge = check.printed, math.log(check.within)
    effect, low, high = (math.log(x / printed) for x in (fid.value, fid.low, fid.high))
    few = len(fid.seeds) == 1
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


def parameters(check: Parameters, results: Results) -> Finding:
    """A claim that the head has less than `below` times the parameters of the rest of the model; both are counted."""
    variant = variant_of(results, check.table, check.row)
    if variant is None or not results.study.variants[variant].seeds:
        return Finding(NOT_RUN, None, "the study does not train this row")
    whole, head = results.parameters(variant), results.head_parameters(variant)
    if head is None:
        return Finding(NOT_RUN, None, "this row has no head")
    share = head.value / (whole.value - head.value)
    printed = paper_rows(check.table)[check.row].get("head_params", "")
    reason = f"the head has {head.value:,.0f} parameters, {share:.1%} of the other {whole.value - head.value:,.0f}"
    reason += f"; asked for less than {check.below:.1%}" + (f"; the paper: {printed}" if printed else "")
    return Finding(verdict_of(share < check.below, share >= check.below), None, reason, (whole,))
