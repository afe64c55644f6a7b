"""The table `metrics`: every metric of every sample set, with its interval, extractor, reference and files."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.paper_columns import FLOOR
from mar.analysis.result_files import Estimate, short
from mar.report.tables import formats
from mar.report.tables.paper_tables import given_text, note
from mar.study import labels, layout
from mar.study.records import FeatureSpread, Metric
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "metrics", "Every sample set"
ARROWS = {True: " ↑", False: " ↓", None: ""}


def table(study: Study, root: Path) -> None:
    """Write tables/metrics.{csv,md,tex}."""
    results = Results(study, root)
    values = texts(results)
    floor = bool(results.measured)
    text = " ".join(filter(None, (note(study, results), given_text(results, study.given), remarks(results))))
    formats.write(root, NAME, TITLE, values, text, frame(results), floor)
    print(f"{layout.table(root, NAME, 'csv')}, .md, .tex: {len(values) - floor} variants and settings", flush=True)


def frame(results: Results) -> pd.DataFrame:
    """One row per metric of each variant and setting, of each of its sample sets alone, of given sets and of the floor.

    The column `interval` names what its interval accounts for: images, or images and training seeds. The paths in
    `files` are relative to the results folder.
    """
    import pandas as pd

    lines = []
    for variant, setting in results.cells:
        for metric in results.names:
            cell, sets = results.cell(variant, setting, metric), results.each(variant, setting, metric)
            assert cell is not None, "cells of untrained variants are left out before"
            accounts_for = "images and training seeds" if results.spread(metric).dof else "images"
            lines.append(_line(results, metric, cell, accounts_for))
            lines += [_line(results, metric, estimate, "images") for estimate in sets] if len(sets) > 1 else []
    for name in results.study.given:
        cells = (results.given_cell(name, metric) for metric in results.names)
        lines += [_line(results, cell.source.metric, cell, "images") for cell in cells if cell and cell.source]
    for metric in results.measured:
        lines.append(_line(results, metric, results.floor(metric), "images") | {"variant": FLOOR})
    return pd.DataFrame(lines, columns=list(lines[0]), dtype=object).fillna("")


def texts(results: Results) -> pd.DataFrame:
    """The table for readers, one row per variant and setting and per given set; the last row is the floor, if any."""
    better = {metric: ARROWS[results.higher_is_better(metric)] for metric in results.names}
    heads = [("", "variant", "l"), ("", "setting", "l"), ("", "guidance", "r"), ("", "temperature", "r")]
    heads += [("", title(metric) + better[metric], "r") for metric in results.names]
    heads += [("", "copies", "r"), ("", "seeds", "l")]
    rows = []
    for variant, setting in results.cells:
        used, swept = results.sampling(variant, setting), results.study.sampling[setting].sweep
        chosen = [f"{x:g}{'*' * bool(swept)}" for x in (used.guidance, used.temperature)]
        numbers = [str(results.cell(variant, setting, metric)) for metric in results.names]
        copied = _copied(results.copied(variant, setting))
        seeds = " ".join(map(str, results.study.variants[variant].seeds))
        rows.append([variant, setting, *chosen, *numbers, copied, seeds])
    for name in results.study.given:
        numbers = [str(results.given_cell(name, metric) or "") for metric in results.names]
        copied = _copied([share] if (share := results.given(name).copied) else [])
        rows.append([labels.given(results.study, name), layout.GIVEN, "", "", *numbers, copied, ""])
    if results.measured:
        floor = [str(results.floor(metric)) if metric in results.measured else "" for metric in results.names]
        copied = _copied([results.floor_copied] if results.floor_copied else [])
        rows.append([FLOOR, "", "", "", *floor, copied, ""])
    return formats.texts(heads, rows)


def _copied(shares: list[Metric]) -> str:
    """Share of copies of training images, the mean over the sample sets of a cell and of the ends of its intervals."""
    if not shares:
        return "not measured"
    value, low, high = (fmean(getattr(share, key) for share in shares) for key in ("value", "low", "high"))
    return f"{value:.0%} [{low:.0%}, {high:.0%}]"


def remarks(results: Results) -> str:
    """Sentences that explain the columns."""
    sentences = ["Arrows: which side is better."]
    sentences.append("Copies: share that copies training images, by the nearest of training and held-out images.")
    sentences += ["FID∞: extrapolated to infinitely many images."] if "fid_infinity" in results.names else []
    if any(sampling.sweep for sampling in results.study.sampling.values()):
        sentences.append("*: chosen by a sweep.")
    weights = [f"{name} {extractor.weights[:12]}" for name, extractor in results.extractors.items()]
    sentences.append(f"Extractors and the checksums of their weights: {', '.join(weights)}.")
    sentences += [spread_text(name, spread) for name, spread in results.feature_spread.items()]
    sentences += [f"{name}: {extractor.note}." for name, extractor in results.extractors.items() if extractor.note]
    sentences += [f"{text}." for text in results.notes]
    return " ".join(sentences)


def spread_text(name: str, spread: FeatureSpread) -> str:
    """How the features of the real images spread by one extractor, as a sentence."""
    return (
        f"{name}: {spread.features} features, effective dimension {short(spread.effective)} over the real images, "
        f"{spread.dead} dead."
    )


def _line(results: Results, metric: str, estimate: Estimate, accounts_for: str) -> dict[str, Any]:
    source, extractor = estimate.source, metric.removeprefix("fid_")
    extractor = extractor if extractor in results.extractors else results.extractor
    used = results.sampling(source.variant, source.setting) if source and source.setting else None
    better, reference = results.higher_is_better(metric), results.extractors[extractor].reference
    return {
        "variant": source.variant if source else "",
        "setting": source.setting if source else "",
        "guidance": used.guidance if used else "",
        "temperature": used.temperature if used else "",
        "swept": bool(source and source.setting and results.study.sampling[source.setting].sweep),
        "sampling_seed": used.seed if used else "",
        "seeds": " ".join(map(str, estimate.seeds)),
        "metric": metric,
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "interval": accounts_for,
        "n": estimate.n,
        "higher_is_better": "" if better is None else better,
        "extractor": extractor,
        "weights": results.extractors[extractor].weights,
        "reference": reference.name,
        "reference_sha256": reference.sha256,
        "files": " ".join(source.files) if source else "metrics/reference.json",
    }
