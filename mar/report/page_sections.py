"""The sections of the page below the paper's tables and figures: what else a study measured, and what it cost."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis import acceptance
from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.result_files import Estimate, duration
from mar.report.evidence import commit, file, given_id, interval, set_id
from mar.report.tables import fast_modes, laws, learning, tasks, variance
from mar.report.tables.all_metrics import spread_text
from mar.runtime.files import read
from mar.runtime.provenance import Provenance
from mar.study import labels, layout
from mar.study.products import speed_settings, swept, table_names, used_tokenizers
from mar.study.records import GpuHoursRecord, RfidRecord, SampleManifest, ShippedRecord, SweepRecord, TimingProtocol
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
    """Every metric of every variant and setting, of sets that others drew, and of held-out real images."""
    names = results.names
    variants = []
    for name, variant in study.variants.items():
        rows = []
        for setting in variant.sampling if variant.seeds else ():
            sampling = results.sampling(name, setting)
            row: dict[str, Any] = {
                "variant": name,
                "label": labels.label(study, name),
                "setting": setting,
                "words": labels.setting(study, name, setting),
                "id": set_id(name, setting),
                "seeds": variant.seeds,
            }
            row |= {"swept": (name, setting) in swept(study), "sampling": sampling}
            rows.append({**row, "numbers": [str(results.cell(name, setting, m)) for m in names]})
        variants += [rows] if rows else []
    arrows = {True: "\N{UPWARDS ARROW}", False: "\N{DOWNWARDS ARROW}", None: ""}
    return {
        "heads": [{"title": title(m), "arrow": arrows[results.higher_is_better(m)]} for m in names],
        "variants": variants,
        "given": [
            {
                "id": given_id(name),
                "label": labels.given(study, name),
                "file": file(root, layout.metrics(root, layout.given_set(name)), "metrics"),
                "numbers": [str(results.given_cell(name, m) or "") for m in names],
            }
            for name in study.given
        ],
        "floor": [str(results.floor(m)) if m in results.measured else "" for m in names],
        "measured": names,
        "judges": [{"name": name, **dict(judge)} for name, judge in results.extractors.items()],
        "notes": [*(spread_text(*entry) for entry in results.feature_spread.items()), *results.notes],
        "file": file(root, layout.reference_metrics(root)),
    }


def sweeps(study: Study, root: Path) -> list[dict[str, Any]]:
    """Every swept setting with all points of its grid and the one that was chosen."""
    records = []
    for name, setting in swept(study):
        record = read(layout.sweep(root, name, setting), SweepRecord)
        best = record.best
        points = [
            {
                **dict(point),
                "numbers": [interval(number) if number else "" for number in (point.fid, point.inception_score)],
                "best": (point.guidance, point.temperature) == (best.guidance, best.temperature),
            }
            for point in record.grid
        ]
        links = {
            "id": set_id(name, setting),
            "of": labels.cell(study, name, setting),
            "file": file(root, layout.sweep(root, name, setting)),
        }
        records.append({**dict(record), **links, "points": points})
    return records


def sources(study: Study, root: Path, results: Results) -> dict[str, Any] | None:
    """The table of variance components; None where the study repeats neither training nor sampling seeds."""
    if variance.NAME not in table_names(study):
        return None
    about = "How far a metric moves with its images, with the sampling seed and with the training seed."
    return _made(root, variance.NAME, "Sources of error", about, variance.texts(results), variance.note(results))


def fast(study: Study, root: Path, results: Results) -> dict[str, Any] | None:
    """Fast sampling modes, accepted or refused; None where the study names none."""
    if fast_modes.NAME not in table_names(study):
        return None
    modes = acceptance.modes(results)
    about = "Each mode against the default, the same weights, labels and noise seeds."
    texts_and_note = fast_modes.texts(modes), fast_modes.note(results, modes)
    return _made(root, fast_modes.NAME, fast_modes.TITLE, about, *texts_and_note)


def learned(study: Study, root: Path, results: Results) -> dict[str, Any] | None:
    """Where each training had its optimum, and whether it was still learning; None where no averages were kept."""
    if learning.NAME not in table_names(study):
        return None
    about = "Where the held-out loss and FID of each variant were lowest, and whether it was still learning at its end."
    return _made(root, learning.NAME, learning.TITLE, about, learning.texts(results), learning.NOTE)


def power_laws(study: Study, root: Path, results: Results) -> dict[str, Any] | None:
    """VAR's power laws; None where the study fits none."""
    if laws.NAME not in table_names(study):
        return None
    about = "How loss and token error fall with model size and training compute, beside the exponents of the paper."
    return _made(root, laws.NAME, laws.TITLE, about, laws.texts(results), laws.NOTE)


def tasks_done(study: Study, root: Path, results: Results) -> dict[str, Any] | None:
    """In-painting, out-painting and class change; None where the study asks for none."""
    if tasks.NAME not in table_names(study):
        return None
    about = "What each model makes of the same held-out images when a part is drawn anew, without training for it."
    return _made(root, tasks.NAME, tasks.TITLE, about, tasks.texts(results), tasks.note(study))


