"""What moved between two files of results: `python -m benchmarks compare OLD NEW`.

Of two files the rows of equal name are compared, of pairs their ratio, of other measurements their seconds. A number
has moved if the 99% interval of the difference of mean logarithms excludes zero (Welch's t, which takes the scatter of
either file as it is) and the medians are at least 3% apart: what differs between two calls of the same code, such as
where things lie in memory, is no scatter of one call. Seconds depend on the machine and on what else it does, so those
of two machines are not compared, and where the load was another, that is said.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
from scipy.stats import ttest_ind

from benchmarks.tables import Pairs, Results, Section, Table
from mar.runtime.files import read

LEAST = 0.03  # medians that are closer have not moved
SURE = 0.99


class Series(NamedTuple):
    """A number, measured several times."""

    values: list[float]
    ratio: bool  # of baseline and ours: holds on any machine, and more is better; else seconds or a rate


class Change(NamedTuple):
    """How a number differs: new over old by medians, with the interval of the ratio of means."""

    factor: float
    low: float
    high: float

    @property
    def moved(self) -> bool:
        """Whether that is beyond noise."""
        return (self.low > 1 or self.high < 1) and abs(math.log(self.factor)) > math.log1p(LEAST)


def series(section: Section) -> Iterator[tuple[str, Series]]:
    """What a section measured several times, by name."""
    for part in section.parts:
        if isinstance(part, Pairs):
            for row in part.rows:
                for clock, pairs in ((part.cpu, row.cpu), (part.wall, row.wall)):
                    yield f"{row.name} ({clock}): ratio", Series([a / b for a, b in pairs], True)
        elif isinstance(part, Table):
            for cells in part.rows:
                for name, cell in zip(part.head, cells, strict=True):
                    if isinstance(cell, list):
                        yield f"{cells[0]}: {name}", Series(cell, False)


def change(old: Sequence[float], new: Sequence[float]) -> Change | None:
    """How far new values are from old ones; None where either has too few, or one that has no logarithm."""
    if min(len(old), len(new)) < 2 or min(*old, *new) <= 0:
        return None
    before, after = ([math.log(value) for value in values] for values in (old, new))
    factor = statistics.median(new) / statistics.median(old)
    if len({*before}) == 1 == len({*after}):
        return Change(factor, factor, factor)
    low, high = ttest_ind(after, before, equal_var=False).confidence_interval(SURE)
    return Change(factor, math.exp(min(low, 700.0)), math.exp(min(high, 700.0)))


def text(old: Results, new: Results) -> str:
    """What moved, section by section, and how many numbers did not."""
    lines, same, unsure = list[str](), 0, 0
    for name in old.sections.keys() & new.sections.keys():
        before, after = old.sections[name], new.sections[name]
        one_machine = same_machine(before, after)
        known = dict(series(before))
        for label, measured in series(after):
            if label not in known or not (measured.ratio or one_machine):
                continue
            found = change(known[label].values, measured.values)
            if found is None:
                unsure += 1
            elif found.moved:
                medians = (statistics.median(s.values) for s in (known[label], measured))
                cells = " | ".join(f"{value:.3g}" for value in medians)
                interval = f"{found.factor:.2f} ({found.low:.2f} to {found.high:.2f})"
                lines.append(f"| {name} | {label} | {cells} | {interval} |")
            else:
                same += 1
    head = ["| benchmark | | old | new | new / old (99%) |", "|---" * 5 + "|"] if lines else []
    told = [*notes(old, new), *head, *sorted(lines)]
    more = f"; {unsure} were measured once and cannot be compared" if unsure else ""
    told.append(f"\n{len(lines)} numbers moved, {same} did not{more}.")
    return "\n".join(told)


def same_machine(old: Section, new: Section) -> bool:
    """Whether two sections are of equal processors and as many cores; a benchmark sets its threads itself."""
    return all(getattr(old.provenance, key) == getattr(new.provenance, key) for key in ("machine", "cores", "device"))


def notes(old: Results, new: Results) -> Iterator[str]:
    """What else differs: benchmarks that only one file has, machines, versions, load."""
    for side, one, other in (("old", old, new), ("new", new, old)):
        if only := sorted(one.sections.keys() - other.sections.keys()):
            yield f"Only in the {side} file: {', '.join(only)}."
    for name in sorted(old.sections.keys() & new.sections.keys()):
        before, after = old.sections[name], new.sections[name]
        if not same_machine(before, after):
            a, b = (f"{s.provenance.machine}, {s.provenance.cores} cores" for s in (before, after))
            yield f"{name}: another machine ({a}; now {b}): ratios are compared, seconds are not."
        changed = [
            f"{key} {before.versions.get(key)} -> {now}"
            for key, now in after.versions.items()
            if before.versions.get(key) != now
        ]
        if changed:
            yield f"{name}: other versions ({', '.join(changed)})."
        if abs(before.load - after.load) >= 1:
            yield f"{name}: load {before.load:g}, now {after.load:g}: seconds say little, ratios hold."


@click.command(help=__doc__)
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
def main(old: Path, new: Path) -> None:
    """Print what moved."""
    try:
        print(text(read(old, Results), read(new, Results)))
    except ValueError as error:
        raise SystemExit(str(error)) from None
