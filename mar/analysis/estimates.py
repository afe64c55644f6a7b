"""Estimates with intervals: a metric of one cell (a variant at a sampling setting), and the difference of two cells.

The paper prints no intervals; the statistics of the tables, figures and claims are this project's own and are all here.

*Scale.* Frechet distances (FID, sFID, FID by a further extractor) and seconds are compared by their ratio: means and
intervals are taken on the log scale. All other metrics are compared by their difference, including the two that can be
zero or negative: KID, and FID extrapolated to infinitely many images. Since these two vary in proportion to FID from
model to model, their spread over seeds is pooled in units of the FID of the same sample sets.

*Symbols.* y is the metric of one sample set on its scale. b is the bootstrap standard error of y over images: the width
of the 95% interval in the metric file / (2 x 1.96), on the log scale divided by the metric (delta method). K is the
number of training seeds of a variant.

*Seed spread.* tau is the standard deviation that training seeds add to y, one number for each metric of a study. For a
variant with K >= 2 seeds the sample variance of y over seeds is averaged over its settings. The mean over variants with
weights K - 1 is s^2, with dof = sum of (K - 1) degrees of freedom: the settings of a variant share its weights, so they
add precision but no degrees of freedom. s^2 contains the noise of the images too, so tau^2 = max(0, s^2 - mean b^2).
Another sampling seed adds only noise of the images; `mar/analysis/seed_variance.py` measures that noise and compares it
with b.

*Cell.* mean(y) +- t sqrt((tau^2 + mean b^2) / K), transformed back from the scale, where t is the 97.5% quantile of
Student's t distribution with dof degrees of freedom. If the study trained no variant twice, tau is unknown; then
tau = 0, t = 1.96, and the interval contains the noise of the images alone.

*Comparison of different variants* a and b: effect = mean(y_a) - mean(y_b), with variance
(tau^2 + b_a^2) / K_a + (tau^2 + b_b^2) / K_b.

*Comparison of two settings of one variant.* They use the same weights, so they are paired by training seed. s_d^2 is
the variance of y_a - y_b over seeds, pooled as above over all pairs of settings of one variant that differ in more than
the sampling seed; tau_d^2 = max(0, s_d^2 - mean(b_a^2 + b_b^2)), and the variance of the effect is
(tau_d^2 + b_a^2 + b_b^2) / K. Each interval is a 95% interval; none is corrected for the number of comparisons.

*One training seed.* With one training seed on a side, a comparison decides nothing whatever its interval, unless its
effect is *far* from the claim's threshold (0 unless the claim states one): |effect - threshold| > 3 t sqrt(v / 2),
where v is the sum of both sides' variances with one seed. That is three times the half-width of the interval that the
same comparison would have with two seeds on each side. If the study measured no seed spread, no effect is far.

*Seconds per image* do not depend on the weights: each variant is timed once, its interval is the range that was
measured, and the interval of a ratio is from the lowest to the highest ratio of both ranges. It is no 95% interval.
Timings on different devices, with different batch sizes or numbers of threads decide nothing about each other.

*Guidance scale and temperature* of a setting with a sweep were chosen by FID on the sweep's own images. The reported
images are others, so the choice does not favour them; but the first training seed's weights are the same in both, and
the interval does not contain the uncertainty of the choice.

All intervals are conditional on the networks that a study trains once: the classifier, and tokenizers without
`per_seed`. A comparison across such tokenizers, such as Diffusion Loss against cross-entropy, contains the chance of
two tokenizer trainings. With `per_seed` each training seed has its own tokenizer, and the seed spread contains theirs
(`mar/analysis/rfid.py` has the interval of rFID). Variants that share these tokenizers move together with them: the
interval of their difference, which takes them as independent, is rather too wide, and dof counts too many degrees, so
that other intervals are too narrow where tokenizers scatter more than trainings.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, variance

from mar.analysis import rfid
from mar.analysis.metric_kinds import SIGNED, by_ratio, lower_is_better
from mar.analysis.result_files import Estimate, Files, Source, entry, short
from mar.study.study import Study

__all__ = ["Comparison", "Estimate", "Results", "Sets", "Source", "Spread", "short"]

SHARES = frozenset({"precision", "recall", "agreement"})  # metrics between 0 and 1
Z = 1.959964  # 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class Spread:
    """How far a metric of one sample set moves with the training seed, on the metric's scale (see above).

    Attributes:
        sd: tau, the standard deviation that training seeds add.
        dof: degrees of freedom; 0 if no variant has two training seeds.
        scatter: s, the measured standard deviation over training seeds, which contains the noise of the images.
    """

    sd: float
    dof: int
    scatter: float


@dataclass(frozen=True)
class Comparison:
    """Cell a against cell b in one metric.

    Attributes:
        metric: name of the metric.
        a: estimate of the one cell.
        b: estimate of the other.
        effect: log(a / b) for a metric that is compared by ratio, otherwise a - b.
        low: lower end of its interval.
        high: upper end of its interval.
        few: a side has one training seed; for seconds, the sides were timed by different protocols.
        far: the effect is so far from the threshold that it decides even with one training seed.
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
        """Whether the interval may decide: each side has two seeds, or the effect is far outside the seed spread."""
        return not self.few or self.far

    @property
    def better(self) -> bool:
        """Whether a is better than b throughout the interval."""
        return self.trusted and (self.high < 0 if lower_is_better(self.metric) else self.low > 0)

    @property
    def worse(self) -> bool:
        """Whether a is worse than b throughout the interval."""
        return self.trusted and (self.low > 0 if lower_is_better(self.metric) else self.high < 0)

    def __str__(self) -> str:
        numbers = (self.effect, self.low, self.high)
        value, low, high = (short(math.exp(x) if self.log else x) for x in numbers)
        return f"{'ratio' if self.log else 'difference'} {value} [{low}, {high}]"


