"""The figures of learning: held-out loss and FID over images seen, and FID over training operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.learning_curves import along, records
from mar.report.figures.losses import LOSSES
from mar.report.figures.style import COLOURS, LINES, MARKERS, SMALL, WIDTH, Rows, log_axis
from mar.study.products import learned, learning_setting
from mar.study.records import LearningRecord, Range
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS_CAPTION = (
    "solid: held-out images, dashed: training images; 95% intervals; star: lowest. Fixed noise, mean over the mask\n"
    "ratios. Heads share no scale, and their losses are no signal of how good samples are."
)
FID_CAPTION = (
    "95% intervals by the images, which all points draw with the same noise; star: lowest. No claim uses these."
)


def heldout_loss(study: Study, root: Path) -> tuple[Figure, Rows]:
    """Loss on held-out and on training images over images seen; one panel per head, since their losses do not compare.

    Raises:
        ValueError: the curves of a training are missing.
    """
    from matplotlib.figure import Figure

    results = Results(study, root)
    variants = list(dict.fromkeys(name for name, _ in learned(study)))
    kinds = sorted({study.heads[study.variants[name].head].kind for name in variants})
    across = min(len(kinds), 2)
    down = -(-len(kinds) // across)
    figure, rows = Figure(figsize=(WIDTH / 2 * across, 2.9 * down + 0.4), layout="constrained"), []
    for panel, kind in enumerate(kinds):
        axes: Axes = figure.add_subplot(down, across, panel + 1)
        for i, name in enumerate(n for n in variants if study.heads[study.variants[n].head].kind == kind):
            found = records(results, name)
            for split, style in (("train", "--"), ("heldout", "-")):
                curve = [(float(images), number) for images, number in along(found, split)]
                _line(axes, i, curve, style, name if split == "heldout" else None, best=split == "heldout")
            rows += [row for record in found for row in _loss_rows(record, kind)]
        axes.set_title(LOSSES[kind], loc="left")
        axes.set_xlabel("images seen")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_formatter(_thousands)
        axes.legend(fontsize=SMALL)
    figure.supxlabel(LOSS_CAPTION if across > 1 else _narrow(LOSS_CAPTION), fontsize=SMALL, color="#444444")
    return figure, rows


def fid_images(study: Study, root: Path) -> tuple[Figure, Rows]:
    """FID of images drawn along each training, over images seen."""
    return _fid(study, root, operations=False)


def fid_operations(study: Study, root: Path) -> tuple[Figure, Rows]:
    """The same over the operations that the training took, which tell a large model from a small one."""
    return _fid(study, root, operations=True)


def _fid(study: Study, root: Path, operations: bool) -> tuple[Figure, Rows]:
    from matplotlib.figure import Figure

    results, rows = Results(study, root), Rows()
    figure = Figure(figsize=(WIDTH, 4.0), layout="constrained")
    axes: Axes = figure.add_subplot()
    variants = dict.fromkeys(name for name, _ in learned(study) if learning_setting(study, name))
    for i, name in enumerate(variants):
        found = records(results, name)
        curve = along(found, "fid")
        scale = found[0].operations if operations else 1.0
        _line(axes, i, [(images * scale, number) for images, number in curve], "-", f"{name} ({found[0].setting})")
        head = {"variant": name, "setting": found[0].setting, "samples": found[0].samples}
        head |= {"seeds": " ".join(str(record.seed) for record in found)}
        for images, number in curve:
            place = {"images": images, "operations": images * found[0].operations}
            rows.append(head | place | {"fid": number.value, "fid_low": number.low, "fid_high": number.high})
    log_axis(axes.yaxis)
    if operations:
        log_axis(axes.xaxis)
        axes.set_xlabel("operations of the training, tokenizer left out (log scale)")
    else:
        axes.xaxis.set_major_formatter(_thousands)
        axes.set_xlabel("images seen")
    assert study.learning is not None  # the figure is drawn where samples were asked
    axes.set_ylabel(f"FID against held-out images, {study.learning.samples} images (log scale)")
    axes.legend(fontsize=SMALL)
    figure.supxlabel(FID_CAPTION, fontsize=SMALL, color="#444444")
    return figure, rows


def _line(
    axes: Axes, i: int, curve: Sequence[tuple[float, Range]], style: str, label: str | None, best: bool = True
) -> None:
    """Draw line number i with its intervals, and a star at its lowest point."""
    colour, places = COLOURS[i % len(COLOURS)], [x for x, _ in curve]
    look: dict[str, Any] = {"color": colour, "linestyle": style, "marker": MARKERS[i % len(MARKERS)]}
    if i >= len(COLOURS) and style == "-":
        look["linestyle"] = LINES[i // len(COLOURS) % len(LINES)]
    values = [number.value for _, number in curve]
    bars = [[n.value - n.low for _, n in curve], [n.high - n.value for _, n in curve]]
    axes.errorbar(places, values, bars, **look, linewidth=1.1, elinewidth=0.7, capsize=1.5, markersize=3, label=label)
    lowest = min(curve, key=lambda point: point[1].value) if curve and best else None
    if lowest:
        axes.plot(lowest[0], lowest[1].value, "*", color=colour, markersize=9, zorder=4)


def _loss_rows(record: LearningRecord, kind: str) -> Rows:
    """One row of the CSV for each point, split and mask ratio of a training."""
    head = {"variant": record.variant, "seed": record.seed, "head": kind}
    return [
        head | {"images": point.images, "split": split, "mask_ratio": ratio, "loss": metric.value}
        | {"low": metric.low, "high": metric.high, "n": metric.n}
        for point in record.points
        for split in ("heldout", "train")
        for ratio, metric in getattr(point, split).items()
    ]  # fmt: skip


def _thousands(value: float, _: float | None) -> str:
    return f"{value / 1000:g}k" if value else "0"


def _narrow(caption: str) -> str:
    """The caption of a figure of one panel, with a line for each sentence."""
    return caption.replace("\n", " ").replace(". ", ".\n").replace("; ", ";\n")
