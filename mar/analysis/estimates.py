"""Numbers of a study with intervals: how sure a cell is, and how sure a difference between two cells is.

The statistics of the tables, figures and claims are ours (the paper prints no intervals) and are all here.

*Scale.* Frechet distances (FID, sFID, FID by a further extractor) and seconds are compared by ratio: they are averaged
and bounded on the log scale. All other metrics are compared by difference, also the two that can be zero or less: KID,
and FID at infinitely many images, which is extrapolated. Both differ from model to model
as FID does, so their spread over seeds is pooled in units of the sample sets' own FID. Below, y is a metric of a sample
set on its scale, and b its bootstrap standard error over images: the width of the metric file's 95% interval over
2 x 1.96; on the log scale, that over the value (delta method).

*Seed spread.* Of a variant trained with K >= 2 seeds, every setting's sample variance of y over seeds is computed;
their mean over settings is the variant's. Pooled over variants with weights K - 1 this is s^2, with
dof = sum of (K - 1): the settings of a variant share its weights, so they add precision but no degrees of freedom.
The scatter over seeds contains the noise of the images too, so the seeds' own part is tau^2 = max(0, s^2 - mean b^2).
What another sampling seed does is that noise again; `mar/analysis/seed_variance.py` measures it and holds it against b.

*Cell.* mean(y) +- t * sqrt((tau^2 + mean b^2) / K), t the 97.5% quantile of Student's t with dof degrees of freedom,
brought back from the scale. If the study trained nothing twice, tau is unknown: tau = 0, t = 1.96, images only.

*Comparison* of cells a and b of different variants: effect = mean(y_a) - mean(y_b), with
variance (tau^2 + b_a^2) / K_a + (tau^2 + b_b^2) / K_b. Two settings of one variant come from the same weights, so they
are paired by seed: what matters is the spread of y_a - y_b over seeds, pooled in the same way over all pairs of
settings of all variants that differ in more than the sampling seed
(tau_d^2 = max(0, s_d^2 - mean(b_a^2 + b_b^2))), and the variance is (tau_d^2 + b_a^2 + b_b^2) / K. Intervals are 95%
each and are not corrected for the number of comparisons.

*One seed.* With one training seed on either side a comparison decides nothing, whatever its interval, unless it is
*far*: |effect - edge| > 3 * t * sqrt(v / 2), v the sum of both sides' variances for one seed and edge the effect at
which a claim draws its line (0 unless said); that is three times the half interval of the same comparison with two
seeds a side. If the study measured no spread, nothing is far.

*Seconds per image* do not depend on the weights: one measurement a variant, its interval is the measured range, and
the interval of a ratio is the extreme ratios of both ranges. It is no 95% interval. Timings of different devices, batch
sizes or numbers of threads decide nothing about each other.

*Guidance and temperature* of a setting with a sweep were chosen by FID on samples of the sweep's own. The reported
images are others, so the choice does not flatter them; but the weights of the first training seed are the same ones,
and the interval does not contain that the choice itself is uncertain.

All intervals are conditional on what a study trains once: each tokenizer and the classifier. A comparison across
tokenizers, as of Diffusion Loss with cross-entropy, contains the luck of two tokenizer trainings.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance

from mar.analysis.metric_kinds import SIGNED, by_ratio, lower_is_better
from mar.analysis.result_files import Estimate, Files, Source, entry, short
from mar.study.study import Study

__all__ = ["Comparison", "Estimate", "Results", "Sets", "Source", "Spread", "short"]

SHARES = frozenset({"precision", "recall", "agreement"})  # within 0 and 1
Z = 1.959964  # 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class Spread:
    """What training seeds add to the variance of one sample set, as a standard deviation on the metric's scale.

    `scatter` is what was measured, with the noise of the images in it.
    """

    sd: float
    dof: int
    scatter: float


@dataclass(frozen=True)
class Comparison:
    """Cell a against cell b: `effect` is log(a / b), or a - b where metrics differ.

    `few`: one seed on a side; of seconds, that they were timed by different protocols.
    """

    metric: str
    a: Estimate
    b: Estimate
    effect: float
    low: float
    high: float
    few: bool = False
    far: bool = False

    @property
    def log(self) -> bool:
        """Whether the effect is a log ratio."""
        return by_ratio(self.metric)

    @property
    def trusted(self) -> bool:
        """Whether the interval may decide: two seeds a side, or an effect far outside the spread."""
        return not self.few or self.far

    @property
    def better(self) -> bool:
        """Whether a is better than b, by the whole interval."""
        return self.trusted and (self.high < 0 if lower_is_better(self.metric) else self.low > 0)

    @property
    def worse(self) -> bool:
        """Whether a is worse than b, by the whole interval."""
        return self.trusted and (self.low > 0 if lower_is_better(self.metric) else self.high < 0)

    def __str__(self) -> str:
        numbers = (self.effect, self.low, self.high)
        value, low, high = (short(math.exp(x) if self.log else x) for x in numbers)
        return f"{'ratio' if self.log else 'difference'} {value} [{low}, {high}]"


@dataclass(frozen=True)
class Sets:
    """One metric of one variant and setting on the metric's scale: y and its bootstrap variance, a seed each."""

    seeds: tuple[int, ...]
    y: tuple[float, ...]
    noise: tuple[float, ...]
    n: int
    unit: float  # in which its spread is pooled with that of other cells
    files: tuple[str, ...]


