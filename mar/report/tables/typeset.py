"""A table of texts as Markdown and as LaTeX that can be read in print."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

# Characters of 7 points, 3.5 points wide on average, that fit across A4 with its usual margins, and along its side.
UPRIGHT, SIDEWAYS = 105, 185
ROWS = 40  # that fit on a page


class Head(NamedTuple):
    """Heading of a column; neighbours of one group have it above them. Ours and the paper's number make such a pair."""

    name: str
    group: str = ""
    align: str = "l"


def markdown(title: str, heads: Sequence[Head], rows: Sequence[Sequence[str]], text: str) -> str:
    """The table as Markdown. Of a group, the first column has its name."""
    first = {head.group: head for head in reversed(heads)}
    names = [head.group if head.group and first[head.group] is head else head.name for head in heads]
    lines = [f"### {title}", "", _pipe(names), _pipe(["---" if h.align == "l" else "--:" for h in heads])]
    return "\n".join([*lines, *map(_pipe, rows), "", text, ""])


def latex(title: str, heads: Sequence[Head], rows: Sequence[Sequence[str]], text: str, last: int = 0) -> str:
    """The table as LaTeX: sideways if it is wide, over several pages if it is long; `last` rows follow a line.

    Needs booktabs, and graphicx, rotating or longtable and pdflscape as its first line says. A number stands above its
    interval.
    """
    caption = rf"{escape(re.sub(r'^Table [0-9]+: ', '', title))}. {escape(text)}"  # LaTeX counts itself
    columns = "".join(head.align for head in heads)
    body = [_groups(heads)] if any(head.group for head in heads) else []
    top = [r"\toprule", *body, " & ".join(escape(head.name) for head in heads) + r" \\", r"\midrule"]
    lines = [
        " & ".join(_cell(cell, head.align) for cell, head in zip(row, heads, strict=True)) + r" \\" for row in rows
    ]
    lines[len(lines) - last : len(lines) - last] = [r"\midrule"] * bool(last)
    if len(rows) > ROWS:
        return "\n".join(
            [
                r"% \usepackage{booktabs,longtable,pdflscape}",
                r"\begin{landscape}",
                r"\scriptsize\setlength{\tabcolsep}{3pt}",
                rf"\begin{{longtable}}{{{columns}}}",
                rf"\caption{{{caption}}}\\",
                *top,
                r"\endhead",
                *lines,
                r"\bottomrule",
                r"\end{longtable}",
                r"\end{landscape}",
                "",
            ]
        )
    wide = width(heads, rows) > UPRIGHT
    kind = "sidewaystable" if wide else "table"
    return "\n".join(
        [
            rf"% \usepackage{{booktabs,graphicx{',rotating' if wide else ''}}}",
            rf"\begin{{{kind}}}",
            r"\centering",
            rf"\caption{{{caption}}}",
            r"\smallskip",
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            *top,
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\end{{{kind}}}",
            "",
        ]
    )


def width(heads: Sequence[Head], rows: Sequence[Sequence[str]]) -> int:
    """Characters in a line of the table as LaTeX prints it, two between columns."""
    cells = [
        [head.name, *(line for row in rows for line in _lines(row[i], head.align))] for i, head in enumerate(heads)
    ]
    widths, total = iter([max(map(len, column)) + 2 for column in cells]), 0
    for group, members in itertools.groupby(heads, key=lambda head: head.group):
        total += max(sum(next(widths) for _ in members), len(group) + 2)
    return total


def escape(text: Any) -> str:
    """Text as LaTeX prints it."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "∞": r"$\infty$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        **{c: "\\" + c for c in "&%$#_{}"},
        "[": "{[}",  # a cell after \\ that begins with [ would be read as its option
    }
    return "".join(special.get(c, c) for c in str(text))


def _groups(heads: Sequence[Head]) -> str:
    """The line of group headings, with a rule below each."""
    cells, rules, at = [], [], 1
    for group, members in itertools.groupby(heads, key=lambda head: head.group):
        count = len(list(members))
        cells += [rf"\multicolumn{{{count}}}{{c}}{{{escape(group)}}}"] if group else [""] * count
        rules += [rf"\cmidrule(lr){{{at}-{at + count - 1}}}"] * bool(group)
        at += count
    return " & ".join(cells) + r" \\" + "\n" + "".join(rules)


def _lines(cell: str, align: str) -> list[str]:
    """A number and its interval, or the difference to it, which stand one above the other."""
    value, space, more = cell.partition(" ")
    return [value, more] if space and align == "r" and more[0] in "[(" else [cell]


def _cell(cell: str, align: str) -> str:
    lines = [escape(line) for line in _lines(cell, align)]
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{lines[0]}\\{lines[1]}\end{{tabular}}"


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
