"""The report of a study as one HTML file, and its summary on the terminal."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.config import Study
from mar.curves import ANCHORS
from mar.deviations import deviations
from mar.estimates import Results, short
from mar.files import read_json, sha256, write_text
from mar.study import figure_names, speed_settings
from mar.tables import (
    FLOOR,
    Column,
    cell_text,
    columns_of,
    describing,
    frame,
    headings,
    note,
    paper_lines,
    paper_rows,
    remarks,
    shown,
)

if TYPE_CHECKING:
    from rich.table import Table as RichTable

CAPTIONS = {
    "tradeoff": "FID against measured seconds per image. The paper's Figure 6 is this plot on ImageNet with one A100.",
    "diffusion_steps": "FID and Inception Score against the steps of the reverse process. The paper's Figure 4 is this "
    "plot on ImageNet.",
    "temperature": "FID and Inception Score against the temperature of the head. The paper's Figure 5 is this plot on "
    "ImageNet.",
    "samples": "Samples of the first seed, a row a class, in the guided setting; held-out real images first.",
    "losses": "Training loss. Losses of different heads do not compare.",
}


def report(study: Study, root: Path, figures: Path) -> None:
    """Write report.html: verdicts, tables, figures, deviations, costs and where every number comes from.

    Raises:
        ValueError: a file that it shows is missing; the message names it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    root, results = Path(root), Results(study, root)
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("report.html").render(
        study=study,
        claims=claims(root),
        tables=[{"title": t.title, **_table(study, root, name, results)} for name, t in study.tables.items()],
        note=f"{note(study, results)} {remarks(_columns(study))}".strip(),
        figures=[
            {"name": n, "caption": CAPTIONS[n] + _printed(n), "data": _data_uri(Path(figures) / f"{n}.png")}
            for n in figure_names(study)
        ],
        metrics=_metrics(study, results),
        floor={m: results.floor(m) for m in _measured(results)},
        tokenizers=_tokenizers(study, root),
        deviations=deviations(study),
        runs=_runs(study, root),
        provenance=_provenance(study, root),
        chain=_chain(study, root, results),
    )
    write_text(root / "report.html", html)
    print(f"{root / 'report.html'}: {len(html) / 1e6:.1f} MB", flush=True)


def _columns(study: Study) -> list[Column]:
    """The numbers that any table of the study shows."""
    return list(dict.fromkeys(c for t in study.tables.values() for c in columns_of(paper_rows(t.paper))))


def summary(study: Study, root: Path) -> None:
    """Print every table beside the paper's, the verdict of each claim, where the report is, and the run browser.

    Raises:
        ValueError: the metrics or claims.json are missing.
    """
    from rich.console import Console

    # a terminal says how wide it is; a log file or pipe has no width, and a table cut to 80 columns helps nobody
    console = Console(width=None if os.isatty(1) else 200, highlight=False)
    root, results = Path(root), Results(study, root)
    for name, table in study.tables.items():
        console.print(_rich_table(frame(study, root, name, results), table.title))
    console.print(note(study, results), style="dim")
    console.print()
    console.print(_rich_claims(claims(root)))
    report_file = root / "report.html"
    console.print(f"Report: {report_file}" + ("" if report_file.exists() else " (not written yet)"), soft_wrap=True)
    console.print(f"Runs:   mlflow ui --backend-store-uri sqlite:///{root.parent / 'mlflow.db'}", soft_wrap=True)


def claims(root: Path) -> list[dict[str, Any]]:
    """Content of claims.json, with `shown`: the verdict as it is printed, one seed said."""
    found: list[dict[str, Any]] = read_json(root / "claims.json")
    for claim in found:
        one = claim["verdict"] == "inconclusive" and "inconclusive (1 seed)" in claim["reason"]
        claim["shown"] = claim["verdict"] + (" (1 seed)" if one else "")
    return found


def _table(study: Study, root: Path, name: str, results: Results) -> dict[str, Any]:
    values = frame(study, root, name, results)
    columns, keys = shown(values), describing(paper_rows(study.tables[name].paper))
    rows = []
    for _, row in values.iterrows():
        floor = row["row"] == FLOOR
        cells = [(cell_text(row, c), row[f"paper_{c.name}"]) for c in columns]
        rows.append({"describe": [row[k] for k in keys], "floor": floor, "cells": cells, "seeds": row["seeds"]})
    return {"head": headings(keys), "columns": [c.heading for c in columns], "rows": rows}


