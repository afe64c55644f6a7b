"""Tables of the paper with our numbers beside: CSV with everything, Markdown and LaTeX to read."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.config import Study, Table
from mar.estimates import Estimate, Results, short
from mar.files import write_text

if TYPE_CHECKING:
    import pandas as pd

PAPER = Path(__file__).resolve().parent.parent / "config" / "paper"
NOT_RUN = "not run"
FLOOR = "real versus real"

# our column, metric, guided?, the paper's column
COLUMNS = (
    ("fid", "fid", False, "fid_nocfg"),
    ("is", "inception_score", False, "is_nocfg"),
    ("fid_guided", "fid", True, "fid_cfg"),
    ("is_guided", "inception_score", True, "is_cfg"),
)
HEADINGS = {
    "fid": "FID, no guidance",
    "is": "IS, no guidance",
    "fid_guided": "FID, guidance",
    "is_guided": "IS, guidance",
}
NAMES = {  # columns that describe a row of the paper
    "variant": "model",
    "direction": "attention",
    "preds_per_step": "tokens a step",
}


def paper_rows(name: str, where: str = "") -> dict[str, dict[str, str]]:
    """Rows of config/paper/<name>.csv by their `row` key, in the paper's order.

    Raises:
        ValueError: there is no such file; `where` says who asked for it.
    """
    path = PAPER / f"{name}.csv"
    if not path.exists():
        known = sorted(p.stem for p in PAPER.glob("*.csv"))
        raise ValueError(f"{where}paper table {name!r}: {path} is missing; accepted: {', '.join(known)}")
    with open(path, newline="") as file:
        return {row["row"]: row for row in csv.DictReader(file)}


def printed(text: str, metric: str) -> str:
    """A number of the paper with the digits that the paper prints: FID two, Inception Score one."""
    return f"{float(text):.{2 if metric == 'fid' else 1}f}" if text else ""


def frame(study: Study, root: Path, name: str, results: Results | None = None) -> pd.DataFrame:
    """One row per row of the study's table, and the real-versus-real floor as the last one.

    Columns: the paper's description of the row, our variant and settings, and for FID and Inception Score without and
    with guidance ours (value, low, high: text "not run" for an untrained variant) and the paper's.

    Raises:
        ValueError: the study has no such table, the table names a row that the paper's file lacks, or a metric file
            is missing or stale.
    """
    import pandas as pd

    table = _table(study, name)
    results = results or Results(study, root)
    paper = paper_rows(table.paper, f"tables.{name}.paper: ")
    describe = describing(paper)
    lines: list[dict[str, Any]] = []
    for i, row in enumerate(table.rows):
        if row.paper not in paper:
            raise ValueError(f"tables.{name}.rows[{i}].paper: found {row.paper!r}; accepted: {', '.join(paper)}")
        theirs = paper[row.paper]
        line: dict[str, Any] = {"row": row.paper, **{key: theirs[key] for key in describe}}
        line |= {"ours": row.variant, "setting": row.without, "setting_guided": row.guided}
        seeds = study.variants[row.variant].seeds
        line |= {"seeds": " ".join(map(str, seeds)) or NOT_RUN, "n": study.metrics.samples if seeds else NOT_RUN}
        for column, metric, guided, published in COLUMNS:
            ours = results.cell(row.variant, row.guided if guided else row.without, metric)
            line |= _numbers(column, ours) | {f"paper_{column}": printed(theirs[published], metric)}
        lines.append(line)
    lines.append({"row": FLOOR, "n": results.floor("fid").n})
    for column, metric, _, _ in COLUMNS:
        lines[-1] |= _numbers(column, results.floor(metric))
    return pd.DataFrame(lines, columns=list(lines[0])).fillna("")


def describing(paper: dict[str, dict[str, str]]) -> list[str]:
    """Columns of a paper file that describe a row: neither our key, nor a number, nor the source."""
    numbers = {published for *_, published in COLUMNS}
    return [key for key in next(iter(paper.values())) if key not in {"row", "source"} | numbers]


def note(study: Study, results: Results) -> str:
    """What the numbers of a FID table are and what they are not."""
    data = "scikit-learn's handwritten digits" if study.data.kind == "digits" else f"the images of {study.data.path}"
    size, spread = study.data.image_size, results.spread("fid")
    seeds = (
        f"the seed spread that the study measured (log FID: {short(spread.sd)}, {spread.dof} degrees of freedom)"
        if spread.dof
        else "no seed spread, since the study trains no variant twice"
    )
    return (
        f"Ours: {data} at {size}x{size}, {study.metrics.samples} images a sample set, features and probabilities of "
        "the study's own classifier; the mean over training seeds (geometric for FID) "
        f"with its 95% interval from resampled images and {seeds}. "
        f"{FLOOR.capitalize()}: as many held-out images, drawn with replacement, so rather too high than too low. "
        "The paper: ImageNet 256x256, 50,000 images, Inception features. "
        "So absolute numbers are not comparable with the paper's; orderings are."
    )


def table(study: Study, root: Path, name: str) -> None:
    """Write tables/<name>.{csv,md,tex}. Reads every metric file of the study: the seed spread is pooled over it."""
    results = Results(study, root)
    values = frame(study, root, name, results)
    title, text, folder = _table(study, name).title, note(study, results), root / "tables"
    write_text(folder / f"{name}.tex", latex(values, title, text))
    write_text(folder / f"{name}.md", markdown(values, title, text))
    write_text(folder / f"{name}.csv", values.to_csv(index=False, lineterminator="\n"))
    print(f"{folder / name}.csv, .md, .tex: {len(values) - 1} rows", flush=True)


def markdown(values: pd.DataFrame, title: str, text: str) -> str:
    """The table as Markdown: ours with its interval, the paper's beside."""
    describe = _description(values)
    head = [NAMES.get(key, key) for key in describe]
    for column, _, _, _ in COLUMNS:
        head += [HEADINGS[column], "paper"]
    lines = [f"### {title}", "", _pipe([*head, "seeds"]), _pipe(["---"] * (len(head) + 1))]
    for _, row in values.iterrows():
        cells = [str(row[key]) for key in describe] if row["row"] != FLOOR else [FLOOR, *[""] * (len(describe) - 1)]
        for column, _, _, _ in COLUMNS:
            cells += [cell_text(row, column), str(row[f"paper_{column}"])]
        lines.append(_pipe([*cells, str(row["seeds"])]))
    return "\n".join([*lines, "", text, ""])