def _made(root: Path, name: str, title: str, about: str, values: pd.DataFrame, note: str) -> dict[str, Any]:
    """The section of a table that has no rows of the paper; `groups`: headings and their counts of columns."""
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
    """The reconstruction metrics of every tokenizer in use."""
    rows = []
    for name in used_tokenizers(study):
        record = read(layout.rfid(root, name), RfidRecord)
        numbers = {key: interval(metric) for key, metric in record.metrics.items()}
        files = [
            file(root, layout.tokenizer(root, name) / file_name)
            for file_name in (layout.RFID, layout.TOKENIZER, layout.WEIGHTS)
        ]
        if (taken := layout.tokenizer(root, name) / layout.SHIPPED).exists():
            files.append(file(root, taken, f"trained before, {read(taken, ShippedRecord).store}"))
        row = {"name": name, "kind": study.instances[name].config.kind, "count": record.count, "metrics": numbers}
        rows.append({**row, "files": [*files, file(root, layout.token_manifest(root, name), "tokens")]})
        for part in record.by_scale[:-1]:  # the last has all scales
            title = f"{name}, first {part.scales} of {len(record.by_scale)} scales"
            numbers = {key: interval(metric) for key, metric in part.metrics.items()}
            rows.append({**row, "name": title, "metrics": numbers, "files": []})
    return rows


def speed(study: Study, root: Path, results: Results) -> dict[str, Any]:
    """Timed settings by variant, and each protocol of timing with the variants that were timed by it."""
    variants = []
    protocols: dict[TimingProtocol, list[str]] = {}
    for name, variant in study.variants.items():
        if not variant.seeds or not speed_settings(study, name):
            continue
        record = results.speed(name)
        protocols.setdefault(record.protocol, []).append(name)
        variants.append(
            [
                {
                    "variant": name,
                    "label": labels.label(study, name),
                    "setting": setting,
                    "words": labels.setting(study, name, setting),
                    "href": f"#{set_id(name, setting)}" if setting in variant.sampling else "",
                    "steps": point.steps,
                    "seconds": duration(Estimate(point.seconds.value, point.seconds.low, point.seconds.high, 0)),
                    "share": interval(point.head_share) if point.head_share else "",
                    "file": file(root, layout.speed(root, name)),
                }
                for setting, point in record.points.items()
            ]
        )
    timed = [{"protocol": protocol, "variants": names} for protocol, names in protocols.items()]
    return {"variants": variants, "protocols": timed}


def costs(study: Study, root: Path, variants: list[dict[str, Any]]) -> dict[str, Any]:
    """Device seconds of every training and of the sampling from it, and GPU hours of each stage on a cluster."""
    rows = []
    for variant in variants:
        for run in variant["runs"]:
            drawn = [s["seconds"] for x in variant["settings"] for s in x["seeds"] if s["seed"] == run["seed"]]
            sampling = sum(s for s in drawn if s is not None) if any(s is not None for s in drawn) else None
            training = None if run["pretrained"] is not None else run["seconds"] * run["processes"]
            rows.append({**run, "label": variant["label"], "training": training, "sampling": sampling})
    totals = {key: sum(row[key] or 0 for row in rows) for key in ("training", "sampling")}
    hours = read(layout.gpu_hours(root), GpuHoursRecord).stages if layout.gpu_hours(root).exists() else {}
    trainings = sum(row["training"] is not None for row in rows)
    return {"rows": rows, "trainings": trainings, "hours": hours, **totals}


def provenance(study: Study, root: Path, results: Results) -> list[dict[str, Any]]:
    """Distinct conditions that results were made under, and how many files each has."""
    records: list[tuple[str, Provenance]] = []
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            records.append(("training", results.run(name, seed).provenance))
            for setting in variant.sampling:
                manifest = layout.sample_manifest(root, layout.sample_set(name, seed, setting))
                if manifest.exists():
                    records.append(("sampling", read(manifest, SampleManifest).provenance))
                records.append(("evaluation", results.metrics(name, seed, setting).provenance))
        if variant.seeds and speed_settings(study, name):
            records.append(("timing", results.speed(name).provenance))
    records += [("evaluation", results.given(name).provenance) for name in study.given]
    return _distinct(records)


def _distinct(records: Iterable[tuple[str, Provenance]]) -> list[dict[str, Any]]:
    stages = ("training", "sampling", "evaluation", "timing")
    timeless = ((stage, provenance.model_copy(update={"time": ""})) for stage, provenance in records)
    counts = Counter(sorted(timeless, key=lambda record: stages.index(record[0])))
    return [
        {"stage": stage, "count": count, **dict(provenance), "commit": commit(provenance)}
        for (stage, provenance), count in counts.items()
    ]