def _printed(figure: str) -> str:
    """The points of a figure that the paper prints as numbers, in words."""
    said = []
    for line in paper_lines(ANCHORS):
        pairs = ((line["fid_nocfg"], "without guidance"), (line["fid_cfg"], "with guidance"))
        fid = ", ".join(f"{value} {how}" for value, how in pairs if value)
        if line["figure"] == figure and fid:
            seconds = f", {line['seconds_per_image']} seconds an image" if line["seconds_per_image"] else ""
            said.append(f"{line['label']} at {line['x']} steps: FID {fid}{seconds}")
    return f" The paper prints of it: {'; '.join(said)}." if said else ""


METRICS = ("fid", "inception_score", "precision", "recall", "agreement", "nearest")


def _measured(results: Results) -> tuple[str, ...]:
    """Metrics of every sample set; the nearest training image is not looked for among very many."""
    return tuple(m for m in METRICS if m in results.measured)


def _metrics(study: Study, results: Results) -> list[dict[str, Any]]:
    return [
        {"variant": name, "setting": setting, "numbers": [results.cell(name, setting, m) for m in _measured(results)]}
        for name, variant in study.variants.items()
        if variant.seeds
        for setting in variant.sampling
    ]


def _tokenizers(study: Study, root: Path) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(v.tokenizer for v in study.variants.values() if v.seeds):
        values = read_json(root / "tokenizers" / name / "rfid.json")
        texts = {
            key: f"{short(m['value'])} [{short(m['low'])}, {short(m['high'])}]"
            if m["low"] < m["high"]
            else short(m["value"])
            for key, m in values["metrics"].items()
        }
        rows.append({"name": name, "kind": study.tokenizers[name].kind, "count": values["count"], "metrics": texts})
    return rows


def _runs(study: Study, root: Path) -> list[dict[str, Any]]:
    return [
        read_json(root / "runs" / name / f"seed{seed}" / "run.json")
        for name, variant in study.variants.items()
        for seed in variant.seeds
    ]


def _provenance(study: Study, root: Path) -> list[dict[str, Any]]:
    """Distinct conditions that runs and timings were made under, and how many files each has."""
    found: dict[str, dict[str, Any]] = {}
    records = [("training", run["provenance"]) for run in _runs(study, root)]
    for name, variant in study.variants.items():
        if variant.seeds and speed_settings(study, name):
            records.append(("timing", read_json(root / "speed" / f"{name}.json")["provenance"]))
    for stage, record in records:
        same = {key: value for key, value in record.items() if key != "time"}
        entry = found.setdefault(json.dumps([stage, same], sort_keys=True), {"stage": stage, "count": 0, **same})
        entry["count"] += 1
    return list(found.values())


def _chain(study: Study, root: Path, results: Results) -> list[dict[str, Any]]:
    """Metric file -> samples -> checkpoint of every sample set; `whole`: the hashes agree link by link."""
    rows = []
    for run in _runs(study, root):
        variant, seed = run["variant"], run["seed"]
        for setting in study.variants[variant].sampling:
            inputs = results.metrics(variant, seed, setting)["inputs"]
            manifest = root / "samples" / variant / f"seed{seed}" / setting / "manifest.json"
            # manifests stay when sample chunks of large studies are deleted; without one the middle link is unchecked
            kept = not manifest.exists() or inputs["samples"] == sha256(manifest)
            rows.append(
                {
                    "metrics": results.metric_file(variant, seed, setting).relative_to(root),
                    "samples": inputs["samples"],
                    "checkpoint": inputs["checkpoint"],
                    "tokens": run["tokens"],
                    "commit": run["provenance"]["git_commit"],
                    "whole": kept and inputs["checkpoint"] == run["checkpoint"],
                }
            )
    return rows


def _data_uri(path: Path) -> str:
    if not path.exists():
        raise ValueError(f"{path}: missing; draw it with `mar figure`")
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _rich_table(values: Any, title: str) -> RichTable:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    columns = shown(values)
    apart = "\n" if len(columns) > 4 else " "  # of a number and its interval: many columns are narrow ones
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
            ours = number + (apart + "[" + interval if bracket else "\n" * (len(columns) > 4))
            cells.append(escape(ours) + ("" if floor else f"\n{row[f'paper_{column.name}']}"))
        table.add_row(
            row["row"] + ("" if floor else ("\n\npaper" if len(columns) > 4 else "\npaper")), *cells, row["seeds"]
        )
    return table


def _rich_claims(found: list[dict[str, Any]]) -> RichTable:
    from rich import box
    from rich.table import Table

    colours = {"replicated": "green", "not replicated": "red", "inconclusive": "yellow"}
    table = Table(title="Claims of the paper", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim")
    table.add_column("because")
    for claim in found:
        table.add_row(
            f"[{colours.get(claim['verdict'], 'dim')}]{claim['shown']}[/]",
            claim["text"],
            claim["reason"].replace("[", r"\["),
        )
    return table
