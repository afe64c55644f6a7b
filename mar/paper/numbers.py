"""The paper's numbers, as config/paper/ has them."""

from __future__ import annotations

import csv

from mar.study import layout
from mar.study.compatibility import known
from mar.study.mistakes import Mistakes
from mar.study.sections import Table
from mar.study.study import Study

FOLDER = layout.shipped("paper")


def paper_lines(name: str, where: str = "") -> list[dict[str, str]]:
    """Lines of config/paper/<name>.csv by their column names.

    Raises:
        ValueError: there is no such file, or it has no lines; the message begins with `where`.
    """
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        names = sorted(p.stem for p in FOLDER.glob("*.csv"))
        raise ValueError(f"{where}paper table {name!r}: {path} is missing; accepted: {', '.join(names)}")
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    if not lines:
        raise ValueError(f"{where}{path}: found no rows; accepted: a line of column names and one line per row")
    return lines


def paper_rows(name: str, where: str = "") -> dict[str, dict[str, str]]:
    """Rows of config/paper/<name>.csv by their `row` key, in the paper's order.

    Raises:
        ValueError: there is no such file, or it has no column `row`.
    """
    lines = paper_lines(name, where)
    if "row" not in lines[0]:
        raise ValueError(f"{where}{FOLDER / name}.csv: found columns {', '.join(lines[0])}; accepted: row among them")
    return {line["row"]: line for line in lines}


def table_rows(table: Table, where: str = "") -> dict[str, dict[str, str]]:
    """The rows of the paper that a table of a study may show, and those of its own, of which the paper prints nothing.

    Raises:
        ValueError: as `paper_rows`.
    """
    rows = paper_rows(table.paper, where) if table.paper else {}
    blank = dict.fromkeys(next(iter(rows.values()), {"row": "", "model": "", **dict.fromkeys(_columns(table), "")}), "")
    described = next(key for key in blank if key != "row")
    own = {row.key: blank | {"row": row.key, described: row.label or row.key} for row in table.rows if row.row}
    if twice := own.keys() & rows.keys():
        raise ValueError(f"{where}row {min(twice)}: the paper's table has a row of this key; accepted: another")
    return rows | own


def _columns(table: Table) -> tuple[str, ...]:
    """The columns of a table of the study's own."""
    plain = ("fid_nocfg", "is_nocfg") if any(row.without for row in table.rows) else ()
    guided = ("fid_cfg", "is_cfg") if any(row.guided for row in table.rows) else ()
    return ("params", *plain, *guided, *(("seconds_per_image",) if table.timed else ()))


def printed_rows(table: str) -> dict[str, dict[str, str]]:
    """Rows of a table that a claim names: none of one that is the study's own."""
    return paper_rows(table) if (FOLDER / f"{table}.csv").exists() else {}


def check_rows(study: Study) -> None:
    """Refuse a table of a study with a row that the table of the paper does not have.

    Raises:
        MistakesError: there is no such table or row; the message has the key of the study.
    """
    mistakes = Mistakes()
    for name, table in study.tables.items():
        with mistakes.at("tables", name, "paper"):
            rows = table_rows(table, f"tables.{name}.paper: ")
            for i, row in enumerate(table.rows):
                with mistakes.at("tables", name, "rows", i, "paper"):
                    known(f"tables.{name}.rows[{i}].paper", row.key, rows)
    mistakes.refuse()


def paper_samples() -> int:
    """Number of images in a sample set of the paper; the bias of FID depends on it."""
    (line,) = (line for line in paper_lines("mar_recipe") if (line["section"], line["key"]) == ("metrics", "samples"))
    return int(line["published"])
