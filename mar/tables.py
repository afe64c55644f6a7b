"""Tables of the paper with our numbers beside: CSV with everything, Markdown and LaTeX to read.

A table has the columns that the paper's file has (config/paper/<name>.csv), in the order of COLUMNS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mar.config import Study, Table, TableRow
from mar.estimates import Estimate, Results, short
from mar.files import write_text
from mar.paper import paper_rows
from mar.study import speed_settings

if TYPE_CHECKING:
    import pandas as pd

NOT_RUN = "not run"  # declared by the study, not trained
NONE = "-"  # the study has no such number: another system's row, or a setting that the row does not name
FLOOR = "real versus real"


class Column(NamedTuple):
    """A number of a row: our name of it, the metric, whether it is guided, the paper's column and the heading."""

    name: str
    metric: str
    guided: bool
    paper: str
    heading: str


COLUMNS = (
    Column("params", "parameters", False, "params", "parameters"),
    Column("head_params", "head_parameters", False, "head_params", "parameters of the head"),
    Column("rfid", "rfid", False, "rfid", "rFID, train split"),
    Column("fid", "fid", False, "fid_nocfg", "FID, no guidance"),
    Column("is", "inception_score", False, "is_nocfg", "IS, no guidance"),
    Column("precision", "precision", False, "pre_nocfg", "precision, no guidance"),
    Column("recall", "recall", False, "rec_nocfg", "recall, no guidance"),
    Column("fid_guided", "fid", True, "fid_cfg", "FID, guidance"),
    Column("is_guided", "inception_score", True, "is_cfg", "IS, guidance"),
    Column("precision_guided", "precision", True, "pre_cfg", "precision, guidance"),
    Column("recall_guided", "recall", True, "rec_cfg", "recall, guidance"),
    Column("seconds", "seconds", True, "seconds_per_image", "seconds an image"),
)
DIGITS = {"inception_score": 1, "seconds": 3}  # decimals that the paper prints, two of the others
COUNTED = frozenset({"parameters", "head_parameters"})  # the paper prints 479M and 2B
SAMPLED = frozenset({"fid", "inception_score", "precision", "recall"})  # measured on sample sets, so with a floor
NAMES = {  # columns that describe a row of the paper
    "variant": "model",
    "direction": "attention",
    "preds_per_step": "tokens a step",
}


def columns_of(paper: dict[str, dict[str, str]]) -> list[Column]:
    """The numbers that a paper file has, in our order."""
    keys = next(iter(paper.values()))
    return [column for column in COLUMNS if column.paper in keys]


def describing(paper: dict[str, dict[str, str]]) -> list[str]:
    """Columns of a paper file that describe a row: neither our key, nor a number, nor the source."""
    numbers = {column.paper for column in COLUMNS}
    return [key for key in next(iter(paper.values())) if key not in {"row", "source"} | numbers]


def headings(describe: Iterable[str]) -> list[str]:
    """What the describing columns are called above a table."""
    return [NAMES.get(key, key.replace("_", " ")) for key in describe]


def printed(text: str, metric: str) -> str:
    """A number of the paper with the digits that the paper prints; empty where it prints none."""
    return text if not text or metric in COUNTED else f"{float(text):.{DIGITS.get(metric, 2)}f}"


def millions(count: float) -> str:
    """A parameter count as 479M, 1.23M, 0.0456M."""
    return f"{count / 1e6:.0f}M" if count >= 1e8 else f"{short(count / 1e6)}M"


def inputs(study: Study, name: str) -> list[str]:
    """Files under the results folder that a table reads beside the metric files: what its columns ask for."""
    table = _table(study, name)
    asked = {column.name for column in columns_of(paper_rows(table.paper, f"tables.{name}.paper: "))}
    shown = [row.variant for row in table.rows if row.variant and study.variants[row.variant].seeds]
    files = []
    for variant in dict.fromkeys(shown):
        if "rfid" in asked:
            files.append(f"tokenizers/{study.variants[variant].tokenizer}/rfid.json")
        if "params" in asked:
            files.append(f"runs/{variant}/seed{study.variants[variant].seeds[0]}/run.json")
        if "seconds" in asked and speed_settings(study, variant):
            files.append(f"speed/{variant}.json")
    return list(dict.fromkeys(files))


