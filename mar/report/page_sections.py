"""The sections of the report below the paper's tables and figures: what else a study measured, and what it cost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis import acceptance
from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.report.evidence import commit, file, interval, set_id
from mar.report.tables import fast_modes, variance
from mar.runtime.files import read, read_json
from mar.study import layout
from mar.study.products import speed_settings, swept, table_names
from mar.study.records import RunRecord
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd

JUDGES = {
    "classifier": "the study's classifier",
    "inception": "Inception",
    "dinov2": "DINOv2",
    "clean": "clean-fid",
}


def metrics(study: Study, root: Path, results: Results) -> dict[str, Any]:
    """Every metric of every variant and setting, and of held-out real images."""
    names = results.names
    found = []
    for name, variant in study.variants.items():
        rows = []
        for setting in variant.sampling if variant.seeds else ():
            sampling = results.sampling(name, setting)
            row: dict[str, Any] = {
                "variant": name,
                "setting": setting,
                "id": set_id(name, setting),
                "seeds": variant.seeds,
            }
            row |= {"swept": (name, setting) in swept(study), "sampling": sampling}
            rows.append({**row, "numbers": [str(results.cell(name, setting, m)) for m in names]})
        found += [rows] if rows else []
    arrows = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}", None: ""}
    return {
        "heads": [{"title": title(m), "arrow": arrows[results.higher_is_better(m)]} for m in names],
        "variants": found,
        "floor": [str(results.floor(m)) if m in results.measured else "" for m in names],
        "measured": names,
        "judges": [{"name": name, **judge} for name, judge in results.extractors.items()],
        "notes": results.notes,
        "file": file(root, layout.reference_metrics(root)),
    }


def sweeps(study: Study, root: Path) -> list[dict[str, Any]]:
    """Every swept setting with its whole grid and the point that was chosen."""
    found = []
    for name, setting in swept(study):
        values = read_json(layout.sweep(root, name, setting))
        best = values["best"]
        points = [
            {
                **point,
                "numbers": [interval(point[m]) if m in point else "" for m in ("fid", "inception_score")],
                "error": point.get("error", ""),
                "best": all(point[key] == best[key] for key in ("guidance", "temperature")),
            }
            for point in values["grid"]
        ]
        links = {"id": set_id(name, setting), "file": file(root, layout.sweep(root, name, setting))}
        found.append({"edge": [], **values, **links, "points": points})
    return found


def sources(study: Study, root: Path, results: Results) -> dict[str, Any] | None:
    """What a metric moves with; None where neither training nor sampling seeds show it."""
    if variance.NAME not in table_names(study):
        return None
    about = "How far a metric moves with its images, with the sampling seed and with the training seed."
    return _made(root, variance.NAME, "Sources of error", about, variance.texts(results), variance.note(results))


def fast(study: Study, root: Path, results: Results) -> dict[str, Any] | None:
    """Fast sampling modes, accepted or refused; None where the study names none."""
    if fast_modes.NAME not in table_names(study):
        return None
    found = acceptance.modes(results)
    about = "Each mode against the default, the same weights, labels and noise seeds."
    made = fast_modes.texts(found), fast_modes.note(results, found)
    return _made(root, fast_modes.NAME, fast_modes.TITLE, about, *made)


def _made(root: Path, name: str, title: str, about: str, values: pd.DataFrame, note: str) -> dict[str, Any]:
    """A table that is made of no rows of the paper, with the spans of its groups of columns."""
    groups = [(group, len(list(of))) for group, of in itertools.groupby(values.columns, lambda head: head[0] or head)]
    return {
        "id": name,
        "title": title,
        "about": about,
        "heads": list(values.columns),
        "groups": [(group if isinstance(group, str) else "", n) for group, n in groups],
        "rows": values.to_numpy().tolist(),
        "note": note,
        "files": [file(root, layout.table(root, name, suffix), suffix) for suffix in layout.TABLE_FORMATS],
    }


def tokenizers(study: Study, root: Path) -> list[dict[str, Any]]:
    """What every tokenizer in use loses."""
    rows = []
    for name in dict.fromkeys(v.tokenizer for v in study.variants.values() if v.seeds):
        values = read_json(layout.rfid(root, name))
        numbers = {key: interval(m) for key, m in values["metrics"].items()}
        files = [
            file(root, layout.tokenizer(root, name) / kept) for kept in (layout.RFID, layout.TOKENIZER, layout.WEIGHTS)
        ]
        row = {"name": name, "kind": study.tokenizers[name].kind, "count": values["count"], "metrics": numbers}
        rows.append({**row, "files": [*files, file(root, layout.token_manifest(root, name), "tokens")]})
    return rows


def speed(study: Study, root: Path) -> dict[str, Any]:
    """Timed settings by variant, and the protocols they were timed by with the variants of each."""
    variants = []
    protocols: dict[str, dict[str, Any]] = {}
    for name, variant in study.variants.items():
        if not variant.seeds or not speed_settings(study, name):
            continue
        values = read_json(layout.speed(root, name))
        same = protocols.setdefault(json.dumps(values["protocol"]), {"protocol": values["protocol"], "variants": []})
        same["variants"].append(name)
        variants.append(
            [
                {
                    "variant": name,
                    "setting": setting,
                    "href": f"#{set_id(name, setting)}" if setting in variant.sampling else "",
                    "steps": point["steps"],
                    "seconds": interval({**point, "value": point["seconds_per_image"]}),
                    "share": interval(point["head_share"]) if "head_share" in point else "",
                    "file": file(root, layout.speed(root, name)),
                }
                for setting, point in values["points"].items()
            ]
        )
    return {"variants": variants, "protocols": list(protocols.values())}


def costs(study: Study, variants: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of every training and of the sampling from it."""
    rows = []
    for variant in variants:
        for run in variant["runs"]:
            drawn = [s["seconds"] for x in variant["settings"] for s in x["seeds"] if s["seed"] == run["seed"]]
            sampling = sum(s for s in drawn if s is not None) if any(s is not None for s in drawn) else None
            training = None if "pretrained" in run else run["seconds"] * run.get("processes", 1)
            rows.append({**run, "training": training, "sampling": sampling})
    totals = {key: sum(row[key] or 0 for row in rows) for key in ("training", "sampling")}
    return {"rows": rows, "trainings": sum(row["training"] is not None for row in rows), **totals}


def provenance(study: Study, root: Path, results: Results) -> list[dict[str, Any]]:
    """Distinct conditions that results were made under, and how many files each has."""
    records: list[tuple[str, dict[str, Any]]] = []
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            records.append(("training", read(layout.run_record(root, name, seed), RunRecord).provenance.model_dump()))
            for setting in variant.sampling:
                manifest = layout.sample_manifest(root, layout.sample_set(name, seed, setting))
                records += [("sampling", read_json(manifest)["provenance"])] if manifest.exists() else []
                records.append(("evaluation", results.metrics(name, seed, setting)["provenance"]))
        if variant.seeds and speed_settings(study, name):
            records.append(("timing", read_json(layout.speed(root, name))["provenance"]))
    return _distinct(records)


def _distinct(records: Iterable[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for stage, record in sorted(records, key=lambda r: ("training", "sampling", "evaluation", "timing").index(r[0])):
        same = {key: value for key, value in record.items() if key != "time"}
        entry = found.setdefault(json.dumps([stage, same], sort_keys=True), {"stage": stage, "count": 0, **same})
        entry["count"] += 1
    return [{**entry, "commit": commit(entry)} for entry in found.values()]
