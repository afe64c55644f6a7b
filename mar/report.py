"""The report of a study as one HTML file, and its summary on the terminal."""

from __future__ import annotations

import base64
import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from mar.config import Study
from mar.estimates import Results, short
from mar.files import read_json, sha256, write_text
from mar.tables import COLUMNS, FLOOR, HEADINGS, NAMES, PAPER, cell_text, describing, frame, note, paper_rows

if TYPE_CHECKING:
    from rich.table import Table as RichTable

FIGURES = ("tradeoff", "samples", "losses")
CAPTIONS = {
    "tradeoff": "FID against measured seconds per image. The paper's Figure 6 is this plot on ImageNet with one A100.",
    "samples": "Samples of the first seed, a row a class, in the guided setting; held-out real images first.",
    "losses": "Training loss. Losses of different heads do not compare.",
}
WHY = {  # reasons for departures from the published recipe
    ("backbones", "dropout"): "A trial without dropout was no worse; its own effect was not measured.",
    ("recipes", "mask_ratio_min"): "Of a short sequence, a ratio of 0.7 or more shows the model a handful of tokens in "
    "training, while sampling shows it all but one.",
    ("sampling", "clamp"): "With the cosine schedule alpha_bar is 2.4e-9 at t = 999, so the first reverse step divides "
    "the error of the predicted noise by sqrt(alpha_bar), 5e-5: a briefly trained denoiser throws x0 far off. Holding "
    "x0 within a few standard deviations stops that; the published code does not clamp.",
    ("sampling", "diffusion_steps"): "Fewer reverse steps, for speed.",
    ("recipes", "base_learning_rate"): "A small model that trains briefly takes a higher rate.",
    ("sampling", "guidance, temperature"): "A sweep for each variant would cost more samples than the study itself.",
    ("recipes", "ema"): "A decay of 0.9999 averages over about 10,000 steps, more than this run has.",
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
        note=note(study, results),
        figures=[
            {"name": n, "caption": CAPTIONS[n], "data": _data_uri(Path(figures) / f"{n}.png")}
            for n in FIGURES
            if n != "tradeoff" or study.tradeoff
        ],
        metrics=_metrics(study, results),
        floor={m: results.floor(m) for m in ("fid", "inception_score", "precision", "recall", "agreement", "nearest")},
        tokenizers=_tokenizers(study, root),
        deviations=deviations(study),
        runs=_runs(study, root),
        provenance=_provenance(study, root),
        chain=_chain(study, root, results),
    )
    write_text(root / "report.html", html)
    print(f"{root / 'report.html'}: {len(html) / 1e6:.1f} MB", flush=True)


def summary(study: Study, root: Path) -> None:
    """Print every table beside the paper's, the verdict of each claim, where the report is, and the run browser.

    Raises:
        ValueError: the metrics or claims.json are missing.
    """
    from rich.console import Console

    # a terminal says how wide it is; a log file or pipe has no width, and a table cut to 80 columns helps nobody
    console = Console(width=None if os.isatty(1) else 140, highlight=False)
    root, results = Path(root), Results(study, root)
    for name, table in study.tables.items():
        console.print(_rich_table(study, frame(study, root, name, results), table.title, table.paper))
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


def deviations(study: Study) -> list[dict[str, str]]:
    """Where the trained variants depart from config/paper/mar_recipe.csv: key, ours, published, source, why."""
    digits = study.data.kind == "digits"
    ours = "scikit-learn's handwritten digits" if digits else f"images under {study.data.path}"
    found = [
        _departure("data", "data set", ours, "ImageNet", "MAR paper", ""),
        _departure(
            "metrics", "feature extractor", "the study's own classifier", "Inception", "MAR paper",
            "It knows the study's images; FID and Inception Score are on its scale, not on Inception's.",
        ),
    ]  # fmt: skip
    used = _used(study)
    with open(PAPER / "mar_recipe.csv", newline="") as file:
        for row in csv.DictReader(file):
            section, key = row["section"], row["key"]
            differing: dict[str, list[str]] = {}
            for name, part in used[section].items():
                value = _plain(part, key)
                if value is not None and not _same(value, row["published"]):
                    differing.setdefault(value, []).append(name)
            for value, names in differing.items():
                where = f"{section}: {', '.join(n for n in names if n)}" if any(names) else section
                why = WHY.get((section, key), "")
                found.append(_departure(where, key, value, row["published"], row["source"], why))
    settings = [study.sampling[name] for name in used["sampling"]]
    scales = sorted({s.guidance for s in settings if s.guidance > 1})
    if scales:
        heat = sorted({s.temperature for s in settings})
        shown = f"{', '.join(f'{s:g}' for s in scales)} and {', '.join(f'{t:g}' for t in heat)}, not swept"
        key = "guidance, temperature"
        found.append(
            _departure("sampling", key, shown, "swept per model", "MAR paper, Appendix B", WHY["sampling", key])
        )
    return found


