r"""A table of texts as Markdown and as LaTeX, written by pandas.

The columns of such a table have three levels: the group above the heading or "", the heading, and the side at which the
cells are aligned, "l" or "r". Ours and the paper's number under one metric make such a group.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mar.runtime.files import write_text
from mar.study import layout

if TYPE_CHECKING:
    import pandas as pd

# Characters that fit on a line of A4 with its usual margins, upright and sideways, at 7 points (3.5 wide on average).
UPRIGHT, SIDEWAYS = 105, 185
ROWS = 40  # rows that fit on a page
# Styler's own escape skips captions, < and >, arrows, infinity, and "[", which LaTeX reads as an option of a row's end.
SPECIAL = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "∞": r"$\infty$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}
    | {"[": "{[}", "|": r"\textbar{}"}
)
# Characters that begin what Markdown, as GitHub renders it, does not show as text. The star of 3*, the underscore of
# a_b and the brackets of an interval such as [1.0, 2.0] are text.
MARKUP = re.compile(r"[\\`<$~#]|\*(?=\S)|(?<![^\W_])_(?=\S)|\[(?![-\d])|\](?=[(\[])|&(?=[#\w]+;)")


def texts(heads: Iterable[tuple[str, str, str]], rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    """The table of these columns, each (group, heading, "l" or "r"), and rows."""
    import pandas as pd

    return pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(heads, names=("group", "heading", "align")))


def write(
    root: Path, name: str, title: str, values: pd.DataFrame, note: str, frame: pd.DataFrame, floor: bool = False
) -> None:
    """Write tables/<name>.{csv,md,tex}: the numbers of `frame`, and the texts `values` with their note.

    `floor`: whether the last row is the floor.
    """
    write_text(layout.table(root, name, "tex"), latex(title, values, note, floor))
    write_text(layout.table(root, name, "md"), markdown(title, values, note))
    write_text(layout.table(root, name, "csv"), frame.to_csv(index=False, lineterminator="\n"))


def markdown(title: str, values: pd.DataFrame, note: str) -> str:
    """The table as Markdown. The first column of a group is headed by the name of the group."""
    groups = list(values.columns.get_level_values("group"))
    heads = [group if group and groups.index(group) == i else values.columns[i][1] for i, group in enumerate(groups)]
    table = values.map(_cell_text).to_markdown(
        index=False,
        headers=list(map(_cell_text, heads)),
        colalign=["right" if align == "r" else "left" for align in values.columns.get_level_values("align")],
        disable_numparse=True,  # else 1.00 is printed as 1
    )
    return f"### {_escaped(title)}\n\n{table}\n\n{_escaped(note)}\n"


def _cell_text(text: str) -> str:
    return _escaped(text).replace("|", r"\|")


def _escaped(text: str) -> str:
    """A text on one line that Markdown renders as it is."""
    return MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def latex(title: str, values: pd.DataFrame, note: str, floor: bool = False) -> str:
    """The table as LaTeX: sideways if it is wide, over several pages if it is long; `floor`: a rule above the last row.

    Needs booktabs, and graphicx, rotating or longtable and pdflscape as its first line says. A number stands above its
    interval.
    """
    title = " ".join(re.sub(r"^Table [0-9]+: ", "", title).split())
    caption = f"{title}. {note}".translate(SPECIAL)  # LaTeX numbers its tables itself
    rules, long, wide = _rules(values), len(values) > ROWS, width(values) > UPRIGHT
    style = values.style.format({head: partial(_cell, side=head[2]) for head in values.columns}).hide(axis="index")
    style = style.format_index(lambda text: str(text).translate(SPECIAL), axis=1)
    style = style.hide(axis="columns", level=["align"] if rules else ["group", "align"])
    # Styler writes properties of a cell as commands in front of its text, so a rule is a property of the cell below it.
    style = style.apply_index(lambda heads: [rules, *[""] * (len(heads) - 1)], axis=1, level="heading")
    if floor:
        style = style.set_properties(subset=(values.index[-1:], values.columns[:1]), midrule="")
    table = style.to_latex(
        column_format="".join(values.columns.get_level_values("align")),
        environment="longtable" if long else "sidewaystable" if wide else "table",
        position_float=None if long else "centering",
        caption=caption,
        multicol_align="c",
        hrules=True,
    )
    # Styler does not write packages, landscape pages, or the \resizebox that fits a table to the page.
    if long:
        before = "\\begin{landscape}\n\\scriptsize\\setlength{\\tabcolsep}{3pt}\n"
        return f"% \\usepackage{{booktabs,longtable,pdflscape}}\n{before}{table}\\end{{landscape}}\n"
    start, end = "\n\\begin{tabular}", "\n\\end{tabular}"
    table = table.replace(start, f"\n\\smallskip\n\\resizebox{{\\textwidth}}{{!}}{{%{start}").replace(end, end + "}")
    return f"% \\usepackage{{booktabs,graphicx{',rotating' * wide}}}\n{table}"


def width(values: pd.DataFrame) -> int:
    """Characters in a line of the table as LaTeX prints it, two between columns."""
    total = 0
    for group, heads in itertools.groupby(values.columns, key=lambda head: head[0]):
        columns = [[head[1], *itertools.chain(*(_lines(cell, head[2]) for cell in values[head]))] for head in heads]
        total += max(sum(max(map(len, column)) + 2 for column in columns), len(group) + 2)
    return total


def _rules(values: pd.DataFrame) -> str:
    """A rule below each group of columns, as properties for Styler."""
    rules, end = [], 0
    for group, heads in itertools.groupby(values.columns.get_level_values("group")):
        start, end = end + 1, end + len(list(heads))
        rules += [f"cmidrule: (lr){{{start}-{end}}}"] * bool(group)
    return "; ".join(rules)


def _lines(cell: str, side: str) -> list[str]:
    """The lines of a cell: a number, and below it its interval or its difference."""
    value, space, more = cell.partition(" ")
    return [value, more] if space and side == "r" and more[0] in "[(" else [cell]


def _cell(cell: str, side: str) -> str:
    lines = [line.translate(SPECIAL) for line in _lines(cell, side)]
    return lines[0] if len(lines) == 1 else rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{lines[0]}\\{lines[1]}\end{{tabular}}"
