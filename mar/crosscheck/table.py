"""The court's table and its reasons: on the terminal, as CSV and as Markdown."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from mar.crosscheck.evaluators import METRICS, Evaluator
from mar.crosscheck.reasons import Difference
from mar.runtime.files import write_text

# Heads of the columns of metrics.
TITLES = {
    "fid": "FID",
    "sfid": "sFID",
    "inception_score": "IS",
    "precision": "precision",
    "recall": "recall",
    "kid": "KID",
}
NONE = "-"
NUMBERS = {*TITLES.values(), "images", "ours", "theirs", "left"}  # columns that are aligned right and do not wrap

Row = dict[str, str]


def rows(judged: list[tuple[Evaluator, dict[str, float | None]]], count: int, network: str) -> list[Row]:
    """One row for each evaluator: its metrics and its conventions."""
    return [
        {"evaluator": evaluator.name}
        | {TITLES[metric]: _number(values.get(metric)) for metric in METRICS}
        | {"images": str(count), "network": network, "resize": evaluator.resize, "real side of FID": evaluator.real}
        | {"IS splits": evaluator.splits, "precision and recall": evaluator.precision_recall}
        for evaluator, values in judged
    ]


def reasons(differences: list[Difference]) -> list[Row]:
    """One row for each metric of another evaluator: the steps from our value to its, and what remains after them."""
    return [
        {"evaluator": x.evaluator, "metric": TITLES[x.metric], "ours": _number(x.ours), "theirs": _number(x.theirs)}
        | {"ours switched to their conventions": _chain(x), "left": f"{x.remaining:.1g}", "from": _rest(x)}
        for x in differences
    ]


def _chain(difference: Difference) -> str:
    if not difference.steps:
        return "equal as it is" if difference.explained else NONE
    return "; ".join(f"{convention}: {_number(value)}" for convention, value in difference.steps)


def _rest(difference: Difference) -> str:
    if not difference.explained:
        return "NOT ACCOUNTED FOR"
    return difference.cause if difference.remaining else NONE


def show(title: str, table: list[Row], wide: int, first: int = 0) -> None:
    """Print a table; on a terminal narrower than `wide` characters in two parts, the first with `first` + 1 columns."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(width=wide, markup=False, emoji=False)
    heads = list(table[0])
    parts = [heads] if console.width >= wide or not first else [heads[: first + 1], [heads[0], *heads[first + 1 :]]]
    for part in parts:
        lines = console.width < wide and part is parts[-1]  # cells that wrap
        shown = Table(title=title if part is parts[0] else None, title_justify="left", show_lines=lines)
        for head in part:
            number = head in NUMBERS
            shown.add_column(head, justify="right" if number else "left", no_wrap=number)
        for row in table:
            shown.add_row(*(row[head] for head in part))
        console.print(shown)


def write(out: Path, title: str, table: list[Row], why: list[Row], notes: list[str]) -> None:
    """Write court.csv, court-reasons.csv and court.md into a folder."""
    import pandas as pd

    for name, lines in (("court", table), ("court-reasons", why)):
        values = pd.DataFrame(lines, columns=list(lines[0]) if lines else ["evaluator"])
        write_text(out / f"{name}.csv", values.to_csv(index=False, lineterminator="\r\n"))
    parts = [f"# {title}", _markdown(table), "## Why they differ", _markdown(why), "\n".join(f"- {x}" for x in notes)]
    write_text(out / "court.md", "\n\n".join(part for part in parts if part) + "\n")


def _markdown(table: list[Row]) -> str:
    import pandas as pd

    values = pd.DataFrame(table).map(lambda cell: cell.replace("|", r"\|"))
    return values.to_markdown(index=False, disable_numparse=True)


def _number(value: Any) -> str:
    return NONE if value is None or not math.isfinite(value) else f"{value:.6g}"