def _departure(where: str, key: str, ours: str, published: str, source: str, why: str) -> dict[str, str]:
    return {"where": where, "key": key, "ours": ours, "published": published, "source": source, "why": why}


def _used(study: Study) -> dict[str, Mapping[str, BaseModel]]:
    """Parts of the study that a trained variant uses, by section and name."""
    trained = [v for v in study.variants.values() if v.seeds]
    return {
        "data": {"": study.data},
        "tokenizers": {v.tokenizer: study.tokenizers[v.tokenizer] for v in trained},
        "backbones": {v.backbone: study.backbones[v.backbone] for v in trained},
        "heads": {v.head: study.heads[v.head] for v in trained if study.heads[v.head].kind == "diffusion"},
        "recipes": {v.recipe: study.recipes[v.recipe] for v in trained},
        "sampling": {s: study.sampling[s] for v in trained for s in v.sampling},
        "metrics": {"": study.metrics},
        "speed": {"": study.speed},
    }


def _plain(part: BaseModel, key: str) -> str | None:
    value = getattr(part, key)
    if value is None:
        return None  # the key does not apply, or is off as published
    return (
        ", ".join(f"{v:g}" for v in value)
        if isinstance(value, tuple)
        else f"{value:.10g}"
        if _number(value)
        else str(value)
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(ours: str, published: str) -> bool:
    try:
        return float(ours) == float(published)
    except ValueError:
        return ours == published


def _table(study: Study, root: Path, name: str, results: Results) -> dict[str, Any]:
    values = frame(study, root, name, results)
    keys = describing(paper_rows(study.tables[name].paper))
    rows = []
    for _, row in values.iterrows():
        floor = row["row"] == FLOOR
        cells = [(cell_text(row, c), row[f"paper_{c}"]) for c, *_ in COLUMNS]
        rows.append({"describe": [row[k] for k in keys], "floor": floor, "cells": cells, "seeds": row["seeds"]})
    return {"head": [NAMES.get(k, k) for k in keys], "columns": [HEADINGS[c] for c, *_ in COLUMNS], "rows": rows}


def _metrics(study: Study, results: Results) -> list[dict[str, Any]]:
    names = ("fid", "inception_score", "precision", "recall", "agreement", "nearest")
    return [
        {"variant": name, "setting": setting, "numbers": [results.cell(name, setting, m) for m in names]}
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
        if variant.seeds and any(c.variant == name for c in study.tradeoff):
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


def _rich_table(study: Study, values: Any, title: str, paper: str) -> RichTable:
    from rich import box
    from rich.table import Table

    table = Table(
        title=f"{title}  (first line ours, second line the paper's)", box=box.SIMPLE_HEAD, title_justify="left"
    )
    table.add_column("row", no_wrap=True)
    for column, *_ in COLUMNS:
        table.add_column(HEADINGS[column], no_wrap=True)
    table.add_column("seeds", no_wrap=True)
    for _, row in values.iterrows():
        theirs = "" if row["row"] == FLOOR else "\npaper"
        cells = [cell_text(row, c) + ("" if row["row"] == FLOOR else f"\n{row['paper_' + c]}") for c, *_ in COLUMNS]
        table.add_row(row["row"] + theirs, *cells, str(row["seeds"]))
    return table


def _rich_claims(found: list[dict[str, Any]]) -> RichTable:
    from rich import box
    from rich.table import Table

    colours = {"replicated": "green", "not replicated": "red", "inconclusive": "yellow", "not run": "dim"}
    table = Table(title="Claims of the paper", box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("verdict", no_wrap=True)
    table.add_column("claim")
    table.add_column("because")
    for claim in found:
        table.add_row(
            f"[{colours[claim['verdict']]}]{claim['shown']}[/]", claim["text"], claim["reason"].replace("[", r"\[")
        )
    return table
