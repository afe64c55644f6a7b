"""What benchmarks found: tables that Markdown shows, a JSON file keeps, and `python -m benchmarks compare` reads.

A part of a benchmark is a table of pairs, a table of other numbers, or a sentence. Seconds are kept one by one, so that
a file says how much they scatter.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import Field

from mar.runtime.files import Part, Record, read, write
from mar.runtime.provenance import Provenance, provenance

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "torch-fidelity", "pydantic", "snakemake")

Cell = str | float | list[float]  # a list: the same measured again and again, shown by its median


class Ratio(Part):
    """Seconds of the baseline and of this package, and their ratio over pairs."""

    baseline: float  # median seconds of the baseline
    ours: float  # median seconds of this package
    ratio: float  # median over pairs of baseline / ours
    low: float  # lower quartile of these ratios
    high: float  # upper quartile

    @classmethod
    def of(cls, pairs: Sequence[tuple[float, float]]) -> Ratio:
        """The ratio over pairs of seconds, of the baseline and of ours."""
        seconds = np.array(pairs)  # (n, 2)
        low, ratio, high = np.quantile(seconds[:, 0] / seconds[:, 1], [0.25, 0.5, 0.75])
        baseline, ours = np.median(seconds, axis=0)
        return cls(baseline=baseline, ours=ours, ratio=ratio, low=low, high=high)


class Row(Part):
    """One comparison: seconds of the baseline and of ours in each pair."""

    name: str
    cpu: list[tuple[float, float]]  # CPU seconds
    wall: list[tuple[float, float]]  # wall seconds


class Pairs(Part):
    """Comparisons with a baseline."""

    rows: list[Row]
    cpu: str = "CPU s, 1 thread"  # what the pairs are
    wall: str = "wall s, 2 threads"

    def markdown(self) -> str:
        """Seconds of the baseline and ours, ratio with quartiles, number of pairs."""
        lines = [f"| | {self.cpu}: baseline | ours | ratio | {self.wall}: baseline | ours | ratio | pairs |"]
        lines.append("|---" * 8 + "|")
        for row in self.rows:
            cells = [
                f"{r.baseline:.3g} | {r.ours:.3g} | **{r.ratio:.2f}** ({r.low:.2f} to {r.high:.2f})"
                for r in (Ratio.of(row.cpu), Ratio.of(row.wall))
            ]
            lines.append(f"| {row.name} | {' | '.join(cells)} | {len(row.cpu)} |")
        return "\n".join(lines)


class Table(Part):
    """Other numbers, by rows; `form` says how those of a column are written, by Python's format()."""

    head: list[str]
    form: list[str]
    rows: list[list[Cell]]

    def markdown(self) -> str:
        """The table."""
        lines = [f"| {' | '.join(self.head)} |", "|---" * len(self.head) + "|"]
        for row in self.rows:
            cells = (_text(cell, form) for cell, form in zip(row, self.form, strict=True))
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def _text(cell: Cell, form: str) -> str:
    if isinstance(cell, str):
        return cell
    return format(statistics.median(cell) if isinstance(cell, list) else cell, form)


Parts = list[Pairs | Table | str]


class Section(Part):
    """One benchmark, measured.

    Attributes:
        provenance: commit, machine, cores and threads.
        versions: of the packages that the times depend on.
        load: processes that wanted a core, a mean over the minute before; it is 0 on a quiet machine.
        seconds: that the benchmark took.
        parts: what it found.
    """

    provenance: Provenance
    versions: dict[str, str]
    load: float
    seconds: float
    parts: Parts

    @classmethod
    def of(cls, parts: Parts, load: float, seconds: float) -> Section:
        """What was found, on this machine by this process."""
        versions = {name: version(name) for name in PACKAGES}
        return cls(provenance=provenance(), versions=versions, load=load, seconds=round(seconds, 1), parts=parts)

    def markdown(self) -> str:
        """All parts."""
        return "\n\n".join(part if isinstance(part, str) else part.markdown() for part in self.parts)


class Results(Record):
    """A file of results: the benchmarks of one or several calls, by name."""

    sections: dict[str, Section] = Field(default_factory=dict)


def keep(path: Path, name: str, section: Section) -> None:
    """Put a benchmark into a file, in the place of an earlier one of the same name."""
    sections = read(path, Results).sections if path.exists() else {}
    write(path, Results(sections={**sections, name: section}))


def busy() -> float:
    """Processes that want a core, a mean over the last minute."""
    return round(os.getloadavg()[0], 1)
