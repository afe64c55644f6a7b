"""The summary of a study on the terminal: the answer on one screen, or all claims in full."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mar.analysis.estimates import Results
from mar.analysis.result_files import short
from mar.analysis.tally import RULINGS, tally
from mar.analysis.warnings import warnings
from mar.report import more
from mar.report.answer import Answer, Row, Side, answer, decided, lacks, time_text, unasked
from mar.report.evidence import runs_address, server_of
from mar.report.page import by_extractor, claims
from mar.runtime.text import printable
from mar.study import layout
from mar.study.records import Verdict
from mar.study.study import Study

if TYPE_CHECKING:
    from rich.console import Console

WIDTH, WIDEST = 80, 100  # characters of a line: where there is no terminal, and at most
MARKS = {"replicated": "✓", "not replicated": "✗", "undecided": "?"}
COLOURS = {"replicated": "green", "not replicated": "red", "undecided": "yellow"}
FLAWS = {"recites": "!", "still learning": "~"}  # marks behind a number that does not count
SHOWN, ROWS = 2, 6  # decided claims of each verdict that are told in words; rows of a study without pairs
LABEL = 26  # characters of the first column

Line = tuple[str, str]  # a text and its style


def summary(study: Study, root: Path, all_claims: bool = False) -> None:
    """Print the warnings and then the answer, or all claims in full.

    Raises:
        ValueError: the metrics or claims.json are missing.
    """
    from rich.console import Console

    console = Console(width=None if os.isatty(1) else WIDTH, highlight=False, markup=False, emoji=False)
    width = min(console.width, WIDEST)
    root, results = Path(root), Results(study, root)
    if not layout.claims(root).exists():
        raise ValueError(
            f"{study.study}: is not finished: {layout.claims(root)} is missing; accepted: a study whose workflow has "
            f"come to its end; `mar status --study {study.study}` says how far it is"
        )
    lines = [(line, "yellow") for found in warnings(results) for line in _wrapped(f"Warning: {found.text}", width)]
    lines += [("", "")] if lines else []
    verdicts = claims(root)
    if all_claims:
        lines += _all(verdicts, width)
    else:
        found = answer(study, root, results, verdicts)
        lines += [*_head(study, found, width), *_table(found, width), ("", ""), *_counts(study, verdicts, width)]
        lines += [("", ""), *_further(study, root, results, verdicts, width)]
    _print(console, lines)


def _print(console: Console, lines: Iterable[Line]) -> None:
    for text, style in lines:
        console.print(printable(text), style=style or None, soft_wrap=True)


def _wrapped(text: str, width: int, first: str = "", later: str = "") -> list[str]:
    """A text on lines of at most this width, as they begin with `first` and `later`; paths and words stay whole."""
    lines = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
    return lines or [first.rstrip()]


def _head(study: Study, found: Answer, width: int) -> list[Line]:
    """Title, time and machine; the question; what the numbers are."""
    title, time = f"{study.study}: {study.title}" if study.title else study.study, time_text(found.hours)
    spent = f"{time} on {found.machine}" if time and found.machine else time
    lines: list[Line] = [(line, "bold") for line in _wrapped(title, width)]
    if spent and len(title) + len(spent) + 2 <= width:
        lines = [(f"{title}{spent:>{width - len(title)}}", "bold")]
    elif spent:
        lines.append((f"{spent:>{width}}", "bold"))
    lines.append(("", ""))
    if found.question:
        lines += [(line, "") for line in _wrapped(f"{found.question} The paper: {found.reply}", width)]
    kind = "with" if found.guided else "without"
    what = f"FID {kind} guidance of {study.metrics.samples:,} images a set, less is better; [95% interval]"
    return [*lines, *((line, "") for line in _wrapped(what, width)), ("", "")]


def _table(found: Answer, width: int) -> list[Line]:
    """The rows, the floor and what speaks against models."""
    lines: list[Line] = []
    if found.paired:
        lines.append((f"{'':{LABEL}}{'ours':<39}the paper", "dim"))
        lines.append((f"{'':{LABEL}}{'CE':<9}{'DiffLoss':<10}{'ratio':<20}{'CE':<7}DiffLoss", "dim"))
        lines += [(_pair(row), "") for row in found.rows]
    elif found.rows:
        wide = _wide(found, width)
        lines.append((f"{'':{wide}}{'ours':<10}{'ratio to the first':<23}the paper", "dim"))
        lines += [(line, "") for row in found.rows[:ROWS] for line in _single(row, wide)]
        if (hidden := len(found.rows) - ROWS) > 0:
            lines.append((f"  and {hidden} more rows: see the report", "dim"))
    head = f"  {'real images, held out':<{_wide(found, width) - 2}}"
    means = f"({found.floor.n:,} images: too few to compare)" if found.few else "(as good as it gets)"
    lines.append((f"{head}{short(found.floor.value):<9}{means}", ""))
    for flaw in found.notes:
        text = f"{FLAWS[flaw.kind]} {flaw.kind}: {flaw.text}"
        lines += [(line, "yellow") for line in _wrapped(text, width, "  ", "    ")]
    return lines


def _wide(found: Answer, width: int) -> int:
    """Width of the first column."""
    labels = [len(row.label) + 4 for row in found.rows if not found.paired]
    return max(LABEL, min(max(labels, default=0), width - 44))


def _pair(row: Row) -> str:
    ours = [f"{_number(side):<{wide}}" for side, wide in zip(row.sides, (9, 10), strict=True)]
    ratio = str(row.comparison).removeprefix("ratio ") if row.comparison else "-"
    theirs = "".join(f"{side.paper or '-':<7}" for side in row.sides).rstrip()
    return f"  {row.label:<{LABEL - 2}}{''.join(ours)}{ratio:<20}{theirs}"


def _single(row: Row, wide: int) -> list[str]:
    (side,) = row.sides
    ratio = str(row.comparison).removeprefix("ratio ") if row.comparison else ""
    label = _wrapped(row.label, wide - 1, "  ", "    ")
    return [*label[:-1], f"{label[-1]:<{wide}}{_number(side):<10}{ratio:<23}{side.paper or '-'}"]


def _number(side: Side) -> str:
    """A FID with marks for what speaks against it; `-` where nothing was trained."""
    marks = "".join(FLAWS[flaw.kind] for flaw in side.flaws)
    return f"{short(side.fid.value)} {marks}".rstrip() if side.fid else "-"


def _counts(study: Study, verdicts: Sequence[Verdict], width: int) -> list[Line]:
    """How many claims came out which way, and why: decided ones in words, of the others what they lack."""
    own = {claim.id for claim in study.claims}
    head_line = f"{len(verdicts) - len(own)} claims of the paper" + f", {len(own)} of the study's own" * bool(own)
    lines: list[Line] = [(head_line, "bold")]
    for ruling, mark in MARKS.items():
        of = [verdict for verdict in verdicts if verdict.verdict == ruling]
        head = f"  {mark} {len(of):>2} {ruling:<15} "
        reasons = lacks(verdicts) if ruling == "undecided" else [decided(verdict) for verdict in of[:SHOWN]]
        reasons += [f"and {len(of) - SHOWN} more"] if ruling != "undecided" and len(of) > SHOWN else []
        style = COLOURS[ruling] if of else "dim"
        if not reasons:
            lines.append((head.rstrip(), style))
        for i, text in enumerate(reasons):
            indent = " " * len(head)
            later = indent + ("  " if ruling != "undecided" else "")
            lines += [(line, style) for line in _wrapped(text, width, indent if i else head, later)]
    others = sum(verdict.verdict not in MARKS for verdict in verdicts)
    if others:
        head = f"  - {others:>2} {'not asked here':<15} "
        text = "; ".join(unasked(study, verdicts))
        lines += [(line, "dim") for line in _wrapped(text, width, head, " " * len(head))]
    for verdict in verdicts:
        if verdict.id in own:
            text = f"{MARKS.get(verdict.verdict, '-')}    its own: {decided(verdict)} ({verdict.shown})"
            lines += [(t, COLOURS.get(verdict.verdict, "dim")) for t in _wrapped(text, width, "  ", " " * 7)]
    return lines


def _further(study: Study, root: Path, results: Results, verdicts: Sequence[Verdict], width: int) -> list[Line]:
    """What would decide more, and where things are."""
    entries: list[tuple[str, list[str]]] = []
    steps = more.ways(results, verdicts)
    if (following := more.next_study(study)) is not None:
        steps.append(f"snakemake all --configfile {following}")
    entries.append(("Decide more", steps))
    entries.append(("All claims", [f"mar summary --study {study.study} --claims"]))
    report, samples = layout.report(root), layout.figure(root, "samples", "png")
    entries.append(("Report", [f"{report}" + ("" if report.exists() else " (not written yet)")]))
    line = f"{entries[-1][1][0]}   Samples  {samples}"
    if len(line) + 14 <= width:
        entries[-1] = ("Report", [line])
    else:
        entries.append(("Samples", [str(samples)]))
    database, address = layout.mlflow_database(root), runs_address(root)
    server = server_of(root)
    runs = [address] if server else [f"mlflow ui --backend-store-uri sqlite:///{database}, then", address]
    entries.append(("Runs", runs))
    lines: list[Line] = []
    for name, texts in entries:
        for i, text in enumerate(texts):
            indent = f"{'' if i else name:<14}"
            lines += [(line, "") for line in _wrapped(text, width, indent, " " * 16)]
    return lines


def _all(verdicts: Sequence[Verdict], width: int) -> list[Line]:
    """Every claim in full, by verdict; claims that nothing was measured for stand below what they lack."""
    lines: list[Line] = []
    for ruling in RULINGS:
        of = [verdict for verdict in verdicts if verdict.verdict == ruling]
        if not of:
            continue
        style, mark = COLOURS.get(ruling, "dim"), MARKS.get(ruling, "-")
        lines.append((f"{len(of)} {ruling}", f"bold {style}"))
        if ruling in MARKS:
            for verdict in of:
                lines += [(line, style) for line in _wrapped(f"{mark} {verdict.text}", width, "", "  ")]
                lack = f"{verdict.shown}. " if verdict.shown != ruling and not verdict.reason.startswith(ruling) else ""
                because = [f"{lack}{verdict.reason}", *map(by_extractor, verdict.extractors)]
                lines += [(line, "") for text in because for line in _wrapped(text, width, "    ", "    ")]
                lines += [(line, "dim") for line in _wrapped(verdict.source, width, "    ", "    ")]
        else:
            for reason in dict.fromkeys(verdict.reason for verdict in of):
                lines += [(line, "") for line in _wrapped(f"{reason}:", width, "  ", "  ")]
                same = [verdict for verdict in of if verdict.reason == reason]
                lines += [(t, style) for v in same for t in _wrapped(f"{mark} {v.text}", width, "    ", "      ")]
        lines.append(("", ""))
    return [*lines, *((line, "") for sentence in tally(verdicts) for line in _wrapped(sentence, width))]
