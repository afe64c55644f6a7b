"""The figure `laws`: VAR's loss and error over parameters and over training compute, with the fitted power laws.

And `laws_samples`: what its models draw along their trainings.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.laws import PFLOP, TABLE, Fit, Point, fits, front, points, size
from mar.analysis.learning_curves import records
from mar.paper.numbers import paper_rows
from mar.report.figures.style import SMALL, WIDTH, Rows, caption, legend, log_axis, look
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.labels import label
from mar.study.parts import ScalesBackbone
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SCALES = {"last": "last scale", "all": "all scales"}
AXES = {"parameters": "parameters", "compute": "PFLOP"}
CAPTION = (
    "Held-out images. Above: over the parameters of the blocks, each model at its end, bars from the least to the "
    "greatest training seed. Below: over the operations of training; ringed: the Pareto front, to which the law is "
    "fitted. Dashed: L = (beta X)^alpha; solid: with a constant that is fitted too. Axes are logarithmic; losses in "
    "nats a token, errors as shares."
)
SAMPLES_CAPTION = (
    "One class an image, drawn with the same random numbers by all models. Models grow downwards, training goes to the "
    "right; above each block the parameters of the blocks and the operations of training so far."
)


def laws(study: Study, root: Path) -> tuple[Figure, Rows]:
    """Four panels over parameters and four over compute; the rows have every point and its distance from the raw law.

    Raises:
        ValueError: the curves of a training are missing.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    results, rows = Results(study, root), Rows()
    figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
    drawn: dict[str, Any] = {}
    for place, (name, row) in enumerate(paper_rows(TABLE).items()):
        over = row["over"]
        axes: Axes = figure.add_subplot(2, 4, place + 1)
        found = points(results, row["quantity"], row["tokens"], over)
        made = fits(found, over, None)
        drawn |= _points(axes, study, found, over)
        for way, line in (("raw", "--"), ("free", "-")):
            if way in made:
                _law(axes, made[way], found, line)
        log_axis(axes.yaxis)
        axes.set_xscale("log")
        axes.set_title(f"{row['quantity']}, {SCALES[row['tokens']]}", loc="left", fontsize=SMALL)
        axes.set_xlabel(AXES[over], fontsize=SMALL)
        axes.tick_params(labelsize=SMALL)
        form = (
            (lambda x, _: _count(1e9 * x)) if over == "parameters" else (lambda x, _: f"{x:.0e}".replace("e-0", "e-"))
        )
        axes.xaxis.set_major_locator(LogLocator(numticks=3))
        axes.xaxis.set_major_formatter(form)
        axes.xaxis.set_minor_formatter("")
        if raw := made.get("raw"):
            place_of: dict[str, Any] = {"ha": "right", "va": "top", "transform": axes.transAxes, "fontsize": SMALL}
            axes.text(0.99, 0.99, f"exponent {raw.alpha:.3f}", **place_of)
        rows += _rows(name, found, over, made.get("raw"))
    legend(figure, [*drawn.values()], [*drawn])
    caption(figure, CAPTION)
    return figure, rows


def laws_samples(study: Study, root: Path) -> tuple[Figure, Rows]:
    """Images of the first seed of each size, from the smallest downwards, at each kept average, along the training.

    Raises:
        ValueError: a picture is missing or is not the one of its record.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image

    assert study.laws is not None
    results, rows, cells = Results(study, root), Rows(), list[tuple[int, int, str, Any]]()
    for row, variant in enumerate(sorted(study.laws.variants, key=lambda name: _size(study, name))):
        record, file = records(results, variant)[0], layout.pictures(root, variant, study.variants[variant].seeds[0])
        if not file.exists() or sha256(file) != record.pictures:
            raise ValueError(f"{file}: missing, or not the one that {layout.LEARNING} names; run `mar learning` again")
        picture = np.asarray(Image.open(file))  # (points H, images W, 3)
        for column, strip in enumerate(np.split(picture, len(record.points))):
            point = record.points[column]
            compute = point.images * record.operations / PFLOP
            title = f"{_count(float(f'{_size(study, variant):.2g}'))}, {compute:.2g} PFLOP"
            cells.append((row, column, title, _folded(strip)))
            rows.append({"variant": variant, "seed": record.seed, "images": point.images, "pflop": compute})
    down, across = 1 + max(row for row, *_ in cells), 1 + max(column for _, column, *_ in cells)
    height, width = cells[0][3].shape[:2]
    figure = Figure(figsize=(WIDTH, down * (WIDTH / across * height / width + 0.17) + 0.3), layout="constrained")
    for row, column, title, block in cells:
        axes: Axes = figure.add_subplot(down, across, row * across + column + 1)
        axes.imshow(block, interpolation="antialiased")
        axes.set_axis_off()
        axes.set_title(title, fontsize=SMALL)
    caption(figure, SAMPLES_CAPTION)
    return figure, rows


def _size(study: Study, variant: str) -> int:
    backbone = study.backbones[study.variants[variant].backbone]
    assert isinstance(backbone, ScalesBackbone)  # checked where the study is read
    return size(backbone)


def _folded(strip: Any) -> Any:
    """A row of square images (H, n H, 3) as two rows of half as many."""
    import numpy as np

    side = strip.shape[0]
    half = strip.shape[1] // side // 2 * side
    return np.concatenate([strip[:, :half], strip[:, half : 2 * half]])


def _points(axes: Axes, study: Study, found: list[Point], over: str) -> dict[str, Any]:
    """Draw the points of each model, and ring the front; returns their handles by label."""
    drawn = {}
    for variant in dict.fromkeys(point.variant for point in found):
        of = [point for point in found if point.variant == variant]
        style = look(study, variant) | ({} if over == "compute" else {"linestyle": "none"})
        bars = [[p.value - min(p.seeds) for p in of], [max(p.seeds) - p.value for p in of]]
        line = axes.errorbar([p.x for p in of], [p.value for p in of], bars, **style, linewidth=0.8, markersize=3.5)
        drawn[label(study, variant)] = line.lines[0]
    if over == "compute":
        ringed = front(found)
        axes.plot([p.x for p in ringed], [p.value for p in ringed], "o", color="#000000", markerfacecolor="none",
                  markersize=7, markeredgewidth=0.7)  # fmt: skip
    return drawn


def _law(axes: Axes, fit: Fit, found: list[Point], line: str) -> None:
    import numpy as np

    x = np.geomspace(min(p.x for p in found), max(p.x for p in found), 60)
    axes.plot(x, fit.at(x), line, color="#444444", linewidth=0.8, zorder=1)


def _count(value: float) -> str:
    """A number of parameters as 20k, 2M or 1B."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _rows(name: str, found: list[Point], over: str, raw: Fit | None) -> Rows:
    used = front(found) if over == "compute" else sorted(found, key=lambda point: point.x)
    residuals = dict(zip(used, raw.residuals, strict=True)) if raw else {}
    return [
        {"law": name, "variant": p.variant, "images": p.images, "x": p.x, "value": p.value}
        | {"seeds": " ".join(f"{value:.6g}" for value in p.seeds), "fitted": p in used}
        | {"residual": residuals.get(p, "")}
        for p in found
    ]  # fmt: skip
