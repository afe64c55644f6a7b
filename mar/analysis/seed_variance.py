"""The table `variance`: how far a metric moves with its images, with the sampling seed and with the training seed.

*Images.* The bootstrap standard error of the metric files, b in `mar/analysis/estimates.py`: root mean square over all
sample sets. Its degrees of freedom are the resamples behind it.

*Sampling seeds.* Sample sets of one training that differ in the sampling seed alone: their sample variance, pooled.
Another sampling seed draws other images, so this is what the bootstrap means to foresee. The check is
F = (variance over sampling seeds) / (mean b^2 of the same sets), which is a chi^2 over its degrees of freedom if the
bootstrap is right, and agrees where F is within the 2.5% and 97.5% quantiles of that. Settings of one training share
the noise they are drawn with, so they add precision but no degrees of freedom: a training with m sampling seeds has
m - 1.

*Training seeds.* The scatter over training seeds, pooled as in `mar/analysis/estimates.py`, and what is left of it
without the images' part (tau there), which is what retraining alone moves.

All are on the metric's scale of `mar/analysis/estimates.py`. The coefficient of variation is 100 times the standard
deviation on the log scale; where a metric is compared by difference, the standard deviation in percent of the mean over
all sample sets; of FID at infinitely many images in percent of FID; of KID, which is around zero for a good model,
there is none. "The FID Lottery" (arXiv:2606.20536) finds 1% to 2% over training seeds on ImageNet 256x256, 3.2 times
what resampling moves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean, variance

from mar.analysis.estimates import Results, Sets
from mar.analysis.metric_kinds import SIGNED, by_ratio
from mar.study.products import replicas


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
