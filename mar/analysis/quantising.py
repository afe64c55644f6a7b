"""Claims on what tokenizers lose, and on what Diffusion Loss gains by a tokenizer that does not quantise.

*Loss of a tokenizer*: rFID on the train split, as the paper measures it, less its floor, the FID of the same images
before they are reconstructed. The floor is 0 where these are the images that FID compares with.

*The mechanism.* The paper explains Diffusion Loss's gain by the quantiser: VQ-16 loses 5.87 of the 8.79 that MAR has
with cross-entropy, KL-16 loses 1.43 of the 3.50 that it has with Diffusion Loss (Tables 1 and 2). So FID gains 5.29
where the tokenizer loses 4.44 less. The claim is that the gain is of the order of that loss, from half of it to twice
it:

    gain - loss / 2 > 0   and   2 loss - gain > 0,   gain = FID(b) - FID(a), loss = lost(b) - lost(a).

Replicated if the 95% intervals of both lie above 0, not replicated if one lies below 0. Both are needed, so the claim
is replicated in error in no more than 2.5% of studies. Where the tokenizers lose the same, nothing can be decided but
that Diffusion Loss gains by other means. `benchmarks/mechanism.py` simulates how often the rule decides, and how
often wrongly.

The tokenizers of a study are trained once: the interval has the noise of their images, not that of other trainings.
"""

from __future__ import annotations

from mar.analysis import confounds, wording
from mar.analysis.contrasts import FAR, combine, widened
from mar.analysis.estimates import Results
from mar.analysis.findings import Finding, cell_of, variant_of, verdict_of
from mar.analysis.paper_columns import NOT_RUN, printed
from mar.analysis.result_files import Estimate, short
from mar.paper.claims import Recovers, Rfid
from mar.paper.numbers import paper_rows, printed_rows


def lost(results: Results, variant: str) -> Estimate | None:
    """What the tokenizer of a variant loses; None if the variant is not trained or rfid.json has no floor.

    Files from before the train split was measured have the held-out images alone.
    """
    if not results.study.variants[variant].seeds:
        return None
    for split in ("train", "heldout"):
        rfid, floor = results.rfid(variant, split), results.rfid(variant, split, "floor")
        if rfid is not None and floor is not None:
            less = combine((1.0, rfid), (-1.0, floor))
            return Estimate(less.value, less.low, less.high, less.n, (), rfid.source)
    return None


def rfid(check: Rfid, results: Results) -> Finding:
    """A claim that one tokenizer loses at most a share `within` of what another one loses."""
    variants = [variant_of(results, check.table, row) for row in (check.a, check.b)]
    a, b = (lost(results, variant) if variant else None for variant in variants)
    if a is None or b is None:
        return Finding(NOT_RUN, None, "the study does not train on both tokenizers, or their floors are not measured")
    less = combine((check.within, b), (-1.0, a))
    reason = f"rFID less its floor: {a} against {b}; accepted up to ratio {short(check.within)}"
    return Finding(verdict_of(less.low > 0, less.high < 0), None, reason + _printed(check), (a, b))


def recovers(check: Recovers, results: Results) -> Finding:
    """A claim that Diffusion Loss gains from `least` to `most` times what quantising loses (see above)."""
    a, b = (cell_of(results, check.table, row, guided=False) for row in (check.a, check.b))
    fid_a, fid_b = (results.cell(*cell, "fid") if cell else None for cell in (a, b))
    lost_a, lost_b = (lost(results, cell[0]) if cell else None for cell in (a, b))
    if a is None or b is None or fid_a is None or fid_b is None or lost_a is None or lost_b is None:
        return Finding(NOT_RUN, None, "the study does not train both, or the floors of rFID are not measured")
    gain, loss = combine((1.0, fid_b), (-1.0, fid_a)), combine((1.0, lost_b), (-1.0, lost_a))
    evidence, few = (fid_a, fid_b, lost_a, lost_b), min(len(fid_a.seeds), len(fid_b.seeds)) == 1
    wide = [widened(e, FAR) if few else e for e in (fid_a, fid_b)]
    apart, less = combine((1.0, wide[1]), (-1.0, wide[0])), (check.least, check.most)
    enough, no_more = combine((1.0, apart), (-less[0], loss)), combine((less[1], loss), (-1.0, apart))
    known = not few or results.spread("fid").dof > 0  # without a seed spread, no effect of one seed is far
    holds, little, much = min(enough.low, no_more.low) > 0, enough.high < 0, no_more.high < 0
    # what favours a makes the gain too large, what favours b too small
    large, small = confounds.both(results, a, b)
    fair = verdict_of(known and holds, known and (little or much))
    verdict = verdict_of(
        known and holds and not (large or small), known and ((little and not small) or (much and not large))
    )
    reason = f"FID gains {gain}, where the tokenizer loses {loss} less"
    reason += f"; asked for {short(check.least)} to {short(check.most)} times the loss{_printed(check)}"
    reason += wording.caveats(large, small)
    open_ = verdict_of(False, False)
    blocking = large if much else small if little else (*large, *small)
    missing = next(iter(blocking), None) if verdict == open_ != fair else None
    if missing:
        reason = f"{wording.undecided(missing.kind)}{reason}"
    if one_seed := few and fair == open_:
        reason = f"{wording.undecided('one seed')}{reason}"
    return Finding(verdict, None, reason, evidence, one_seed, missing)


def _printed(check: Rfid | Recovers) -> str:
    """The paper's own numbers in words."""
    if not {check.a, check.b} <= printed_rows(check.table).keys():
        return ""
    tokenizers = {row["tokenizer"]: row["rfid"] for row in paper_rows("mar_table2").values()}
    rows = [paper_rows(check.table)[row] for row in (check.a, check.b)]
    a, b = (tokenizers[row["tokenizer"]] for row in rows)
    if isinstance(check, Rfid):
        return f"; the paper: rFID {a} against {b}"
    fids = [printed(row["fid_nocfg"], "fid") for row in rows]
    gain, loss = float(fids[1]) - float(fids[0]), float(b) - float(a)
    return f"; the paper: gain {short(gain)} ({fids[1]} to {fids[0]}), loss {short(loss)} ({b} to {a})"
