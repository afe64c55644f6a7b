"""How all figures look: one colour, marker and line for each model in all of them, sizes, fonts, places of labels."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mar.study.labels import label
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart. Markers and lines differ too, so that a figure is
# read as well in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (9, 2)), (0, (3, 1)))
# Models of the paper by their labels: each has the same look in all studies. Others take what a study leaves free.
MODELS = (
    "MAR, Diffusion Loss",
    "AR, cross-entropy",
    "AR, Diffusion Loss",
    "MAR, cross-entropy",
    "causal MAR, cross-entropy",
    "causal MAR, Diffusion Loss",
    "DiT",
    "VAR",
)
# By verdict: replicated and not replicated differ in lightness too.
VERDICTS = {"replicated": "#00694f", "not replicated": "#D55E00", "undecided": "#767676"}
WIDTH = 6.3  # inches, the text width of an A4 page, so that a figure is printed unscaled and 8 points stay 8 points
COLUMN = 3.3  # inches, one of two columns: figures of one panel are drawn for it
SMALL = 7  # points, the size of the smallest text
SOFT = "#444444"  # of captions
Rows = list[dict[str, Any]]
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # long enough to tell lines apart
    "pdf.fonttype": 42,  # TrueType: text stays text in the PDF
    "figure.dpi": 200,
    "text.parse_math": False,  # names of classes and curves may contain $
}
LETTER = 0.52  # mean width of a letter as a share of the size of the font
# Sides of its point on which a label may stand: right is 1, left -1, up 1, down -1, centred 0.
AROUND = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
GAP = 4.5  # points between a point and its label


def look(study: Study, variant: str, again: int = 0) -> dict[str, Any]:
    """Colour, marker and line of a model; `again`: the further curves of it in one figure differ in marker and line."""
    slot = _slots(study)[variant]
    turn = slot + slot // len(COLOURS) + 3 * again
    style = {"color": COLOURS[slot % len(COLOURS)], "marker": MARKERS[turn % len(MARKERS)]}
    line = LINES[(slot + slot // len(COLOURS) + again) % len(LINES)]
    return style | {"linestyle": line} | ({"markerfacecolor": "white"} if again % 2 else {})


def _slots(study: Study) -> dict[str, int]:
    """A number for each variant: that of MODELS where its label is there, else the next free one."""
    labels = {name: label(study, name) for name in study.variants}
    slots = {name: MODELS.index(text) for name, text in labels.items() if text in MODELS}
    free = [i for i in range(len(MODELS) + len(labels)) if i not in slots.values()]
    others = [name for name in labels if name not in slots]
    return slots | dict(zip(others, free, strict=False))


def columns(panels: int, most: int) -> int:
    """How many panels stand in a row, so that rows are as even as can be: 5 of at most 4 are 3 and 2."""
    return -(-panels // -(-panels // most)) if panels else 1


def caption(figure: Figure, text: str) -> None:
    """A caption below the axes, wrapped to the width of the figure; new lines stay."""
    width = int(figure.get_figwidth() * 72 / (SMALL * LETTER))
    lines = [line for part in text.split("\n") for line in textwrap.wrap(part, width) or [""]]
    figure.supxlabel("\n".join(lines), fontsize=SMALL, color=SOFT)


def legend(figure: Figure, handles: Sequence[Any], texts: Sequence[str]) -> None:
    """A legend above the axes, where no point can lie, with as many columns as the figure is wide enough for."""
    if not texts:
        return
    room = figure.get_figwidth() * 72 / (max(map(len, texts)) * SMALL * LETTER + 5 * SMALL)
    across = columns(len(texts), max(1, min(4, int(room))))
    figure.legend(handles, texts, loc="outside upper center", ncols=across, fontsize=SMALL)


def dark(colour: str) -> tuple[float, float, float]:
    """A darker shade of a colour for text, since yellow and sky blue are too light on white."""
    from matplotlib.colors import to_rgb

    red, green, blue = (0.65 * part for part in to_rgb(colour))
    return red, green, blue


def place_labels(figure: Figure, axes: Axes, labels: Sequence[tuple[float, float, str, Any]]) -> None:
    """Write texts beside their points, each where it covers neither a marker nor another text, and lines least.

    The limits of the axes and the rest of the figure have to be final.

    Args:
        figure: the figure.
        axes: its axes that the markers and lines are drawn in.
        labels: for each its place in data, text and colour.
    """
    import numpy as np
    from matplotlib.collections import LineCollection

    figure.draw_without_rendering()  # settles where the axes stand
    unit = figure.dpi / 72  # pixels a point
    marked, passed = [], []
    for line in axes.lines:
        xy = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        if line.get_marker() not in ("None", None, ""):
            marked += [(point, 0.5 * line.get_markersize() * unit) for point in xy]
        for a, b in itertools.pairwise(xy):
            passed += list(a + (b - a) * np.linspace(0, 1, 60)[:, None])
    for bars in axes.collections:
        if isinstance(bars, LineCollection):  # intervals
            for a, b in bars.get_segments():
                ends = axes.transData.transform([a, b])
                passed += list(ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, 60)[:, None])
    frame = axes.get_window_extent()
    taken: list[tuple[Any, Any]] = []
    for x, y, text, colour in labels:
        point = axes.transData.transform((x, y))
        size = np.array([len(text) * SMALL * 0.6, SMALL * 0.95]) * unit
        choices = []
        for order, (across, up) in enumerate(AROUND):
            for far in (1.0, 2.2):
                gap = far * GAP * unit * (0.7 if across and up else 1.0)
                # the corner of the text at lower left: beyond the gap on the side that is asked, else centred
                low = point + np.array([gap * s + n * (s - 1) / 2 for s, n in zip((across, up), size, strict=True)])
                high = low + size
                hit = sum(bool(np.all(p + r > low) and np.all(p - r < high)) for p, r in marked)
                over = sum(bool(np.all(a < high) and np.all(b > low)) for a, b in taken)
                out = not (frame.x0 <= low[0] and high[0] <= frame.x1 and frame.y0 <= low[1] and high[1] <= frame.y1)
                through = sum(bool(np.all(p > low) and np.all(p < high)) for p in passed)
                choices.append((100 * (hit + over) + 40 * out + through + far + 0.1 * order, tuple(low), tuple(high)))
        _, low, high = min(choices)
        taken.append((np.array(low), np.array(high)))
        offset = (np.array(low) - point) / unit
        axes.annotate(
            text,
            (x, y),
            xytext=tuple(offset + np.array([0.0, 0.1 * SMALL])),
            textcoords="offset points",
            color=colour,
            fontsize=SMALL,
            ha="left",
            va="bottom",
            zorder=5,
            path_effects=_halo(),
        ).set_in_layout(False)


def _halo() -> list[Any]:
    """A white rim, by which text is readable where it crosses a line."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="white")]


def thousands(value: float, _: Any = None) -> str:
    """A number of images as `48k`."""
    return f"{value / 1000:g}k" if value else "0"


def log_axis(axis: Any) -> None:
    """A log axis with plain numbers: at 1, 2 and 5 of each decade, denser where the axis spans less than a decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    def formatter(value: float, _: Any) -> str:
        return f"{value:g}"

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    if high > 8 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())
