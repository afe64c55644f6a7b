"""The figure of training losses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mar.report.figures.style import COLUMN, WIDTH, Rows, caption, columns, legend, look, thousands
from mar.runtime.runlog import read
from mar.study import layout
from mar.study.labels import label
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def losses(study: Study, root: Path) -> tuple[Figure, Rows]:
    """Smoothed training loss, one line per variant and seed, one panel per head: their losses do not compare."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    trained = [(v, s) for v, variant in study.variants.items() for s in variant.seeds if not variant.pretrained]
    heads = {v: study.heads[study.variants[v].head] for v, _ in trained}
    kinds = {head.kind: head.loss or head.kind for _, head in sorted(heads.items(), key=lambda one: one[1].kind)}
    across = columns(len(kinds), 3)
    down = -(-len(kinds) // across) or 1
    figure, rows = Figure(figsize=(WIDTH if across > 1 else COLUMN, 2.3 * down + 0.5), layout="constrained"), []
    drawn: dict[str, Any] = {}
    for panel, kind in enumerate(kinds):
        axes: Axes = figure.add_subplot(down, across, panel + 1)
        variants = [v for v, head in heads.items() if head.kind == kind]
        for variant in variants:
            for j, seed in enumerate(study.variants[variant].seeds):
                path = layout.run(root, variant, seed) / layout.LOG
                lines = [line for line in read(path) if "loss" in line]
                if not lines:
                    raise ValueError(f"{path}: missing or empty; run the train stage of {variant}, seed {seed}")
                curve = smooth([line["loss"] for line in lines])
                images = [line["images"] for line in lines]
                style = look(study, variant) | {"marker": "", "linewidth": 1.2 if j == 0 else 0.7}
                (handle,) = axes.plot(images, curve, **style)
                drawn.setdefault(label(study, variant), handle)
                head = {"variant": variant, "seed": seed}
                for line, value in zip(lines, curve, strict=True):
                    rows.append(head | {"images": line["images"], "loss": line["loss"], "smoothed": value})
        axes.set_title(kinds[kind], loc="left")
        axes.set_xlabel("images seen")
        axes.set_ylabel("training loss" if panel % across == 0 else "")
        axes.xaxis.set_major_formatter(thousands)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    legend(figure, [*drawn.values()], [*drawn])
    captions = ["smoothed over neighbouring log lines; further seeds drawn thin"] if trained else ["no training"]
    imported = [name for name, variant in study.variants.items() if variant.pretrained and variant.seeds]
    if imported:
        captions.append(f"weights imported, not trained: {', '.join(label(study, name) for name in imported)}")
    caption(figure, "\n".join(captions))
    if not rows:
        rows = [{"variant": name} for name in imported]
    return figure, rows


def smooth(values: Iterable[float]) -> list[float]:
    """Running mean over a centred window of a twentieth of the points, shorter at the ends."""
    series = np.asarray(list(values), float)
    half = max(len(series) // 40, 1)
    return [float(series[max(0, i - half) : i + half + 1].mean()) for i in range(len(series))]
