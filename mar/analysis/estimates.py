"""Estimates with intervals: a metric of one cell (a variant at a sampling setting), and the difference of two cells.

The paper prints no intervals; the statistics of the tables, figures and claims are this project's own and are all here.

*Scale.* Frechet distances (FID, sFID, FID by a further extractor) and seconds are compared by their ratio: means and
intervals are taken on the log scale. All other metrics are compared by their difference, including the two that can be
zero or negative: KID, and FID extrapolated to infinitely many images. Since these two vary in proportion to FID from
model to model, their spread over seeds is pooled in units of the FID of the same sample sets.

*Symbols.* y is the metric of one sample set on its scale. b is the bootstrap standard error of y over images: the width
of the 95% interval in the metric file / (2 x 1.96), on the log scale divided by the metric (delta method). K is the
number of training seeds of a variant.

*Seed spread.* What training seeds add to y is the variance of y over seeds less b^2, which the former contains; the
difference is kept below zero too. For a variant with K >= 2 seeds it is averaged over its settings: they share its
weights, so they add precision but no degrees of freedom, of which a variant has K - 1. Two settings that are equal
after their sweeps are one; settings that only figures over diffusion steps or temperature show are left out where the
variant has others, since dozens of them would outweigh those of the tables. The pool is the mean over variants with
weights K - 1, and the spread that counts for one variant is shrunk towards it (`mar/analysis/intervals.py`). tau, which
is printed, is the square root of the pool where that is positive. Another sampling seed adds only noise of the images;
`mar/analysis/seed_variance.py` measures that noise and compares it with b.

*Cell.* mean(y) +- half-width, transformed back from the scale; `mar/analysis/intervals.py` has the half-width of
S = (tau_a^2 + mean b^2) / K and B = mean b^2 / K, tau_a^2 being the variant's shrunken spread. If the study trained no
variant twice, the spread is unknown: S = B, and the interval contains the noise of the images alone.

*Comparison of different variants* a and b: effect = mean(y_a) - mean(y_b), with S and B the sums over both sides.

*Comparison of two settings of one variant.* They use the same weights, so they are paired by training seed. The spread
is that of y_a - y_b over seeds less b_a^2 + b_b^2, shrunk towards the pool of all pairs of settings of one variant that
differ in more than the sampling seed; S = (spread + b_a^2 + b_b^2) / K. Each interval is a 95% interval; none is
corrected for the number of comparisons.

*Comparison of variants that share the tokenizers of their seeds* (`per_seed`, equal seeds): paired by seed too, since
what a tokenizer does to both sides leaves the difference. The pool is that of all differences between such variants, of
each tokenizer with (V - 1)(K - 1) degrees of freedom for V variants.

*One training seed.* With one training seed on a side, a comparison decides nothing whatever its interval, unless its
effect is *far* from the claim's threshold (0 unless the claim states one): more than three times the half-width of the
interval that the same comparison would have with two seeds on each side. If the study
measured no seed spread, no effect is far.

*Sample sets that others drew* have intervals of their images alone, since nothing is known of their trainings. They
stand in tables; no claim is decided by them, and no spread is pooled from them.

*Published weights* are the ones that a claim is about: another training seed would be another model. Their intervals
are of the images alone, and one set of weights decides.

*Seconds per image* do not depend on the weights: each variant is timed once, in batches, by the intervals of
`mar/metrics/timed.py`. For files without single batches, as versions before wrote them, the interval is the range of
the batches, that of a ratio is from the lowest to the highest ratio of both ranges, and neither is a 95% interval.
Timings on different devices, with different batch sizes or numbers of threads decide nothing about each other.

*Guidance scale and temperature* of a setting with a sweep were chosen by FID on the sweep's own images. The reported
images are others, so the choice does not favour them; but the first training seed's weights are the same in both, and
the interval does not contain the uncertainty of the choice.

All intervals are conditional on the networks that a study trains once: the classifier, and tokenizers without
`per_seed`. A comparison across such tokenizers, such as Diffusion Loss against cross-entropy, contains the chance of
two tokenizer trainings. With `per_seed` each training seed has its own tokenizer, and the seed spread contains theirs
(`mar/analysis/rfid.py` has the interval of rFID). Variants that share these tokenizers move together with them,
so dof counts too many degrees, and intervals of cells and across tokenizers are too narrow where tokenizers scatter
more than trainings (90.5% in place of 95% at twice the scatter with two seeds).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, variance

from mar.analysis import rfid
from mar.analysis.intervals import Z, effective, half_width, shrunk
from mar.analysis.metric_kinds import SIGNED, by_ratio, lower_is_better
from mar.analysis.result_files import Estimate, Files, Source, entry, short
from mar.metrics import timed
from mar.study import layout
from mar.study.records import MetricsFile, Missing
from mar.study.study import Study

__all__ = ["Comparison", "Estimate", "Results", "Sets", "Source", "Spread", "short"]

SHARES = frozenset({"precision", "recall", "agreement"})  # metrics between 0 and 1


@dataclass(frozen=True)
class Spread:
    """How far a metric of one sample set moves with the training seed, on the metric's scale (see above).

    Attributes:
        sd: tau, the standard deviation that training seeds add.
        dof: degrees of freedom; 0 if no variant has two training seeds.
        scatter: s, the measured standard deviation over training seeds, which contains the noise of the images.
        pool: tau^2 as measured, which chance can make negative.
        own: the same of each variant with two training seeds or more.
        dofs: degrees of freedom of each.
    """

    sd: float
    dof: int
    scatter: float
    pool: float = 0.0
    own: dict[str, float] = field(default_factory=dict)
    dofs: dict[str, int] = field(default_factory=dict)

    def of(self, variant: str) -> float:
        """tau^2 of one variant: its own, shrunk towards the pool."""
        return float(shrunk(self.own.get(variant, 0.0), self.dofs.get(variant, 0), self.pool))


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
        edge: the claim's threshold on the effect, beyond which a side wins.
        variance: estimated variance of the effect.
        images: its part from the images.
        dof: degrees of freedom of `variance`.
        unfair: why a win of a, and of b, would decide nothing (`mar/analysis/confounds.py`); empty if it would.
        said: what else distinguishes the sides and belongs to the claim, which is told and forbids no verdict.
    """

    metric: str
    a: Estimate
    b: Estimate
    effect: float
    low: float
    high: float
    few: bool = False
    far: bool = False
    edge: float = 0.0
    variance: float = 0.0
    images: float = 0.0
    dof: float = math.inf
    unfair: tuple[tuple[Missing, ...], tuple[Missing, ...]] = ((), ())
    said: tuple[Missing, ...] = ()

    @property
    def log(self) -> bool:
        """Whether the effect is a log ratio."""
        return by_ratio(self.metric)

    @property
    def trusted(self) -> bool:
        """Whether the interval may decide: each side has two seeds, or the effect is far outside the seed spread."""
        return not self.few or self.far

    def fair(self, side: int) -> bool:
        """Whether a win of side 0 (a) or 1 (b) may decide."""
        return self.trusted and not self.unfair[side]

    @property
    def better(self) -> bool:
        """Whether a is better than b throughout the interval."""
        return self.fair(0) and (self.high < 0 if lower_is_better(self.metric) else self.low > 0)

    @property
    def worse(self) -> bool:
        """Whether a is worse than b throughout the interval."""
        return self.fair(1) and (self.low > 0 if lower_is_better(self.metric) else self.high < 0)

    @property
    def blocked(self) -> Missing | None:
        """Why the side that wins by the interval decides nothing; None if it does, or none wins."""
        if not self.trusted or self.low <= self.edge <= self.high:
            return None
        a_wins = (self.high < self.edge) == lower_is_better(self.metric)
        return next(iter(self.unfair[0 if a_wins else 1]), None)

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
        self._spreads: dict[tuple[str, str], Spread] = {}

    def cell(self, variant: str, setting: str, metric: str) -> Estimate | None:
        """Mean of a metric over training seeds, geometric for FID; None if the study does not train the variant."""
        cell = self.sets(variant, setting, metric)
        if cell is None:
            return None
        tau, dof = 0.0, math.inf
        if not self.imported(variant):
            spread = self.spread(metric)
            tau, dof = spread.of(variant), effective(spread.dofs, [(variant, cell.unit**2 / len(cell.y))])
        return _estimate(cell, Source(variant, setting, metric, cell.files), tau, dof)

    def given_cell(self, name: str, metric: str) -> Estimate | None:
        """A metric of a sample set that others drew, with the interval of its images alone; None if not measured."""
        record, path = self.given(name), layout.metrics(self.root, layout.given_set(name))
        if metric not in record.metrics:
            return None
        cell = self._sets((), [(record, path)], metric)
        return _estimate(cell, Source(layout.given_set(name), None, metric, cell.files))

    def imported(self, variant: str) -> bool:
        """Whether the weights of a variant are published ones: they themselves are claimed about, not a training."""
        return self.study.variants[variant].pretrained

    def rfid(self, variant: str, split: str = "train", metric: str = "rfid") -> Estimate | None:
        """rFID of a variant's tokenizer, the mean of those of its seeds with `per_seed`; None if not measured.

        `metric` may be `floor` too, which is the same for all tokenizers.
        """
        own, study = self.rfids(variant, split, metric), self.study
        if not own or metric != "rfid" or not study.tokenizers[study.variants[variant].tokenizer].per_seed:
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

    def spread(self, metric: str, paired: str = "") -> Spread:
        """Pooled seed spread of a metric.

        Args:
            metric: its name.
            paired: `settings`: of its differences between settings of one variant; `variants`: between variants that
                share the tokenizers of their seeds (see above).
        """
        if (metric, paired) not in self._spreads:
            shared = paired == "variants"
            self._spreads[metric, paired] = self._pool_shared(metric) if shared else self._pool(metric, bool(paired))
        return self._spreads[metric, paired]

    def _paired(self, a: str, b: str) -> str:
        """How two variants are paired by training seed: the argument of `spread`; empty if they are not."""
        if a == b:
            return "settings"
        one, other = self.study.variants[a], self.study.variants[b]
        shared = one.tokenizer == other.tokenizer and self.study.tokenizers[one.tokenizer].per_seed
        return "variants" if shared and one.seeds == other.seeds and len(one.seeds) > 1 else ""

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
        paired = self._paired(a[0], b[0])
        spread = self.spread(metric, paired)
        noise = fmean(x.noise), fmean(y.noise)
        if paired:
            k, units = len(x.y), x.unit * y.unit
            of = a[0] if paired == "settings" else self.study.variants[a[0]].tokenizer
            tau, dof = spread.pool, effective(spread.dofs, [(of, 1.0)])
            if self.imported(a[0]):
                tau, dof = 0.0, math.inf
            if k > 1:
                scatter, own = _scatter([x, y], k)
                tau = float(shrunk(scatter - own, k - 1, spread.pool))
            single, images = tau * units + sum(noise), sum(noise) / k  # variance of the difference with one seed
            total = single / k
        else:
            taus = [0.0 if self.imported(v) else spread.of(v) for v in (a[0], b[0])]
            sides = [(tau * c.unit**2, b, c) for tau, c, b in zip(taus, (x, y), noise, strict=True)]
            single = sum(tau + b for tau, b, _ in sides)
            total, images = sum((tau + b) / len(c.y) for tau, b, c in sides), sum(b / len(c.y) for _, b, c in sides)
            trained = [(v, c) for v, c in ((a[0], x), (b[0], y)) if not self.imported(v)]
            dof = effective(spread.dofs, [(v, c.unit**2 / len(c.y)) for v, c in trained]) if trained else math.inf
        effect, half = fmean(x.y) - fmean(y.y), float(half_width(total, images, dof))
        far = spread.dof > 0 and abs(effect - edge) > 3 * float(half_width(single / 2, sum(noise) / 2, dof))
        few = any(len(c.y) == 1 and not self.imported(v) for v, c in ((a[0], x), (b[0], y)))
        ends = effect - half, effect + half
        return Comparison(metric, mean_a, mean_b, effect, *ends, few, far, edge, total, images, dof)

    def sets(self, variant: str, setting: str, metric: str) -> Sets | None:
        """A metric of the sample sets of a cell; None if the study does not train the variant."""
        seeds = self.study.variants[variant].seeds
        if not seeds:
            return None
        files = [(self.metrics(variant, k, setting), self.metric_file(variant, k, setting)) for k in seeds]
        return self._sets(seeds, files, metric)

    def _sets(self, seeds: tuple[int, ...], files: list[tuple[MetricsFile, Path]], metric: str) -> Sets:
        """A metric of the sample sets that these files are of."""
        y, noise, units, n = [], [], [], 0
        for values, path in files:
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
        return Sets(seeds, tuple(y), tuple(noise), n, fmean(units), self._below(*(path for _, path in files)))

    def _compare_seconds(self, a: tuple[str, str], b: tuple[str, str]) -> Comparison | None:
        x, y = self.seconds(*a), self.seconds(*b)
        if x is None or y is None:
            return None
        low, effect, high = (math.log(r) for r in (x.low / y.high, x.value / y.value, x.high / y.low))
        one, other = (self.speed(variant).points[setting].batches for variant, setting in (a, b))
        yards = self.speed(a[0]).yardsticks, self.speed(b[0]).yardsticks
        if one and a[0] == b[0]:
            effect, low, high = timed.paired(one, other)
        elif one and other:
            effect, low, high = timed.apart(one, other, *yards)
        mixed = self.protocol(a[0]).compared != self.protocol(b[0]).compared
        return Comparison("seconds", x, y, effect, low, high, few=mixed)

    def distinct(self, variant: str, seeds: bool = True) -> list[str]:
        """Settings of a variant, one of those that are equal after their sweeps.

        Args:
            variant: the variant.
            seeds: whether settings that differ in the sampling seed alone count as different.
        """
        first: dict[str, str] = {}
        for setting in self.study.variants[variant].sampling:
            used = self.sampling(variant, setting)
            first.setdefault((used if seeds else used.model_copy(update={"seed": 0})).model_dump_json(), setting)
        return list(first.values())

    def _pooled(self, variant: str, paired: bool) -> list[str]:
        """Settings whose spread stands for a variant's: distinct ones, without those of figures where it has others."""
        curves = (*self.study.diffusion_steps, *self.study.evaluations, *self.study.temperature)
        drawn = {setting for curve in curves if curve.variant == variant for setting in curve.sampling}
        rows = [row for table in self.study.tables.values() for row in table.rows if row.variant == variant]
        drawn -= {setting for row in rows for setting in (row.without, row.guided) if setting}
        drawn -= {s for curve in self.study.tradeoff if curve.variant == variant for s in curve.sampling}
        # settings that differ in the sampling seed alone differ by noise of the images only, so they make no pair
        settings = self.distinct(variant, seeds=not paired)
        chosen = [setting for setting in settings if setting not in drawn]
        return chosen if len(chosen) > paired else settings

    def _pool(self, metric: str, paired: bool) -> Spread:
        """The seed spread over all variants with two or more training seeds, as the module's docstring defines it."""
        own, dofs, scatters = {}, {}, {}
        for name, variant in self.study.variants.items():
            k = len(variant.seeds)
            if k < 2:
                continue
            cells = [c for s in self._pooled(name, paired) if (c := self.sets(name, s, metric)) is not None]
            groups = list(itertools.combinations(cells, 2)) if paired else [(c,) for c in cells]
            if not groups:
                continue
            parts = [_scatter(group, k) for group in groups]
            scatters[name], noise = (fmean(part) for part in zip(*parts, strict=True))
            own[name], dofs[name] = scatters[name] - noise, k - 1
        return _spread(own, dofs, scatters)

    def _pool_shared(self, metric: str) -> Spread:
        """The seed spread of differences between variants with the same tokenizers, by section of `tokenizers`.

        V variants with K seeds each have V - 1 independent differences, so (V - 1)(K - 1) degrees of freedom.
        """
        own, dofs, scatters = {}, {}, {}
        for section, config in self.study.tokenizers.items():
            names = [n for n, v in self.study.variants.items() if v.tokenizer == section and len(v.seeds) > 1]
            pairs = [(a, b) for a, b in itertools.combinations(names, 2) if self._paired(a, b)]
            if not config.per_seed or not pairs:
                continue
            parts = []
            for a, b in pairs:
                cells = [[self.sets(v, s, metric) for s in self._pooled(v, paired=False)] for v in (a, b)]
                groups = [[c for c in group if c is not None] for group in itertools.product(*cells)]
                parts += [_scatter(group, len(group[0].y)) for group in groups if len(group) == 2]
            scatters[section], noise = (fmean(part) for part in zip(*parts, strict=True))
            own[section] = scatters[section] - noise
            alike = {self.study.variants[name].seeds for pair in pairs for name in pair}
            members = [[n for n in names if self.study.variants[n].seeds == seeds] for seeds in alike]
            dofs[section] = sum((len(group) - 1) * (len(self.study.variants[group[0]].seeds) - 1) for group in members)
        return _spread(own, dofs, scatters)


