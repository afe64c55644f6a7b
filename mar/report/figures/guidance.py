"""The figure of guidance: what its scale trades along a sweep, precision against recall and FID against IS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.report.figures.style import COLUMN, WIDTH, Rows, caption, dark, legend, look, place_labels
from mar.runtime.files import read
from mar.study import layout
from mar.study.labels import cell
from mar.study.products import swept
from mar.study.records import SweepPoint, SweepRecord
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (("recall", "precision"), ("inception_score", "fid"))  # across, up
LABELS = {"recall": "recall", "precision": "precision", "inception_score": "Inception Score", "fid": "FID"}
CAPTION = (
    "each line: one sweep at its chosen temperature, along the guidance scale (numbers at its ends); star: chosen.\n"
    "Precision and recall against as many real images as were drawn."
)


def guidance(study: Study, root: Path) -> tuple[Figure, Rows]:
    """One line per swept setting that varies the guidance scale; the panel of precision only where it was measured.

    Raises:
        ValueError: a sweep has not run.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    records = [read(layout.sweep(root, *cell), SweepRecord) for cell in swept(study)]
    lines = [(record, line) for record in records if len(line := along(record)) > 1]
    panels = [pair for pair in PANELS if any(_drawn(line, pair) for _, line in lines)]
    figure = Figure(figsize=(WIDTH if len(panels) > 1 else COLUMN, 3.4), layout="constrained")
    before = [record.variant for record, _ in lines]
    again = [before[:i].count(variant) for i, variant in enumerate(before)]
    handles: dict[str, Any] = {}
    ends: list[list[tuple[float, float, str, Any]]] = [[] for _ in panels]
    for number, (across, up) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for i, (record, line) in enumerate(lines):
            points = _drawn(line, (across, up))
            xs, ys = ([getattr(point, key).value for point in points] for key in (across, up))
            style = look(study, record.variant, again[i])
            (handle,) = axes.plot(xs, ys, **style, markersize=3.5, linewidth=1.1)
            handles[cell(study, record.variant, record.setting)] = handle
            for point, x, y in zip(points, xs, ys, strict=True):
                if point.guidance == record.best.guidance:
                    axes.plot(x, y, "*", color=style["color"], markersize=9, zorder=4)
                if point in (points[0], points[-1]):
                    ends[number].append((x, y, f"{point.guidance:g}", dark(style["color"])))
        axes.set_xlabel(LABELS[across])
        axes.set_ylabel(LABELS[up])
        axes.margins(0.12)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    legend(figure, [*handles.values()], [*handles])
    caption(figure, CAPTION)
    for axes, labels in zip(figure.axes, ends, strict=True):
        place_labels(figure, axes, labels)
    return figure, [_row(record, point) for record, line in lines for point in line]


def along(record: SweepRecord) -> list[SweepPoint]:
    """The points of a sweep at its chosen temperature that have a FID, by ascending guidance scale."""
    line = [point for point in record.grid if point.temperature == record.best.temperature and point.fid]
    return sorted(line, key=lambda point: point.guidance)


def _drawn(line: list[SweepPoint], pair: tuple[str, str]) -> list[SweepPoint]:
    """The points that have both metrics of a panel."""
    return [point for point in line if all(getattr(point, key) is not None for key in pair)]


def _row(record: SweepRecord, point: SweepPoint) -> dict[str, object]:
    row: dict[str, object] = {"variant": record.variant, "setting": record.setting, "samples": record.samples}
    row |= {"guidance": point.guidance, "temperature": point.temperature}
    for key in LABELS:
        number = getattr(point, key)
        ends = (number.value, number.low, number.high) if number else ("", "", "")
        row |= dict(zip((key, f"{key}_low", f"{key}_high"), ends, strict=True))
    return row | {"chosen": int(point.guidance == record.best.guidance)}
