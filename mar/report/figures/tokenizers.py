"""The figure `tokenizers`, of a study with a multi-scale tokenizer: how they learned, and what each scale adds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.report.figures.losses import smooth
from mar.report.figures.style import COLOURS, MARKERS, WIDTH, Rows, caption, legend, log_axis, thousands
from mar.runtime import runlog
from mar.runtime.files import read
from mar.study import layout
from mar.study.products import used_tokenizers
from mar.study.records import FirstScales, RfidRecord
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAPTION = (
    "Left: all terms of the training loss together, smoothed over neighbouring log lines. Centre and right: held-out "
    "images rebuilt from the first scales alone, with 95% intervals; the last point of a line has all scales, and a "
    "tokenizer of one scale has one point. Dashed: the floor, FID of the same images as they are."
)


def tokenizers(study: Study, root: Path) -> tuple[Figure, Rows]:
    """Training loss over images seen; rFID and PSNR over the number of scales that an image is rebuilt from.

    Raises:
        ValueError: rFID of a tokenizer is missing.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure, rows = Figure(figsize=(WIDTH, 2.6), layout="constrained"), Rows()
    left, centre, right = (figure.add_subplot(1, 3, place) for place in (1, 2, 3))
    drawn: dict[str, Any] = {}
    for number, name in enumerate(used_tokenizers(study)):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        lines = [line for line in runlog.read(layout.tokenizer(root, name) / layout.LOG) if "loss" in line]
        curve = smooth([line["loss"] for line in lines])
        left.plot([line["images"] for line in lines], curve, color=colour, linewidth=1.0)
        rows += [
            {"tokenizer": name, "images": line["images"], "loss": line["loss"], "smoothed": value}
            for line, value in zip(lines, curve, strict=True)
        ]
        record = read(layout.rfid(root, name), RfidRecord)
        parts = record.by_scale or (FirstScales(scales=1, metrics=record.metrics),)
        for axes, key in ((centre, "rfid"), (right, "psnr")):
            drawn[name] = _by_scale(axes, parts, key, {"color": colour, "marker": marker})
        if floor := record.metrics.get("floor"):  # older files have none
            centre.axhline(floor.value, color=colour, linestyle=(number, (4, 4)), linewidth=0.7)
        for part in parts:
            numbers = {k: m for k, m in part.metrics.items() if k in ("rfid", "psnr", "agreement")}
            ends = {f"{k}_{end}": getattr(m, end) for k, m in numbers.items() for end in ("low", "high")}
            rows.append({"tokenizer": name, "scales": part.scales} | {k: m.value for k, m in numbers.items()} | ends)
    for axes, text in ((left, "training loss"), (centre, "rFID"), (right, "PSNR (dB)")):
        axes.set_title(text, loc="left")
        axes.set_xlabel("images seen" if axes is left else "scales")
    left.xaxis.set_major_formatter(thousands)
    left.xaxis.set_major_locator(MaxNLocator(4))
    for axes in (left, centre):
        log_axis(axes.yaxis)
    for axes in (centre, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(figure, [*drawn.values()], [*drawn])
    caption(figure, CAPTION)
    return figure, rows


def _by_scale(axes: Axes, parts: tuple[FirstScales, ...], key: str, style: dict[str, Any]) -> Any:
    """Draw a metric over the number of scales with its intervals; returns the handle of the line."""
    x, metrics = [part.scales for part in parts], [part.metrics[key] for part in parts]
    bars = [[m.value - m.low for m in metrics], [m.high - m.value for m in metrics]]
    return axes.errorbar(x, [m.value for m in metrics], bars, **style, linewidth=1.0, markersize=3.5)
