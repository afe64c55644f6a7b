"""The figures of learning: held-out loss and FID over images seen, and FID over training operations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.learning_curves import along, records
from mar.report.figures.style import COLUMN, WIDTH, Rows, caption, columns, legend, log_axis, look, thousands
from mar.study.labels import label
from mar.study.products import learned, learning_setting
from mar.study.records import LearningRecord, Range
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS_CAPTION = (
    "filled: held-out images, hollow: training images; 95% intervals; star: lowest. Fixed noise, mean over the mask "
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
    from matplotlib.ticker import MaxNLocator

    results = Results(study, root)
    variants = list(dict.fromkeys(name for name, _ in learned(study)))
    heads = {name: study.heads[study.variants[name].head] for name in variants}
    kinds = {head.kind: head.loss or head.kind for _, head in sorted(heads.items(), key=lambda one: one[1].kind)}
    across = columns(len(kinds), 3)
    down = -(-len(kinds) // across) or 1
    figure, rows = Figure(figsize=(WIDTH if across > 1 else COLUMN, 2.3 * down + 0.7), layout="constrained"), []
    drawn: dict[str, Any] = {}
    for panel, kind in enumerate(kinds):
        axes: Axes = figure.add_subplot(down, across, panel + 1)
        for name in (name for name, head in heads.items() if head.kind == kind):
            found = records(results, name)
            for split in ("train", "heldout"):
                curve = [(float(images), number) for images, number in along(found, split)]
                style = look(study, name) | ({"markerfacecolor": "white", "alpha": 0.75} if split == "train" else {})
                drawn[label(study, name)] = _line(axes, curve, style, best=split == "heldout")
            rows += [row for record in found for row in _loss_rows(record, kind)]
        axes.set_title(kinds[kind], loc="left")
        axes.set_xlabel("images seen")
        axes.set_ylabel("loss" if panel % across == 0 else "")
        axes.xaxis.set_major_formatter(thousands)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    legend(figure, [*drawn.values()], [*drawn])
    caption(figure, LOSS_CAPTION)
    return figure, rows


def fid_images(study: Study, root: Path) -> tuple[Figure, Rows]:
    """FID of images drawn along each training, over images seen."""
    return _fid(study, root, operations=False)


def fid_operations(study: Study, root: Path) -> tuple[Figure, Rows]:
    """The same over the operations that the training took, which tell a large model from a small one."""
    return _fid(study, root, operations=True)


def _fid(study: Study, root: Path, operations: bool) -> tuple[Figure, Rows]:
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator

    results, rows = Results(study, root), Rows()
    figure = Figure(figsize=(COLUMN, 3.4), layout="constrained")
    axes: Axes = figure.add_subplot()
    drawn: dict[str, Any] = {}
    variants = dict.fromkeys(name for name, _ in learned(study) if learning_setting(study, name))
    for name in variants:
        found = records(results, name)
        curve = along(found, "fid")
        scale = found[0].operations if operations else 1.0
        line = [(images * scale, number) for images, number in curve]
        drawn[label(study, name)] = _line(axes, line, look(study, name))
        head = {"variant": name, "setting": found[0].setting, "samples": found[0].samples}
        head |= {"seeds": " ".join(str(record.seed) for record in found)}
        for images, number in curve:
            place = {"images": images, "operations": images * found[0].operations}
            rows.append(head | place | {"fid": number.value, "fid_low": number.low, "fid_high": number.high})
    log_axis(axes.yaxis)
    if operations:
        log_axis(axes.xaxis)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.2g}".replace("e+", "e"))
        axes.set_xlabel("operations of the training, without tokenizer")
    else:
        axes.xaxis.set_major_formatter(thousands)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("images seen")
    assert study.learning is not None  # the figure is drawn where samples were asked
    axes.set_ylabel("FID against held-out images (log scale)")
    legend(figure, [*drawn.values()], [*drawn])
    caption(figure, f"{study.learning.samples:,} images a point; {FID_CAPTION}")
    return figure, rows


def _line(axes: Axes, curve: Sequence[tuple[float, Range]], style: dict[str, Any], best: bool = True) -> Any:
    """Draw a curve with its intervals, and a star at its lowest point; returns its line, for the legend."""
    places, values = [x for x, _ in curve], [number.value for _, number in curve]
    bars = [[n.value - n.low for _, n in curve], [n.high - n.value for _, n in curve]]
    drawn = axes.errorbar(places, values, bars, **style, linewidth=1.1, elinewidth=0.7, capsize=1.5, markersize=3.5)
    lowest = min(curve, key=lambda point: point[1].value) if curve and best else None
    if lowest:
        axes.plot(lowest[0], lowest[1].value, "*", color=style["color"], markersize=9, zorder=4)
    return drawn.lines[0]


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
