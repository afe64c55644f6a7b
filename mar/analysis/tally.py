"""Counts of verdicts in sentences: how many claims came out which way, why others did not, and how many may be false.

*False verdicts.* A claim is decided if its 95% interval lies on one side of its edge. Whatever the truth, the
interval lies wholly on the wrong side with a probability of at most half of what its coverage leaves: 3.5% at a
coverage of 93%, which the rule keeps where variants scatter alike (`mar/analysis/intervals.py`). So of the claims
that were tested, which are the decided ones and those whose interval reaches both sides, at most 3.5% are expected to
be decided wrongly. It is a bound: claims whose effect is far from the edge are hardly ever wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mar.analysis.intervals import FALSE
from mar.study.records import Verdict

RULINGS = ("replicated", "not replicated", "undecided", "not run", "not decidable here")


def tally(verdicts: Sequence[Verdict]) -> list[str]:
    """Sentences: all claims by verdict, undecided ones by what is missing, false verdicts, and other extractors."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    lacks = Counter(verdict.missing.kind for verdict in verdicts if verdict.missing)
    found = ", ".join(f"{counts[ruling]} {ruling}" for ruling in RULINGS if counts[ruling])
    sentences = [f"{len(verdicts)} claims: {found or 'none'}."]
    if lacks:
        reasons = ", ".join(f"{kind} {count}" for kind, count in lacks.most_common())
        sentences.append(f"Undecided because of: {reasons}.")
    if decided := sum(verdict.decided for verdict in verdicts):
        sentences.append(
            f"Of {decided} decided at most {false_verdicts(verdicts):.2g} are expected to be false: "
            f"{100 * FALSE:g}% of {sum(verdict.tested for verdict in verdicts)} tested."
        )
    if apart := sum(bool(verdict.disagreeing) for verdict in verdicts):
        sentences.append(f"In {apart} another extractor has another verdict.")
    return sentences


def false_verdicts(verdicts: Sequence[Verdict]) -> float:
    """The most false verdicts that are expected among the decided ones (module docstring)."""
    return min(FALSE * sum(verdict.tested for verdict in verdicts), float(sum(verdict.decided for verdict in verdicts)))