def frame(study: Study, root: Path, name: str, results: Results | None = None) -> pd.DataFrame:
    """One row per row of the study's table, and the real-versus-real floor as the last one.

    Columns: the paper's description of the row, our variant and settings, and for each number of the paper's file ours
    with its interval (value, low, high; "not run" for an untrained variant, "-" where the study has no such number) and
    the paper's. `<column>_minus_paper` is there only where both are on one scale (`Results.comparable`).

    Raises:
        ValueError: the study has no such table, the table names a row that the paper's file lacks, or a metric file
            is missing or stale.
    """
    import pandas as pd

    table = _table(study, name)
    results = results or Results(study, root)
    paper = paper_rows(table.paper, f"tables.{name}.paper: ")
    columns, describe = columns_of(paper), describing(paper)
    lines: list[dict[str, Any]] = []
    for i, row in enumerate(table.rows):
        if row.paper not in paper:
            raise ValueError(f"tables.{name}.rows[{i}].paper: found {row.paper!r}; accepted: {', '.join(paper)}")
        theirs = paper[row.paper]
        line: dict[str, Any] = {"row": row.paper, **{key: theirs[key] for key in describe}}
        line |= {"ours": row.variant or NONE, "setting": row.without or NONE, "setting_guided": row.guided or NONE}
        seeds = study.variants[row.variant].seeds if row.variant else ()
        none = NOT_RUN if row.variant else NONE
        line |= {"seeds": " ".join(map(str, seeds)) or none, "n": study.metrics.samples if seeds else none}
        for column in columns:
            ours = _ours(results, row, column)
            published = printed(theirs[column.paper], column.metric)
            line |= _numbers(column, ours)
            if results.comparable and column.metric not in COUNTED:
                number, gap = theirs[column.paper], f"{column.name}_minus_paper"
                line[gap] = ours.value - float(number) if isinstance(ours, Estimate) and number else ""
            line[f"paper_{column.name}"] = published
        lines.append(line)
    lines.append({"row": FLOOR})
    for column in columns:
        if column.metric in SAMPLED:
            floor = results.floor(column.metric)
            lines[-1] |= _numbers(column, floor) | {"n": floor.n}
    return pd.DataFrame(lines, columns=list(lines[0]), dtype=object).fillna("")


def _ours(results: Results, row: TableRow, column: Column) -> Estimate | str:
    """Our number for a cell, or why there is none."""
    if row.variant is None:
        return NONE
    if not results.study.variants[row.variant].seeds:
        return NOT_RUN
    if column.metric == "parameters":
        return results.parameters(row.variant)
    if column.metric == "head_parameters":
        return results.head_parameters(row.variant) or NONE
    if column.metric == "rfid":
        return results.rfid(row.variant) or NONE
    if column.metric == "seconds":  # of the guided samples where they are timed: the paper's are, by their FID
        timed = (results.seconds(row.variant, s) for s in (row.guided, row.without) if s)
        return next((found for found in timed if found is not None), NONE)
    setting = row.guided if column.guided else row.without
    return (results.cell(row.variant, setting, column.metric) if setting else None) or NONE


def note(study: Study, results: Results) -> str:
    """What the numbers of a table are and what they are not."""
    data = "scikit-learn's handwritten digits" if study.data.kind == "digits" else f"the images of {study.data.path}"
    size, spread = study.data.image_size, results.spread("fid")
    seeds = (
        f"the seed spread that the study measured (log FID: {short(spread.sd)}, {spread.dof} degrees of freedom)"
        if spread.dof
        else "no seed spread, since the study trains no variant twice"
    )
    features = results.extractor if results.extractor != "classifier" else "the study's own classifier"
    return (
        f"Ours: {data} at {size}x{size}, {study.metrics.samples} images a sample set, features and probabilities of "
        f"{features}; the mean over training seeds (geometric for FID) "
        f"with its 95% interval from resampled images and {seeds}. "
        f"{FLOOR.capitalize()}: as many held-out images, drawn with replacement, so rather too high than too low. "
        "The paper: ImageNet, 50,000 images, Inception features. "
        + ("" if results.comparable else "So absolute numbers are not comparable with the paper's; orderings are.")
    ).strip()


def remarks(columns: Iterable[Column]) -> str:
    """What the columns beside the metrics of the samples are, where a table has them."""
    said = {
        "rfid": "rFID: of the reconstructed train split, as the paper's; ours by the features of the other numbers.",
        "params": "Parameters: without the tokenizer.",
        "seconds": "Seconds an image: the median and range of timed batches, by the protocol of the trade-off figure; "
        "the paper's on one A100 with batch 256.",
    }
    return " ".join(said[column.name] for column in columns if column.name in said)


