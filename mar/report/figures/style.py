"""How all figures look: colours, sizes, fonts."""

from __future__ import annotations

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
