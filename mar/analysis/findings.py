"""What a decider returns, and how it finds the cells that a claim names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mar.analysis.confounds import Cell
from mar.analysis.estimates import Comparison, Results
from mar.analysis.result_files import Estimate
from mar.study.records import Missing


class Finding(NamedTuple):
    """A verdict and why.

    Attributes:
        verdict: one of the rulings of a Verdict.
        comparison: the comparison that decides, which is shown beside the verdict; None if nothing was compared.
        reason: the reason in words.
        evidence: every number that the verdict rests on.
        one_seed: whether a comparison is undecided because a side has one training seed.
        missing: why the side that wins decides nothing, where that leaves the claim undecided.
    """

    verdict: str
    comparison: Comparison | None
    reason: str
    evidence: Sequence[Estimate] = ()
    one_seed: bool = False
    missing: Missing | None = None


def verdict_of(holds: bool, fails: bool) -> str:
    """The verdict on a claim by whether its numbers show that it holds or that it fails."""
    return "replicated" if holds else "not replicated" if fails else "undecided"


def cell_of(results: Results, paper: str, row: str, guided: bool, imported: bool = False) -> Cell | None:
    """The study's cell for a row of a table of the paper, or of its own.

    A table may have the row with a training of our own and another one with published weights. Of those that the study
    runs the former comes first, or the latter where a claim is about published weights (`imported`).
    """
    found = []
    for name, table in results.study.tables.items():
        for entry in table.rows:
            setting = entry.guided if guided else entry.without
            if (table.paper or name) == paper and entry.key == row and entry.variant and setting:
                found.append((entry.variant, setting))
    variants = results.study.variants
    found.sort(key=lambda cell: (not variants[cell[0]].seeds, variants[cell[0]].pretrained != imported))
    return found[0] if found else None


def variant_of(results: Results, paper: str, row: str) -> str | None:
    """The study's variant for a row of a table of the paper."""
    tables = (table for name, table in results.study.tables.items() if (table.paper or name) == paper)
    rows = (entry for table in tables for entry in table.rows)
    named = [entry.variant for entry in rows if entry.key == row and entry.variant]
    return next((name for name in named if results.study.variants[name].seeds), named[0] if named else None)
