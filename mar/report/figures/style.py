"""How all figures look: colours, sizes, fonts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers differ in the same way without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")  # line styles: when all colours are used, they repeat with the next style
WIDTH = 6.3  # inches, the text width of an A4 page, so that a figure is printed unscaled and 8 points stay 8 points
SMALL = 7  # points, the size of the smallest text
Rows = list[dict[str, Any]]
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # TrueType: text stays text in the PDF
    "figure.dpi": 200,
    "text.parse_math": False,  # names of classes and curves may contain $
}


def log_axis(axis: Any) -> None:
    """A log axis with plain numbers: at 1, 2 and 5 of each decade, denser where the axis spans less than a decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    formatter: Callable[[float, Any], str] = lambda value, _: f"{value:g}"  # noqa: E731
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    if high > 8 * low:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())