class Results(Files):
    """All numbers of a study with their intervals, and comparisons of them. Each file is read once."""

    def __init__(self, study: Study, root: Path) -> None:
        super().__init__(study, root)
        self._spreads: dict[tuple[str, bool], Spread] = {}

    def cell(self, variant: str, setting: str, metric: str) -> Estimate | None:
        """The mean over seeds (geometric for FID) of a metric; None if the study does not train the variant."""
        cell = self.sets(variant, setting, metric)
        if cell is None:
            return None
        spread = self.spread(metric)
        half = _quantile(spread.dof) * math.sqrt(((spread.sd * cell.unit) ** 2 + fmean(cell.noise)) / len(cell.y))
        middle = fmean(cell.y)
        value, low, high = (_unscale(metric, x) for x in (middle, middle - half, middle + half))
        if metric in SHARES:
            low, high = max(low, 0.0), min(high, 1.0)
        return Estimate(value, low, high, cell.n, cell.seeds, Source(variant, setting, metric, cell.files))

    def floor(self, metric: str) -> Estimate:
        """The metric of held-out real images, resampled to as many as a sample set: real versus real."""
        found = self.floor_entry(metric)
        return Estimate(found.value, found.low, found.high, found.n)

    def spread(self, metric: str, paired: bool = False) -> Spread:
        """Pooled seed spread of a metric, or of the paired differences between settings (module docstring)."""
        if (metric, paired) not in self._spreads:
            self._spreads[metric, paired] = self._pool(metric, paired)
        return self._spreads[metric, paired]

    def compare(self, a: tuple[str, str], b: tuple[str, str], metric: str, edge: float = 0.0) -> Comparison | None:
        """Compare two (variant, setting) cells; None if one of them is not trained.

        With one seed a side, `far` is measured from `edge`, the effect that a claim draws its line at.
        """
        if metric == "seconds":
            return self._compare_seconds(a, b)
        x, y = self.sets(*a, metric), self.sets(*b, metric)
        left, right = self.cell(*a, metric), self.cell(*b, metric)
        if x is None or y is None or left is None or right is None:
            return None
        paired = a[0] == b[0]
        spread = self.spread(metric, paired)
        noise = fmean(x.noise), fmean(y.noise)
        if paired:
            single = spread.sd**2 * x.unit * y.unit + sum(noise)  # variance of the difference with one seed
            total = single / len(x.y)
        else:
            sides = [(spread.sd * c.unit) ** 2 + b for c, b in zip((x, y), noise, strict=True)]
            single, total = sum(sides), sides[0] / len(x.y) + sides[1] / len(y.y)
        effect, t = fmean(x.y) - fmean(y.y), _quantile(spread.dof)
        half = t * math.sqrt(total)
        far = spread.dof > 0 and abs(effect - edge) > 3 * t * math.sqrt(single / 2)
        few = min(len(x.y), len(y.y)) == 1
        return Comparison(metric, left, right, effect, effect - half, effect + half, few, far)

    def sets(self, variant: str, setting: str, metric: str) -> Sets | None:
        """A metric of the sample sets of one variant and setting; None if the study does not train the variant."""
        seeds = self.study.variants[variant].seeds
        if not seeds:
            return None
        paths = [self.metric_file(variant, seed, setting) for seed in seeds]
        y, noise, units, n = [], [], [], 0
        for seed, path in zip(seeds, paths, strict=True):
            values = self.metrics(variant, seed, setting)
            found = entry(values, path, metric)
            error, value = (found.high - found.low) / (2 * Z), found.value
            if by_ratio(metric):
                # a FID of zero happens with copies of the reference only; the bound keeps its logarithm finite
                value = max(value, 1e-6)
                value, error = math.log(value), error / value
            y.append(value)
            noise.append(error**2)
            units.append(max(entry(values, path, "fid").value, 1e-6) if metric in SIGNED else 1.0)
            n = found.n
        files = tuple(path.relative_to(self.root).as_posix() for path in paths)
        return Sets(seeds, tuple(y), tuple(noise), n, fmean(units), files)

    def _compare_seconds(self, a: tuple[str, str], b: tuple[str, str]) -> Comparison | None:
        x, y = self.seconds(*a), self.seconds(*b)
        if x is None or y is None:
            return None
        low, effect, high = (math.log(r) for r in (x.low / y.high, x.value / y.value, x.high / y.low))
        mixed = self.protocol(a[0]).compared != self.protocol(b[0]).compared
        return Comparison("seconds", x, y, effect, low, high, few=mixed)

    def _distinct(self, variant: str) -> list[str]:
        """Settings of a variant that differ in more than the sampling seed: also in what a sweep of each has chosen."""
        first: dict[str, str] = {}
        for setting in self.study.variants[variant].sampling:
            used = self.sampling(variant, setting).model_copy(update={"seed": 0})
            first.setdefault(used.model_dump_json(), setting)
        return list(first.values())

    def _pool(self, metric: str, paired: bool) -> Spread:
        dof, scatter, noise = 0, 0.0, 0.0
        for name, variant in self.study.variants.items():
            k = len(variant.seeds)
            if k < 2:
                continue
            # the difference of two settings that differ in the sampling seed alone is noise of the images
            chosen = self._distinct(name) if paired else variant.sampling
            cells = [c for s in chosen if (c := self.sets(name, s, metric)) is not None]
            groups = list(itertools.combinations(cells, 2)) if paired else [(c,) for c in cells]
            if not groups:
                continue
            # (-1)^i: the difference of a pair, the value itself of a single cell
            units = [math.prod(c.unit for c in group) ** (1 / len(group)) for group in groups]
            y = [
                [sum((-1) ** i * c.y[j] for i, c in enumerate(group)) / unit for j in range(k)]
                for group, unit in zip(groups, units, strict=True)
            ]
            dof += k - 1
            scatter += (k - 1) * fmean(variance(row) for row in y)
            own = (sum(fmean(c.noise) for c in group) / u**2 for group, u in zip(groups, units, strict=True))
            noise += (k - 1) * fmean(own)
        if not dof:
            return Spread(0.0, 0, 0.0)
        return Spread(math.sqrt(max(0.0, scatter - noise) / dof), dof, math.sqrt(scatter / dof))


def _quantile(dof: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, dof)) if dof else Z


def _unscale(metric: str, value: float) -> float:
    return math.exp(value) if by_ratio(metric) else value
