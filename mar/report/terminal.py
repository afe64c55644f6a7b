"""The summary of a study on the terminal: tables beside the paper's, verdicts, and where to look further."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.paper_columns import FLOOR
from mar.analysis.tally import tally
from mar.analysis.warnings import warnings
from mar.report.evidence import server_of
from mar.report.page import by_extractor, claims
from mar.report.tables.paper_tables import cell_text, frame, note, shown
from mar.study import layout
from mar.study.records import Verdict
from mar.study.study import Study

if TYPE_CHECKING:
    from rich.table import Table


def summary(study: Study, root: Path) -> None:
    """Print warnings, tables beside the paper's, verdicts, and where the report and the browser of runs are.

    Raises:
        ValueError: the metrics or claims.json are missing.
    """
    from rich.console import Console

    # A terminal has a width. A log file or pipe has none, and rich would cut tables to 80 columns there.
    console = Console(width=None if os.isatty(1) else 200, highlight=False, markup=False, emoji=False)
    root, results = Path(root), Results(study, root)
    for warning in warnings(results):
        console.print(f"Warning: {warning.text}", style="yellow", soft_wrap=True)
    for name, table in study.tables.items():
        console.print(_rich_table(frame(study, root, name, results), table.title))
    console.print(note(study, results), style="dim")
    console.print()
    verdicts = claims(root)
    console.print(_rich_claims(verdicts))
    for sentence in tally(verdicts):
        console.print(sentence, soft_wrap=True)
    report_file = layout.report(root)
    console.print(f"Report: {report_file}" + ("" if report_file.exists() else " (not written yet)"), soft_wrap=True)
    runs = server_of(root) or f"mlflow ui --backend-store-uri sqlite:///{layout.mlflow_database(root)}"
    console.print(f"Runs:   {runs}", soft_wrap=True)


def _rich_table(values: Any, title: str) -> Table:
    from rich import box
    from rich.table import Table

    columns = shown(values)
    separator = "\n" if len(columns) > 4 else " "  # many columns are narrow: the interval goes below its number
    lines = "number, interval and the paper's" if len(columns) > 4 else "first line ours, second line the paper's"
    table = Table(title=f"{title}  ({lines})", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("row", no_wrap=True)
    for column in columns:
        table.add_column(column.heading, no_wrap=len(columns) <= 4)
    table.add_column("seeds", no_wrap=True)
    for _, row in values.iterrows():
        floor, cells = row["row"] == FLOOR, []
        for column in columns:
            number, bracket, interval = cell_text(row, column).partition(" [")
            ours = number + (separator + "[" + interval if bracket else "\n" * (len(columns) > 4))
            cells.append(ours + ("" if floor else f"\n{row[f'paper_{column.name}']}"))
        table.add_row(
            row["row"] + ("" if floor else ("\n\npaper" if len(columns) > 4 else "\npaper")), *cells, row["seeds"]
        )
    return table


def _rich_claims(verdicts: tuple[Verdict, ...]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    colours = {"replicated": "green", "not replicated": "red", "undecided": "yellow"}
    table = Table(title="Claims of the paper", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim")
    table.add_column("because")
    for claim in verdicts:
        table.add_row(
            Text(claim.shown, style=colours.get(claim.verdict, "dim")),
            claim.text,
            "\n".join([claim.reason, *map(by_extractor, claim.extractors)]),
        )
    return table
