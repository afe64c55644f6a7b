"""What the page shows first: the answer in words, the bar of verdicts, grids of samples, and the effects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mar.analysis.estimates import Results
from mar.analysis.result_files import short
from mar.analysis.tally import RULINGS
from mar.report import more
from mar.report.answer import Answer, answer, decided, flaws, lacks, sentences, time_text, unasked
from mar.report.evidence import embed, set_id
from mar.report.figures.samples import CLASSES, grid, real, sample_grid
from mar.runtime.files import read
from mar.study import labels, layout
from mar.study.records import DataManifest, SampleManifest, Verdict
from mar.study.study import Study

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # of the axis of ratios
DECIDED = 3  # decided claims of each verdict that are told in words
GRIDS = 10  # grids of samples on the first screen, at most; the figure of samples has all


def parts(study: Study, root: Path, results: Results, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All of it, for the template."""
    found = answer(study, root, results, verdicts)
    following = more.next_study(study)
    first = next((name for name, variant in study.variants.items() if variant.seeds), None)
    made = results.run(first, study.variants[first].seeds[0]).provenance if first else None
    return {
        "answer": found,
        "spent": f"{time_text(found.hours)} on {found.machine}" if time_text(found.hours) and found.machine else "",
        "made": (made.git_commit.removesuffix("-dirty")[:12], made.time[:10]) if made else None,
        "sentences": sentences(study, root, found),
        "bar": [_counted(ruling, verdicts) for ruling in RULINGS],
        "unasked": unasked(study, verdicts),
        "grids": grids(study, root, results),
        "effects": effects(found),
        "ways": more.ways(results, verdicts),
        "next": str(following) if following else "",
    }


def grids(study: Study, root: Path, results: Results) -> list[dict[str, Any]]:
    """A grid of held-out images and of the samples of each trained variant that are kept, with FID and what is wrong.

    The samples are those of the figure of samples: the first seed at the last guided setting. FID is the mean over all
    seeds, at this setting and without guidance.
    """
    from PIL import Image

    classes = len(read(layout.data_manifest(root), DataManifest).classes[:CLASSES])
    found = []
    try:
        images = Image.fromarray(grid(*real(study, root, classes), classes))
        held = results.floor("fid")
        floor = f"FID {short(held.value)}" + (f" of {held.n:,} images" if held.n < study.metrics.samples else "")
        line: dict[str, Any] = {"label": "real, held out", "data": _picture(images), "numbers": floor, "flaws": []}
        found.append(line | {"href": "#floor"})
    except (OSError, ValueError):
        pass  # the images of a study may lie on another machine
    for variant, v in study.variants.items():
        if not v.seeds or len(found) >= GRIDS:
            continue
        setting = study.shown_setting(variant)
        folder = layout.samples(root, layout.sample_set(variant, v.seeds[0], setting))
        manifest = folder / layout.MANIFEST
        if not manifest.exists() or not all((folder / c.file).exists() for c in read(manifest, SampleManifest).chunks):
            continue
        picture, _ = sample_grid(root, variant, v.seeds[0], setting, classes)
        rows = [row for table in study.tables.values() for row in table.rows if row.variant == variant]
        plain = next((row.without for row in rows if row.guided == setting and row.without), None)
        fid, other = (results.cell(variant, s, "fid") if s else None for s in (setting, plain))
        kind = "with" if results.sampling(variant, setting).guidance > 1 else "without"
        numbers = f"FID {short(fid.value)} {kind} guidance" if fid else ""
        numbers += f", {short(other.value)} without" if other and kind == "with" else ""
        cells = {(variant, setting), (variant, plain or setting)}
        speaks = sorted({flaw.kind for cell in cells for flaw in flaws(results, cell)})
        label = labels.label(study, variant)
        line = {"label": label, "data": _picture(Image.fromarray(picture)), "numbers": numbers, "flaws": speaks}
        found.append(line | {"href": f"#{set_id(variant, setting)}"})
    return found


def _counted(ruling: str, verdicts: Sequence[Verdict]) -> tuple[str, int, list[str]]:
    """A verdict, how many claims have it, and why: decided claims in words, of undecided ones what they lack."""
    of = [verdict for verdict in verdicts if verdict.verdict == ruling]
    if ruling == "undecided":
        return ruling, len(of), lacks(verdicts)
    if ruling not in RULINGS[:2]:
        return ruling, len(of), []
    others = [f"and {len(of) - DECIDED} more"] if len(of) > DECIDED else []
    return ruling, len(of), [*map(decided, of[:DECIDED]), *others]


def _picture(image: Any) -> dict[str, Any]:
    return {"src": embed(image, "WEBP", quality=85), "width": image.width, "height": image.height}


def effects(found: Answer) -> dict[str, Any] | None:
    """Ratios of the rows as places on a log axis, in percent of its width; None where nothing is compared."""
    rows = [row for row in found.rows if row.comparison]
    if not rows:
        return None
    ends = [0.0, *(x for row in rows if row.comparison for x in (row.comparison.low, row.comparison.high))]
    ends += [math.log(row.paper_ratio) for row in rows if row.paper_ratio]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low)
    low, high = low - room, high + room

    def place(x: float) -> float:
        return round(100 * (x - low) / (high - low), 2)

    lines = []
    for row in rows:
        c = row.comparison
        assert c is not None
        flawed = sorted({flaw.kind for side in row.sides for flaw in side.flaws})
        ruling = row.verdict.verdict if row.verdict and row.verdict.verdict in RULINGS[:3] else "undecided"
        line: dict[str, Any] = {
            "label": row.label,
            "ruling": ruling,
            "flaws": flawed,
            "text": str(c).removeprefix("ratio "),
        }
        line |= {"value": place(c.effect), "low": place(c.low), "width": round(place(c.high) - place(c.low), 2)}
        paper = row.paper_ratio
        line |= {"paper": place(math.log(paper)) if paper else None, "paper_text": short(paper) if paper else ""}
        lines.append(line)
    ticks = [(f"{tick:g}", place(math.log(tick))) for tick in TICKS if low < math.log(tick) < high]
    return {"rows": lines, "ticks": ticks, "one": place(0.0)}
