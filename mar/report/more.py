"""What would decide more claims: seeds, images, longer trainings, or the next of the studies that ship."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

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
        as_long = all(images <= theirs.get(row, (0, 0))[1] for row, (_, images) in ours.items())
        as_often = all(seeds <= theirs.get(row, (0, 0))[0] for row, (seeds, _) in ours.items())
        more = {row: seeds for row, (seeds, _) in theirs.items()} != {row: seeds for row, (seeds, _) in ours.items()}
        wider = as_long and as_often and more
        if (wider and ours) or other.reuse == study.study:
            found.append((sum(len(variant.seeds) for variant in other.variants.values()), path))
    return Path(os.path.relpath(min(found)[1])) if found else None


@functools.cache
def _shipped(path: Path) -> Study | None:
    """A study that ships; None for the other files that config/ holds too."""
    try:
        return load(path)
    except StudyError:
        return None


def _trained(study: Study, tables: Iterable[str]) -> dict[tuple[str, str], tuple[int, int]]:
    """Rows of the paper that a study trains for these of its tables, each with its numbers of seeds and of images."""
    rows: dict[tuple[str, str], tuple[int, int]] = {}
    for table in (study.tables[name] for name in tables):
        for row in table.rows:
            if table.paper and row.paper and row.variant and (seeds := study.variants[row.variant].seeds):
                seen = len(seeds), study.recipes[study.variants[row.variant].recipe].images
                rows[table.paper, row.paper] = max(seen, rows.get((table.paper, row.paper), (0, 0)))
    return rows