def latex(values: pd.DataFrame, title: str, text: str) -> str:
    """The table as a LaTeX float. Needs booktabs and graphicx, nothing else."""
    describe = _description(values)
    head = [NAMES.get(key, key) for key in describe]
    groups, rules, at = [], [], len(describe) + 1
    for column, _, _, _ in COLUMNS:
        groups.append(rf"\multicolumn{{2}}{{c}}{{{escape(HEADINGS[column])}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + 1}}}")
        at += 2
    lines = [
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(re.sub(r'^Table [0-9]+: ', '', title))}. {escape(text)}}}",  # LaTeX counts itself
        r"\smallskip",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(describe)}{'rr' * len(COLUMNS)}l}}",
        r"\toprule",
        " & ".join([*[""] * len(describe), *groups, ""]) + r" \\",
        "".join(rules),
        " & ".join([*map(escape, head), *["ours", "paper"] * len(COLUMNS), "seeds"]) + r" \\",
        r"\midrule",
    ]
    for _, row in values.iterrows():
        floor = row["row"] == FLOOR
        cells = [rf"\multicolumn{{{len(describe)}}}{{l}}{{{FLOOR}}}"] if floor else [escape(row[k]) for k in describe]
        for column, _, _, _ in COLUMNS:
            cells += [escape(cell_text(row, column)), escape(row[f"paper_{column}"])]
        lines += [r"\midrule"] if floor else []
        lines.append(" & ".join([*cells, escape(row["seeds"])]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def escape(text: Any) -> str:
    """Text as LaTeX prints it."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        **{c: "\\" + c for c in "&%$#_{}"},
        "[": "{[}",  # a cell after \\ that begins with [ would be read as its option
    }
    return "".join(special.get(c, c) for c in str(text))


def cell_text(row: Any, column: str) -> str:
    """`value [low, high]` of one cell, or `not run`."""
    value = row[column]
    if value == NOT_RUN:
        return NOT_RUN
    return f"{short(value)} [{short(row[column + '_low'])}, {short(row[column + '_high'])}]"


def _description(values: pd.DataFrame) -> list[str]:
    columns = list(values.columns)
    return columns[1 : columns.index("ours")]


def _table(study: Study, name: str) -> Table:
    if name not in study.tables:
        raise ValueError(f"study {study.study}: table {name!r}: not in tables; accepted: {', '.join(study.tables)}")
    return study.tables[name]


def _numbers(column: str, estimate: Estimate | None) -> dict[str, Any]:
    keys = (column, f"{column}_low", f"{column}_high")
    if estimate is None:
        return dict.fromkeys(keys, NOT_RUN)
    return dict(zip(keys, (estimate.value, estimate.low, estimate.high), strict=True))


def _pipe(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
