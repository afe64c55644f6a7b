"""The table `variance`: how far a metric moves with its images, the sampling seed and the training seed."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.result_files import short
from mar.analysis.seed_variance import Parts, decompose
from mar.report.tables import formats
from mar.study import layout
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd


NAME, TITLE = "variance", "What a metric moves with"


def frame(results: Results) -> pd.DataFrame:
    """One row per metric: standard deviations with intervals, degrees of freedom, coefficients of variation, F test."""
    import pandas as pd

    lines = []
    for parts in (decompose(results, metric) for metric in results.names):
        line: dict[str, Any] = {"metric": parts.metric, "scale": parts.scale, "mean": parts.mean}
        for name in ("images", "sampling", "training"):
            scatter = getattr(parts, name)
            line |= {f"{name}_{key}": value for key, value in asdict(scatter).items()}
            line[f"{name}_cv"] = parts.percent * scatter.sd
        line |= {"retraining_sd": parts.retraining, "retraining_cv": parts.percent * parts.retraining}
        line |= {"training_over_images": parts.times}
        line |= {"sampling_over_bootstrap": parts.ratio, "accepted_low": parts.ratio_low}
        line |= {"accepted_high": parts.ratio_high, "agrees": "" if parts.agrees is None else parts.agrees}
        lines.append({key: "" if isinstance(x, float) and math.isnan(x) else x for key, x in line.items()})
    return pd.DataFrame(lines, dtype=object)


def texts(results: Results) -> pd.DataFrame:
    """The table for readers: coefficients of variation, or the standard deviation where the metric has none."""
    heads = [("", "metric", "l")]
    for group in ("images (bootstrap)", "sampling seeds", "training seeds"):
        heads += [(group, "CV", "r"), (group, "dof", "r")]
    heads += [("", name, "r") for name in ("retraining alone", "training / images", "F", "accepted")]
    heads += [("", "bootstrap", "l")]
    rows = []
    for parts in (decompose(results, metric) for metric in results.names):
        cells = [title(parts.metric)]
        for scatter in (parts.images, parts.sampling, parts.training):
            sd, low, high = (_percent(parts, x) for x in (scatter.sd, scatter.low, scatter.high))
            cells += [f"{sd} [{low}, {high}]" if low else sd, str(scatter.dof)]
        times = "" if math.isnan(parts.times) or not parts.training.dof else short(parts.times)
        cells += [_percent(parts, parts.retraining), times]
        if parts.agrees is None:
            cells += ["", "", "not measured"]
        else:
            direction = "too wide" if parts.ratio < parts.ratio_low else "too narrow"
            cells += [short(parts.ratio), f"{short(parts.ratio_low)} to {short(parts.ratio_high)}"]
            cells.append("agrees" if parts.agrees else direction)
        rows.append(cells)
    return formats.texts(heads, rows)


def _percent(parts: Parts, sd: float) -> str:
    if math.isnan(sd):
        return ""
    return short(sd) if math.isnan(parts.percent) else f"{short(parts.percent * sd)}%"


def note(results: Results) -> str:
    """What the numbers are."""
    n = results.study.metrics.samples
    return (
        f"Sample sets of {n} images, pooled over variants and settings. CV: standard deviation in percent of the value "
        "(FID∞: of FID; KID: the standard deviation itself, in units of FID), where measured with its 95% interval by "
        "chi square, and its degrees of freedom. Images: foreseen by the bootstrap. Sampling seeds: measured, same "
        "weights. Training seeds: measured, other weights and other images; retraining alone: without the images' "
        "part. F: variance over sampling seeds over that of the bootstrap, and where it lies in 95 of 100 cases if the "
        "bootstrap is right."
    )


def table(study: Study, root: Path) -> None:
    """Write tables/variance.{csv,md,tex}."""
    results = Results(study, root)
    values = texts(results)
    formats.write(root, NAME, TITLE, values, note(results), frame(results))
    print(f"{layout.table(root, NAME, 'csv')}, .md, .tex: {len(values)} metrics", flush=True)
