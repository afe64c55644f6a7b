"""The figure of sweeps: FID on the grid of every swept setting, the chosen point marked."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from mar.analysis.result_files import short
from mar.report.figures.style import SMALL, WIDTH, Rows, caption, columns, look
from mar.runtime.files import read
from mar.study import labels, layout
from mar.study.chosen_settings import AXES
from mar.study.products import swept
from mar.study.records import SweepPoint, SweepRecord
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTERS = 24  # of a line of a title
ACROSS, GRID = 4, 12  # panels of lines in a row, at most; columns of the grid that panels share
CELL = 0.23  # inches, the height of one row of a map
MAP = "cividis"  # its lightness rises evenly, also for colour-blind readers and in grey
LIGHT = 0.55  # text is black on colours above this share of the colour map, white below


def sweep(study: Study, root: Path) -> tuple[Figure, Rows]:
    """One panel per swept variant and setting: a map of guidance and temperature, or a line where only one is varied.

    Raises:
        ValueError: a sweep has not run.
    """
    from matplotlib.figure import Figure

    records = [read(layout.sweep(root, variant, setting), SweepRecord) for variant, setting in swept(study)]
    lines = [record for record in records if len(_varied(record)) < 2]
    maps = [record for record in records if len(_varied(record)) == 2]
    across = columns(len(lines), ACROSS)
    heights = [1.6] * (-(-len(lines) // across) if lines else 0)
    pairs = [maps[i : i + 2] for i in range(0, len(maps), 2)]
    heights += [CELL * max(len(_values(record, "temperature")) for record in pair) + 0.65 for pair in pairs]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    places = figure.add_gridspec(len(heights), GRID, height_ratios=heights)
    for i, record in enumerate(lines):
        column = GRID // across * (i % across)
        axes = figure.add_subplot(places[i // across, column : column + GRID // across])
        _line(axes, study, record)
        axes.set_ylabel("" if i % across else "FID", fontsize=SMALL)
    for row, pair in enumerate(pairs, len(heights) - len(pairs)):
        for i, record in enumerate(pair):  # a map without a partner is as wide as two
            column = GRID // len(pair) * i
            _map(figure.add_subplot(places[row, column : column + GRID // len(pair)]), study, record)
    caption(
        figure,
        "FID; framed or starred: chosen; in italics or hollow: refinement; x: no FID; lines: log scale, 95% intervals",
    )
    return figure, [row for record in records for row in _rows(record)]


def _varied(record: SweepRecord) -> list[str]:
    return [axis for axis in AXES if len(_values(record, axis)) > 1]


def _values(record: SweepRecord, axis: str) -> list[float]:
    return sorted({getattr(point, axis) for point in record.grid})


def _best(record: SweepRecord, point: SweepPoint) -> bool:
    return all(getattr(point, axis) == getattr(record.best, axis) for axis in AXES)


def _title(axes: Axes, study: Study, record: SweepRecord) -> None:
    beyond = [f"{' and '.join(record.edge)} at the edge"] if record.edge else []
    words = (labels.label(study, record.variant), labels.setting(study, record.variant, record.setting))
    title = [*(textwrap.fill(line, LETTERS) for line in words), *beyond]
    axes.set_title("\n".join(title), fontsize=SMALL, loc="left")
    axes.tick_params(labelsize=SMALL)


def _line(axes: Axes, study: Study, record: SweepRecord) -> None:
    """Draw FID against the one axis that is varied."""
    from matplotlib.ticker import MaxNLocator, NullLocator

    axis = (_varied(record) or ["temperature"])[0]
    points = sorted((point for point in record.grid if point.fid), key=lambda point: getattr(point, axis))
    positions, fids = [getattr(point, axis) for point in points], [point.fid for point in points if point.fid]
    bars = [[fid.value - fid.low for fid in fids], [fid.high - fid.value for fid in fids]]
    values = [fid.value for fid in fids]
    colour = look(study, record.variant)["color"]
    axes.errorbar(positions, values, bars, color=colour, linewidth=1, elinewidth=0.7, capsize=1.5)
    for point, value in zip(points, values, strict=True):
        best = _best(record, point)
        axes.plot(
            getattr(point, axis),
            value,
            "*" if best else "o",
            markersize=9 if best else 4,
            color=colour,
            markerfacecolor=colour if best or not point.round else "white",
            zorder=4 if best else 3,
        )
    for point in record.grid:
        if point.fid is None:
            axes.plot(getattr(point, axis), 0.05, "x", color="black", transform=axes.get_xaxis_transform())
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(axis, fontsize=SMALL)
    axes.margins(x=0.12)
    _title(axes, study, record)


def _map(axes: Axes, study: Study, record: SweepRecord) -> None:
    """Draw FID as colours and numbers, a column per guidance scale, a row per temperature; other points stay white."""
    import numpy as np
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    columns, rows = _values(record, "guidance"), _values(record, "temperature")
    fids = np.full((len(rows), len(columns)), np.nan)
    places = {(point.guidance, point.temperature): point for point in record.grid}
    for (guidance, temperature), point in places.items():
        if point.fid:
            fids[rows.index(temperature), columns.index(guidance)] = point.fid.value
    norm = LogNorm(np.nanmin(fids), np.nanmax(fids))
    axes.imshow(fids, cmap=MAP, norm=norm, origin="lower", aspect="auto")
    for (guidance, temperature), point in places.items():
        place = columns.index(guidance), rows.index(temperature)
        text = short(point.fid.value) if point.fid else "x"
        light = point.fid is None or float(norm(point.fid.value)) > LIGHT
        axes.text(
            *place,
            text,
            ha="center",
            va="center",
            fontsize=SMALL,
            color="black" if light else "white",
            fontstyle="italic" if point.round else "normal",
            fontweight="bold" if _best(record, point) else "normal",
        )
        if _best(record, point):
            corner = place[0] - 0.5, place[1] - 0.5
            axes.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.5, clip_on=False, zorder=4)
            )
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.set_xlabel("guidance", fontsize=SMALL)
    axes.set_ylabel("temperature", fontsize=SMALL)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    _title(axes, study, record)


def _rows(record: SweepRecord) -> Rows:
    """One row of the CSV for each point of a sweep."""
    head = {key: getattr(record, key) for key in ("variant", "setting", "seed", "samples", "extractor")}
    rows: Rows = []
    for point in record.grid:
        row = head | {key: getattr(point, key) for key in (*AXES, "round")}
        for metric in ("fid", "inception_score", "precision", "recall"):
            number = getattr(point, metric)
            ends = (number.value, number.low, number.high) if number else ("", "", "")
            row |= dict(zip((metric, f"{metric}_low", f"{metric}_high"), ends, strict=True))
        rows.append(row | {"best": int(_best(record, point)), "error": point.error or ""})
    return rows
