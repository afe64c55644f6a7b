"""The table `variance`: how far a metric moves with its images, with the sampling seed and with the training seed.

Three standard deviations of one metric are estimated, all on the scale that `mar/analysis/estimates.py` defines:

*Images.* The bootstrap standard error b of `mar/analysis/estimates.py`, as the root mean square over all sample sets.
Its degrees of freedom are (number of sample sets) x (resamples - 1).

*Sampling seeds.* The standard deviation over sample sets that have the same weights and differ in the sampling seed
alone, pooled over trainings. Another sampling seed draws other images, so this is what b means to predict. To check b,
the ratio F = (variance over sampling seeds) / (mean b^2 of the same sets) is compared with its distribution if b is
right, chi^2 over its degrees of freedom: they agree if F is between the 2.5% and the 97.5% quantile. Settings of one
training are drawn with the same random numbers, so they add precision but no degrees of freedom: a training with m
sampling seeds has m - 1.

*Training seeds.* The standard deviation s over training seeds, pooled as in `mar/analysis/estimates.py`; and tau, which
is left of it without the noise of the images and is what retraining alone changes.

*Coefficient of variation*, in percent: 100 times the standard deviation on the log scale; for a metric that is compared
by difference, 100 times the standard deviation / the mean over all sample sets; for FID at infinitely many images, in
percent of FID. KID has none, since it is around zero for a good model. "The FID Lottery" (arXiv:2606.20536) finds 1% to
2% over training seeds on ImageNet 256x256, 3.2 times as much as resampling changes.
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
    """A standard deviation on the metric's scale.

    Attributes:
        sd: the standard deviation; nan if it was not measured.
        low: lower end of its 95% interval, from the chi^2 distribution of a sample variance; nan if it has none.
        high: upper end.
        dof: degrees of freedom.
    """

    sd: float
    low: float
    high: float
    dof: int


@dataclass(frozen=True)
class Parts:
    """The sources of one metric's scatter (module docstring).

    Attributes:
        metric: name of the metric.
        scale: `log` or `difference`.
        mean: mean over all sample sets, geometric on the log scale.
        percent: what a standard deviation is multiplied by to give the coefficient of variation in percent; nan if the
            metric has none.
        images: scatter with the images, by the bootstrap.
        sampling: scatter over sampling seeds.
        training: scatter over training seeds, s.
        retraining: tau, the standard deviation over training seeds that the images do not explain; nan if unknown.
        ratio: F, the variance over sampling seeds / the bootstrap's variance of the same sets; nan if not measured.
        ratio_low: 2.5% quantile of F if the bootstrap is right.
        ratio_high: 97.5% quantile.
    """

    metric: str
    scale: str
    mean: float
    percent: float
    images: Scatter
    sampling: Scatter
    training: Scatter
    retraining: float
    ratio: float
    ratio_low: float
    ratio_high: float

    @property
    def agrees(self) -> bool | None:
        """Whether the bootstrap predicts the scatter over sampling seeds; None if that was not measured."""
        return None if math.isnan(self.ratio) else self.ratio_low <= self.ratio <= self.ratio_high

    @property
    def times(self) -> float:
        """Standard deviation over training seeds / standard deviation with the images; nan if the latter is 0."""
        return self.training.sd / self.images.sd if self.images.sd else math.nan


def decompose(results: Results, metric: str) -> Parts:
    """The sources of a metric's scatter (module docstring). Needs one trained variant."""
    trained = [name for name, variant in results.study.variants.items() if variant.seeds]
    distinct = [(name, setting) for name in trained for setting in results.distinct(name)]
    cells = [s for cell in distinct if (s := results.sets(*cell, metric)) is not None]
    y = [value for s in cells for value in s.y]
    noise = [b / s.unit**2 for s in cells for b in s.noise]
    mean = math.exp(fmean(y)) if by_ratio(metric) else fmean(y)
    measured, predicted, dof = _sampling(results, metric)
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
        _scatter(measured, dof),
        _scatter(spread.scatter**2, spread.dof),
        spread.sd if spread.dof else math.nan,
        measured / predicted if dof and predicted else math.nan,
        low,
        high,
    )


def _sampling(results: Results, metric: str) -> tuple[float, float, int]:
    """Pooled variance over sampling seeds, mean b^2 of the same sample sets, and degrees of freedom."""
    scatter, noise, dof = 0.0, 0.0, 0
    for name, variant in results.study.variants.items():
        groups = _groups(results, name, metric) if variant.seeds else []
        for k in range(len(variant.seeds) if groups else 0):
            # the variance over the m sampling seeds of a group has weight m - 1
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
    """Groups of cells of a variant whose settings, after their sweeps, differ in nothing but the sampling seed."""
    groups = []
    for group in replicas(results.study, variant):
        alike: dict[tuple[float, float], list[Sets]] = {}
        for setting in group if len(group) > 1 else ():
            used, sets = results.sampling(variant, setting), results.sets(variant, setting, metric)
            if sets is not None:
                alike.setdefault((used.guidance, used.temperature), []).append(sets)
        groups += [sets for sets in alike.values() if len(sets) > 1]
    return groups


def _range(dof: int) -> tuple[float, float]:
    """The 2.5% and 97.5% quantiles of chi^2 / dof with dof degrees of freedom; nan without any."""
    from scipy.special import gammaincinv  # which chi2.ppf of scipy.stats calls too, after half a second of imports

    if not dof:
        return math.nan, math.nan
    return 2 * float(gammaincinv(dof / 2, 0.025)) / dof, 2 * float(gammaincinv(dof / 2, 0.975)) / dof


def _scatter(variance: float, dof: int) -> Scatter:
    """The standard deviation of a sample variance, with its interval."""
    if not dof:
        return Scatter(math.nan, math.nan, math.nan, 0)
    low, high = _range(dof)
    sd = math.sqrt(variance)
    return Scatter(sd, sd / math.sqrt(high), sd / math.sqrt(low), dof)
