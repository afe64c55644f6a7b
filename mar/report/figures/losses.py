"""The figure of training losses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mar.report.figures.style import COLOURS, LINES, SMALL, WIDTH, Rows
from mar.runtime.runlog import read
from mar.study import layout
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LOSSES = {
    "categorical": "cross-entropy (nats a token)",
    "diffusion": "Diffusion Loss",
    "mse": "mean squared error",
    "mixture": "normal mixture (nats a token)",
    "joint": "DiT's diffusion loss",
}


def losses(study: Study, root: Path) -> tuple[Figure, Rows]:
    """Smoothed training loss, one line per variant and seed; one panel per head, since their losses do not compare."""
    from matplotlib.figure import Figure

    trained = [(v, s) for v, variant in study.variants.items() for s in variant.seeds if not variant.pretrained]
    kinds = sorted({study.heads[study.variants[v].head].kind for v, _ in trained})
    across = min(len(kinds), 2) or 1
    down = -(-len(kinds) // across) or 1
    figure, rows = Figure(figsize=(WIDTH / 2 * across, 2.9 * down), layout="constrained"), []
    for panel, kind in enumerate(kinds):
        axes: Axes = figure.add_subplot(down, across, panel + 1)
        variants = list(dict.fromkeys(v for v, _ in trained if study.heads[study.variants[v].head].kind == kind))
        for i, variant in enumerate(variants):
            for j, seed in enumerate(study.variants[variant].seeds):
                path = layout.run(root, variant, seed) / layout.LOG
                lines = [line for line in read(path) if "loss" in line]
                if not lines:
                    raise ValueError(f"{path}: missing or empty; run the train stage of {variant}, seed {seed}")
                curve = smooth([line["loss"] for line in lines])
                images = [line["images"] for line in lines]
                # Where there are more variants than colours, colours repeat with another line style.
                style: dict[str, Any] = {
                    "color": COLOURS[i % len(COLOURS)],
                    "linestyle": LINES[i // len(COLOURS) % len(LINES)],
                }
                axes.plot(images, curve, **style, linewidth=1.2 if j == 0 else 0.7, label=None if j else variant)
                head = {"variant": variant, "seed": seed}
                for line, value in zip(lines, curve, strict=True):
                    rows.append(head | {"images": line["images"], "loss": line["loss"], "smoothed": value})
        axes.set_title(LOSSES[kind], loc="left")
        axes.set_xlabel("images seen")
        axes.set_ylabel("training loss")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        axes.legend(fontsize=SMALL)
    captions = ["smoothed over neighbouring log lines; further seeds drawn thin"] if trained else ["no training"]
    imported = [name for name, variant in study.variants.items() if variant.pretrained and variant.seeds]
    captions += [f"weights imported, not trained: {', '.join(imported)}"] if imported else []
    figure.supxlabel("\n".join(captions), fontsize=SMALL, color="#444444")
    if not rows:
        rows = [{"variant": name} for name in imported]
    return figure, rows


def smooth(values: Iterable[float]) -> list[float]:
    """Running mean over a centred window of a twentieth of the points, shorter at the ends."""
    series = np.asarray(list(values), float)
    half = max(len(series) // 40, 1)
    return [float(series[max(0, i - half) : i + half + 1].mean()) for i in range(len(series))]
