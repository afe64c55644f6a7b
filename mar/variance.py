"""The table `variance`: how far a metric moves with its images, with the sampling seed and with the training seed.

*Images.* The bootstrap standard error of the metric files, b in `mar/estimates.py`: root mean square over all sample
sets. Its degrees of freedom are the resamples behind it.

*Sampling seeds.* Sample sets of one training that differ in the sampling seed alone: their sample variance, pooled.
Another sampling seed draws other images, so this is what the bootstrap means to foresee. The check is
F = (variance over sampling seeds) / (mean b^2 of the same sets), which is a chi^2 over its degrees of freedom if the
bootstrap is right, and agrees where F is within the 2.5% and 97.5% quantiles of that. Settings of one training share
the noise they are drawn with, so they add precision but no degrees of freedom: a training with m sampling seeds has
m - 1.

*Training seeds.* The scatter over training seeds, pooled as in `mar/estimates.py`, and what is left of it without the
images' part (tau there), which is what retraining alone moves.

All are on the metric's scale of `mar/estimates.py`. The coefficient of variation is 100 times the standard deviation on
the log scale; where a metric is compared by difference, the standard deviation in percent of the mean over all sample
sets; of FID at infinitely many images in percent of FID; of KID, which is around zero for a good model, there is none.
"The FID Lottery" (arXiv:2606.20536) finds 1% to 2% over training seeds on ImageNet 256x256, 3.2 times what resampling
moves.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, variance
from typing import TYPE_CHECKING, Any

from mar.config import Study
from mar.estimates import Results, Sets
from mar.files import write_text
from mar.results import SIGNED, by_ratio, short, title
from mar.slices import replicas
from mar.typeset import Head, latex, markdown

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "variance", "What a metric moves with"


@dataclass(frozen=True)
class Scatter:
    """A standard deviation on the metric's scale, if measured with its 95% interval by chi^2; nan: there is none."""

    sd: float
    low: float
    high: float
    dof: int


@dataclass(frozen=True)
class Parts:
    """The sources of one metric's scatter. `ratio`: variance over sampling seeds over that of the bootstrap."""

    metric: str
    scale: str
    mean: float
    percent: float  # of a standard deviation of 1, as coefficient of variation; nan: there is none
    images: Scatter
    sampling: Scatter
    training: Scatter
    retraining: float  # of `training`, what the images do not explain, as a standard deviation
    ratio: float
    ratio_low: float
    ratio_high: float

    @property
    def agrees(self) -> bool | None:
        """Whether the bootstrap foresees what sampling seeds do; None where they are not measured."""
        return None if math.isnan(self.ratio) else self.ratio_low <= self.ratio <= self.ratio_high

    @property
    def times(self) -> float:
        """How much more another training seed moves the metric than other images do."""
        return self.training.sd / self.images.sd if self.images.sd else math.nan


def decompose(results: Results, metric: str) -> Parts:
    """The sources of a metric's scatter (module docstring). Needs one trained variant."""
    found = [s for cell in results.cells if (s := results.sets(*cell, metric)) is not None]
    y = [value for s in found for value in s.y]
    noise = [b / s.unit**2 for s in found for b in s.noise]
    mean = math.exp(fmean(y)) if by_ratio(metric) else fmean(y)
    again, foreseen, dof = _sampling(results, metric)
    spread = results.spread(metric)
    low, high = _range(dof)
    if by_ratio(metric) or metric == "fid_infinity":
        percent = 100.0
    else:
        percent = 100.0 / mean if min(y) > 0 and metric != "kid" else math.nan
    return Parts(
        metric,
        "log" if by_ratio(metric) else "difference" + ", in units of FID" * (metric in SIGNED),
        mean,
        percent,
        Scatter(math.sqrt(fmean(noise)), math.nan, math.nan, len(noise) * (results.study.metrics.bootstrap - 1)),
        _scatter(again, dof),
        _scatter(spread.scatter**2, spread.dof),
        spread.sd if spread.dof else math.nan,
        again / foreseen if dof and foreseen else math.nan,
        low,
        high,
    )