def _estimate(cell: Sets, source: Source, tau: float = 0.0, dof: float = math.inf) -> Estimate:
    """The mean of the sample sets of a cell with its interval: of the images, and of training seeds with spread tau^2.

    Args:
        cell: the sample sets.
        source: where they are from.
        tau: tau^2, the variance that training seeds add, in units of the cell's.
        dof: its degrees of freedom.
    """
    factor, images = cell.unit**2 / len(cell.y), fmean(cell.noise) / len(cell.y)
    half, middle = float(half_width(tau * factor + images, images, dof)), fmean(cell.y)
    value, low, high = (_unscale(source.metric, x) for x in (middle, middle - half, middle + half))
    if source.metric in SHARES:
        low, high = max(low, 0.0), min(high, 1.0)
    return Estimate(value, low, high, cell.n, cell.seeds, source)


def _spread(own: dict[str, float], dofs: dict[str, int], scatters: dict[str, float]) -> Spread:
    """The pool of spreads, weighted by their degrees of freedom."""
    dof = sum(dofs.values())
    if not dof:
        return Spread(0.0, 0, 0.0)
    pool, scatter = (sum(dofs[v] * of[v] for v in dofs) / dof for of in (own, scatters))
    return Spread(math.sqrt(max(0.0, pool)), dof, math.sqrt(scatter), pool, own, dofs)


def _scatter(group: Sequence[Sets], k: int) -> tuple[float, float]:
    """Variance over k seeds of a cell, or of the difference of two, in units of them; and what the images add to it."""
    unit = math.prod(c.unit for c in group) ** (1 / len(group))
    # with signs (-1)^i the sum over a pair is its difference, and over a single cell the value itself
    y = [sum((-1) ** i * c.y[j] for i, c in enumerate(group)) / unit for j in range(k)]
    return variance(y), sum(fmean(c.noise) for c in group) / unit**2


def _unscale(metric: str, value: float) -> float:
    return math.exp(value) if by_ratio(metric) else value
