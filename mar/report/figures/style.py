"""How all figures look: colours, sizes, fonts."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers say the same without colour
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")  # a second round of colours and markers differs by its line
WIDTH = 6.3  # inches, the text of an A4 page: printed at its own size, text has the points that it says
SMALL = 7  # points of the smallest text
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
}