def table(study: Study, root: Path, name: str) -> None:
    """Write tables/<name>.{csv,md,tex}. Reads every metric file of the study: the seed spread is pooled over it."""
    results = Results(study, root)
    values = frame(study, root, name, results)
    title, folder = _table(study, name).title, root / "tables"
    text = f"{note(study, results)} {remarks(shown(values))}".strip()
    write_text(folder / f"{name}.tex", latex(values, title, text))
    write_text(folder / f"{name}.md", markdown(values, title, text))
    write_text(folder / f"{name}.csv", values.to_csv(index=False, lineterminator="\n"))
    print(f"{folder / name}.csv, .md, .tex: {len(values) - 1} rows", flush=True)


def shown(values: pd.DataFrame) -> list[Column]:
    """The numbers that a frame has."""
    return [column for column in COLUMNS if f"paper_{column.name}" in values.columns]


def markdown(values: pd.DataFrame, title: str, text: str) -> str:
    """The table as Markdown: ours with its interval, the paper's beside."""
    describe, columns = _description(values), shown(values)
    head = headings(describe)
    for column in columns:
        head += [column.heading, "paper"]
    lines = [f"### {title}", "", _pipe([*head, "seeds"]), _pipe(["---"] * (len(head) + 1))]
    for _, row in values.iterrows():
        cells = [str(row[key]) for key in describe] if row["row"] != FLOOR else [FLOOR, *[""] * (len(describe) - 1)]
        for column in columns:
            cells += [cell_text(row, column), str(row[f"paper_{column.name}"])]
        lines.append(_pipe([*cells, str(row["seeds"])]))
    return "\n".join([*lines, "", text, ""])


def latex(values: pd.DataFrame, title: str, text: str) -> str:
    """The table as a LaTeX float, sideways if it is wide. Needs booktabs, graphicx and, sideways, rotating."""
    describe, columns = _description(values), shown(values)
    head = headings(describe)
    wide = len(columns) > 6
    kind = "sidewaystable" if wide else "table"
    groups, rules, at = [], [], len(describe) + 1
    for column in columns:
        groups.append(rf"\multicolumn{{2}}{{c}}{{{escape(column.heading)}}}")
        rules.append(rf"\cmidrule(lr){{{at}-{at + 1}}}")
        at += 2
    lines = [
        rf"% \usepackage{{booktabs,graphicx{',rotating' if wide else ''}}}",
        rf"\begin{{{kind}}}",
        r"\centering",
        rf"\caption{{{escape(re.sub(r'^Table [0-9]+: ', '', title))}. {escape(text)}}}",  # LaTeX counts itself
        r"\smallskip",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(describe)}{'rr' * len(columns)}l}}",
        r"\toprule",
        " & ".join([*[""] * len(describe), *groups, ""]) + r" \\",
        "".join(rules),
        " & ".join([*map(escape, head), *["ours", "paper"] * len(columns), "seeds"]) + r" \\",
        r"\midrule",
    ]
    for _, row in values.iterrows():
        floor = row["row"] == FLOOR
        cells = [rf"\multicolumn{{{len(describe)}}}{{l}}{{{FLOOR}}}"] if floor else [escape(row[k]) for k in describe]
        for column in columns:
            cells += [escape(cell_text(row, column)), escape(row[f"paper_{column.name}"])]
        lines += [r"\midrule"] if floor else []
        lines.append(" & ".join([*cells, escape(row["seeds"])]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", rf"\end{{{kind}}}", ""])


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


def cell_text(row: Any, column: Column) -> str:
    """`value [low, high]` of one cell (a count: the value alone), `not run`, or `-`."""
    value = row[column.name]
    if isinstance(value, str):
        return value
    if column.metric in COUNTED:
        return millions(value)
    return f"{short(value)} [{short(row[column.name + '_low'])}, {short(row[column.name + '_high'])}]"


def _description(values: pd.DataFrame) -> list[str]:
    columns = list(values.columns)
    return columns[1 : columns.index("ours")]


def _table(study: Study, name: str) -> Table:
    if name not in study.tables:
        raise ValueError(f"study {study.study}: table {name!r}: not in tables; accepted: {', '.join(study.tables)}")
    return study.tables[name]


def _numbers(column: Column, ours: Estimate | str) -> dict[str, Any]:
    keys = (column.name, f"{column.name}_low", f"{column.name}_high")[: 1 if column.metric in COUNTED else 3]
    if isinstance(ours, str):
        return dict.fromkeys(keys, ours)
    return dict(zip(keys, (ours.value, ours.low, ours.high), strict=False))


def _pipe(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