@dataclass(frozen=True)
class Sets:
    """One metric of the sample sets of a cell, one for each of K training seeds, on the metric's scale.

    Attributes:
        seeds: the training seeds, (K,).
        y: the metric of each sample set, (K,).
        noise: its bootstrap variance b^2, (K,).
        n: number of images in each sample set.
        unit: mean FID of the sample sets for a metric whose spread is pooled in units of FID, otherwise 1.
        files: their metric files, by paths below the results folder, (K,).
    """

    seeds: tuple[int, ...]
    y: tuple[float, ...]
    noise: tuple[float, ...]
    n: int
    unit: float
    files: tuple[str, ...]


class Results(Files):
    """All metrics of a study with their intervals, and comparisons of them. Each file is read once."""

    def __init__(self, study: Study, root: Path) -> None:
        super().__init__(study, root)
        self._spreads: dict[tuple[str, bool], Spread] = {}

    def cell(self, variant: str, setting: str, metric: str) -> Estimate | None:
        """Mean of a metric over training seeds, geometric for FID; None if the study does not train the variant."""
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

    def rfid(self, variant: str, split: str = "train") -> Estimate | None:
        """rFID of a variant's tokenizer, the mean of those of its seeds with `per_seed`; None if not measured."""
        own, study = self.rfids(variant, split), self.study
        if not own or not study.tokenizers[study.variants[variant].tokenizer].per_seed:
            return own[0] if own else None
        sections: dict[str, dict[int, Estimate]] = {}
        for name, v in study.variants.items():
            if v.seeds and study.tokenizers[v.tokenizer].per_seed:
                sections.setdefault(v.tokenizer, {}).update({e.seeds[0]: e for e in self.rfids(name, split)})
        return rfid.over_seeds(own, [list(section.values()) for section in sections.values()])

    def floor(self, metric: str) -> Estimate:
        """The real-versus-real floor: the metric of held-out real images, at most as many as a sample set has."""
        m = self.floor_entry(metric)
        return Estimate(m.value, m.low, m.high, m.n)

    def spread(self, metric: str, paired: bool = False) -> Spread:
        """Pooled seed spread of a metric; `paired`: of its differences between settings of one variant (see above)."""
        if (metric, paired) not in self._spreads:
            self._spreads[metric, paired] = self._pool(metric, paired)
        return self._spreads[metric, paired]

    def compare(self, a: tuple[str, str], b: tuple[str, str], metric: str, edge: float = 0.0) -> Comparison | None:
        """Compare two cells in a metric.

        Args:
            a: variant and setting of the one cell.
            b: variant and setting of the other.
            metric: name of the metric, or `seconds`.
            edge: the claim's threshold on the effect, from which `far` is measured.

        Returns:
            The comparison; None if one of the variants is not trained, or for seconds not timed.
        """
        if metric == "seconds":
            return self._compare_seconds(a, b)
        x, y = self.sets(*a, metric), self.sets(*b, metric)
        mean_a, mean_b = self.cell(*a, metric), self.cell(*b, metric)
        if x is None or y is None or mean_a is None or mean_b is None:
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
        return Comparison(metric, mean_a, mean_b, effect, effect - half, effect + half, few, far)

    def sets(self, variant: str, setting: str, metric: str) -> Sets | None:
        """A metric of the sample sets of a cell; None if the study does not train the variant."""
        seeds = self.study.variants[variant].seeds
        if not seeds:
            return None
        paths = [self.metric_file(variant, seed, setting) for seed in seeds]
        y, noise, units, n = [], [], [], 0
        for seed, path in zip(seeds, paths, strict=True):
            values = self.metrics(variant, seed, setting)
            m = entry(values, path, metric)
            error, value = (m.high - m.low) / (2 * Z), m.value
            if by_ratio(metric):
                # FID is 0 only for copies of the reference; the bound keeps its logarithm finite
                value = max(value, 1e-6)
                value, error = math.log(value), error / value
            y.append(value)
            noise.append(error**2)
            units.append(max(entry(values, path, "fid").value, 1e-6) if metric in SIGNED else 1.0)
            n = m.n
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
        """Settings of a variant, one of those that, after their sweeps, differ in nothing but the sampling seed."""
        first: dict[str, str] = {}
        for setting in self.study.variants[variant].sampling:
            used = self.sampling(variant, setting).model_copy(update={"seed": 0})
            first.setdefault(used.model_dump_json(), setting)
        return list(first.values())

    def _pool(self, metric: str, paired: bool) -> Spread:
        """The seed spread over all variants with two or more training seeds, as the module's docstring defines it."""
        dof, scatter, noise = 0, 0.0, 0.0
        for name, variant in self.study.variants.items():
            k = len(variant.seeds)
            if k < 2:
                continue
            # settings that differ in the sampling seed alone differ by noise of the images only, so they make no pair
            chosen = self._distinct(name) if paired else variant.sampling
            cells = [c for s in chosen if (c := self.sets(name, s, metric)) is not None]
            groups = list(itertools.combinations(cells, 2)) if paired else [(c,) for c in cells]
            if not groups:
                continue
            # with signs (-1)^i the sum over a pair is its difference, and over a single cell the value itself
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
    """The 97.5% quantile of Student's t with `dof` degrees of freedom; of the normal distribution if there are none."""
    from scipy.stats import t

    return float(t.ppf(0.975, dof)) if dof else Z


def _unscale(metric: str, value: float) -> float:
    return math.exp(value) if by_ratio(metric) else value