def _sampling(results: Results, metric: str) -> tuple[float, float, int]:
    """Variance over sampling seeds, mean b^2 of the same sets, degrees of freedom."""
    scatter, noise, dof = 0.0, 0.0, 0
    for name, variant in results.study.variants.items():
        groups = _groups(results, name, metric) if variant.seeds else []
        for k in range(len(variant.seeds) if groups else 0):
            # a group has so many sampling seeds: its variance weighs that less one
            weights = [len(group) - 1 for group in groups]
            rows = [[s.y[k] / s.unit for s in group] for group in groups]
            own = [fmean(s.noise[k] / s.unit**2 for s in group) for group in groups]
            free = max(weights)
            pairs = zip(weights, rows, strict=True)
            scatter += free * sum(w * variance(row) for w, row in pairs) / sum(weights)
            noise += free * sum(w * b for w, b in zip(weights, own, strict=True)) / sum(weights)
            dof += free
    return (scatter / dof, noise / dof, dof) if dof else (math.nan, math.nan, 0)


def _groups(results: Results, variant: str, metric: str) -> list[list[Sets]]:
    """Sample sets that differ in the sampling seed alone: also not in what a sweep of each has chosen."""
    found = []
    for group in replicas(results.study, variant):
        alike: dict[tuple[float, float], list[Sets]] = {}
        for setting in group if len(group) > 1 else ():
            used, sets = results.sampling(variant, setting), results.sets(variant, setting, metric)
            if sets is not None:
                alike.setdefault((used.guidance, used.temperature), []).append(sets)
        found += [sets for sets in alike.values() if len(sets) > 1]
    return found


def _range(dof: int) -> tuple[float, float]:
    """Within which chi^2 over its degrees of freedom is in 95 of 100 cases."""
    from scipy.stats import chi2

    return (float(chi2.ppf(0.025, dof)) / dof, float(chi2.ppf(0.975, dof)) / dof) if dof else (math.nan, math.nan)


def _scatter(found: float, dof: int) -> Scatter:
    if not dof:
        return Scatter(math.nan, math.nan, math.nan, 0)
    low, high = _range(dof)
    sd = math.sqrt(found)
    return Scatter(sd, sd / math.sqrt(high), sd / math.sqrt(low), dof)


def frame(results: Results) -> pd.DataFrame:
    """A row a metric: standard deviations with intervals, degrees of freedom, coefficients of variation, the check."""
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


def texts(results: Results) -> tuple[list[Head], list[list[str]]]:
    """Headings and rows to read: coefficients of variation, where there is none the standard deviation."""
    heads = [Head("metric")]
    for group in ("images (bootstrap)", "sampling seeds", "training seeds"):
        heads += [Head("CV", group, "r"), Head("dof", group, "r")]
    heads += [Head("retraining alone", align="r"), Head("training / images", align="r")]
    heads += [Head("F", align="r"), Head("accepted", align="r"), Head("bootstrap")]
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
            wrong = "too wide" if parts.ratio < parts.ratio_low else "too narrow"
            cells += [short(parts.ratio), f"{short(parts.ratio_low)} to {short(parts.ratio_high)}"]
            cells.append("agrees" if parts.agrees else wrong)
        rows.append(cells)
    return heads, rows


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
    results, folder = Results(study, root), root / "tables"
    heads, rows = texts(results)
    write_text(folder / f"{NAME}.tex", latex(TITLE, heads, rows, note(results)))
    write_text(folder / f"{NAME}.md", markdown(TITLE, heads, rows, note(results)))
    write_text(folder / f"{NAME}.csv", frame(results).to_csv(index=False, lineterminator="\n"))
    print(f"{folder / NAME}.csv, .md, .tex: {len(rows)} metrics", flush=True)
