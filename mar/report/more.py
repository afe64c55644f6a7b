"""What would decide more claims: seeds, images, longer trainings, or the next of the studies that ship."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mar.analysis.estimates import Results
from mar.study import layout
from mar.study.labels import label
from mar.study.reading import StudyError, load
from mar.study.records import Verdict
from mar.study.study import Study

NEAR_SEEDS = 10  # more seeds a side than that are named only where fewer decide nothing


def ways(results: Results, verdicts: Sequence[Verdict]) -> list[str]:
    """What would decide undecided claims, in words: each a beginning of `would decide`."""
    open_ = [verdict.missing for verdict in verdicts if verdict.missing and verdict.missing.kind == "interval"]
    found = []
    seeds, images = ([n for m in open_ if (n := getattr(m, key))] for key in ("seeds", "images"))
    if near := [n for n in seeds if n <= NEAR_SEEDS] or [min(seeds, default=0)]:
        found += _enough(max(near), "training seeds a side", seeds, len(open_))
    found += _enough(min(images, default=0), "images a sample set", images, len(open_))
    lone = sum(verdict.missing is not None and verdict.missing.kind == "one seed" for verdict in verdicts)
    if lone:
        found.append(f"a second training seed a side would let {lone} more be decided")
    learning = {name for v in verdicts if v.missing for name in v.missing.variants}
    if slow := [label(results.study, name) for name in results.study.variants if name in learning]:
        found.append(f"longer training of {'; '.join(slow)}")
    return found


def _enough(number: int, unit: str, numbers: Sequence[int], of: int) -> list[str]:
    """That so many would decide those claims that need no more."""
    if not number:
        return []
    return [f"{number:,} {unit} would decide {sum(n <= number for n in numbers)} of {of} interval{'s' * (of != 1)}"]


def next_study(study: Study) -> Path | None:
    """The smallest shipped study of the same images that trains all rows of this one's first table and more.

    More are rows or seeds, and no training may be shorter than this one's. A study that goes on from this one (`reuse`)
    counts too.

    Returns:
        Its path; None if there is none.
    """
    ours, found = _trained(study, list(study.tables)[:1]), []
    for path in sorted(layout.shipped().glob("*.yaml")):
        if (other := _shipped(path)) is None:
            continue
        theirs = _trained(other, other.tables)
        same = (study.data.kind, study.data.folder, study.data.image_size)
        if other.study == study.study or (other.data.kind, other.data.folder, other.data.image_size) != same:
            continue
        covers = all(
            row in theirs and one.seeds <= theirs[row].seeds and one.images <= theirs[row].images
            for row, one in ours.items()
        )
        more = len(theirs) > len(ours) or any(
            row in theirs and one.seeds < theirs[row].seeds for row, one in ours.items()
        )
        if (ours and covers and more) or other.reuse == study.study:
            found.append((sum(len(variant.seeds) for variant in other.variants.values()), path))
    return Path(os.path.relpath(min(found)[1])) if found else None


@functools.cache
def _shipped(path: Path) -> Study | None:
    """A study that ships; None for the other files that config/ holds too."""
    try:
        return load(path)
    except StudyError:
        return None


class _Trained(NamedTuple):
    """How many seeds of a row are trained, and on how many images each."""

    seeds: int
    images: int


def _trained(study: Study, tables: Iterable[str]) -> dict[tuple[str, str], _Trained]:
    """Rows of the paper, by table and name in it, that a study trains for these of its tables."""
    rows: dict[tuple[str, str], _Trained] = {}
    for table in (study.tables[name] for name in tables):
        for row in table.rows:
            if table.paper and row.paper and row.variant and (seeds := study.variants[row.variant].seeds):
                one = _Trained(len(seeds), study.recipes[study.variants[row.variant].recipe].images)
                rows[table.paper, row.paper] = max(one, rows.get((table.paper, row.paper), one))
    return rows
