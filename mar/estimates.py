"""Numbers of a study with intervals: how sure a cell is, and how sure a difference between two cells is.

The statistics of the tables, figures and claims are ours (the paper prints no intervals) and are all here.

*Scale.* FID and seconds are compared by ratio: they are averaged and bounded on the log scale. All other metrics are
compared by difference. Below, y is a metric of one sample set on its scale, and b its bootstrap standard error over
images: the width of the metric file's 95% interval over 2 x 1.96; on the log scale, that over the value (delta method).

*Seed spread.* Of a variant trained with K >= 2 seeds, every setting's sample variance of y over seeds is computed;
their mean over settings is the variant's. Pooled over variants with weights K - 1 this is s^2, with
dof = sum of (K - 1): the settings of a variant share its weights, so they add precision but no degrees of freedom.
The scatter over seeds contains the noise of the images too, so the seeds' own part is tau^2 = max(0, s^2 - mean b^2).

*Cell.* mean(y) +- t * sqrt((tau^2 + mean b^2) / K), t the 97.5% quantile of Student's t with dof degrees of freedom,
brought back from the scale. If the study trained nothing twice, tau is unknown: tau = 0, t = 1.96, images only.

*Comparison* of cells a and b of different variants: effect = mean(y_a) - mean(y_b), with
variance (tau^2 + b_a^2) / K_a + (tau^2 + b_b^2) / K_b. Two settings of one variant come from the same weights, so they
are paired by seed: what matters is the spread of y_a - y_b over seeds, pooled in the same way over all pairs of
settings of all variants (tau_d^2 = max(0, s_d^2 - mean(b_a^2 + b_b^2))), and the variance is
(tau_d^2 + b_a^2 + b_b^2) / K. Intervals are 95% each and are not corrected for the number of comparisons.

*One seed.* With one training seed on either side a comparison decides nothing, whatever its interval, unless it is
*far*: |effect - edge| > 3 * t * sqrt(v / 2), v the sum of both sides' variances for one seed and edge the effect at
which a claim draws its line (0 unless said); that is three times the half interval of the same comparison with two
seeds a side. If the study measured no spread, nothing is far.

*Seconds per image* do not depend on the weights: one measurement a variant, its interval is the measured range, and
the interval of a ratio is the extreme ratios of both ranges. It is no 95% interval.

All intervals are conditional on what a study trains once: each tokenizer and the classifier. A comparison across
tokenizers, as of Diffusion Loss with cross-entropy, contains the luck of two tokenizer trainings.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from mar.config import Study
from mar.files import read_json
from mar.study import speed_settings

LOG = frozenset({"fid", "seconds"})  # compared by ratio
LOWER_IS_BETTER = frozenset({"fid", "seconds"})
SHARES = frozenset({"precision", "recall", "agreement"})  # within 0 and 1
Z = 1.959964  # 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval, the images in each sample set and the training seeds that it is the mean of."""

    value: float
    low: float
    high: float
    n: int
    seeds: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


@dataclass(frozen=True)
class Spread:
    """What training seeds add to the variance of one sample set, as a standard deviation on the metric's scale."""

    sd: float
    dof: int


@dataclass(frozen=True)
class Comparison:
    """Cell a against cell b. `effect` is log(a / b) for FID and seconds, else a - b; `few`: one seed on a side."""

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
        return self.metric in LOG

    @property
    def trusted(self) -> bool:
        """Whether the interval may decide: two seeds a side, or an effect far outside the spread."""
        return not self.few or self.far

    @property
    def better(self) -> bool:
        """Whether a is better than b, by the whole interval."""
        return self.trusted and (self.high < 0 if self.metric in LOWER_IS_BETTER else self.low > 0)

    @property
    def worse(self) -> bool:
        """Whether a is worse than b, by the whole interval."""
        return self.trusted and (self.low > 0 if self.metric in LOWER_IS_BETTER else self.high < 0)

    def __str__(self) -> str:
        numbers = (self.effect, self.low, self.high)
        value, low, high = (short(math.exp(x) if self.log else x) for x in numbers)
        return f"{'ratio' if self.log else 'difference'} {value} [{low}, {high}]"


def short(x: float) -> str:
    """Three significant digits without exponents: 0.0123, 1.98, 20.0, 1234."""
    if x != 0 and not 1e-4 <= abs(x) < 1000:
        return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.2g}"
    return f"{x:#.3g}".rstrip(".") if x else "0"


@dataclass(frozen=True)
class _Cell:
    """One metric of one variant and setting on the metric's scale: y and its bootstrap variance, a seed each."""

    seeds: tuple[int, ...]
    y: tuple[float, ...]
    noise: tuple[float, ...]
    n: int


class Results:
    """All numbers of a study. Reads each file once; a missing or unfit file is a ValueError that names it."""

    def __init__(self, study: Study, root: Path) -> None:
        self.study, self.root = study, Path(root)
        self._files: dict[Path, dict[str, Any]] = {}
        self._spreads: dict[tuple[str, bool], Spread] = {}

    def metric_file(self, variant: str, seed: int, setting: str) -> Path:
        """Where the metrics of one sample set are."""
        return self.root / "metrics" / variant / f"seed{seed}" / f"{setting}.json"

    def metrics(self, variant: str, seed: int, setting: str) -> dict[str, Any]:
        """Content of one metric file.

        Raises:
            ValueError: it is missing, or was made with another number of samples than the study asks for.
        """
        return self._read(self.metric_file(variant, seed, setting))

    def cell(self, variant: str, setting: str, metric: str) -> Estimate | None:
        """The mean over seeds (geometric for FID) of a metric; None if the study does not train the variant."""
        cell = self._cell(variant, setting, metric)
        if cell is None:
            return None
        spread = self.spread(metric)
        half = _quantile(spread.dof) * math.sqrt((spread.sd**2 + fmean(cell.noise)) / len(cell.y))
        middle = fmean(cell.y)
        value, low, high = (_unscale(metric, x) for x in (middle, middle - half, middle + half))
        if metric in SHARES:
            low, high = max(low, 0.0), min(high, 1.0)
        return Estimate(value, low, high, cell.n, cell.seeds)

    def seconds(self, variant: str, setting: str) -> Estimate | None:
        """Seconds per image with the measured range; None where none is trained or timed."""
        if (timing := self._timing(variant, setting)) is None:
            return None
        point, protocol = timing
        n = protocol["batch"] * protocol["batches"]
        seeds = self.study.variants[variant].seeds[:1]
        return Estimate(point["seconds_per_image"], point["low"], point["high"], n, seeds)

    def head_share(self, variant: str, setting: str) -> Estimate | None:
        """Part of the sampling time in which the head draws tokens, with the measured range; None as for seconds."""
        if (timing := self._timing(variant, setting)) is None or "head_share" not in timing[0]:
            return None  # timed before this was measured
        share = timing[0]["head_share"]
        n = timing[1]["batch"] * timing[1]["batches"]
        return Estimate(share["value"], share["low"], share["high"], n, self.study.variants[variant].seeds[:1])

    def training(self, variant: str) -> Estimate | None:
        """Device seconds of a training: mean over seeds, least and most; None if there was none, as for imports."""
        found = []
        for seed in self.study.variants[variant].seeds:
            run = read_json(self.root / "runs" / variant / f"seed{seed}" / "run.json")
            if "pretrained" in run:
                return None
            found.append(run["seconds"] * run.get("processes", 1))
        seeds = self.study.variants[variant].seeds
        return Estimate(fmean(found), min(found), max(found), 0, seeds) if found else None

    def parameters(self, variant: str) -> Estimate:
        """Parameters of a trained variant, as its training counted them: a number without scatter."""
        seeds = self.study.variants[variant].seeds[:1]
        count = read_json(self.root / "runs" / variant / f"seed{seeds[0]}" / "run.json")["parameters"]
        return Estimate(count, count, count, 0, seeds)

    def head_parameters(self, variant: str) -> Estimate | None:
        """Parameters of a variant's head alone; None for DiT, which has none."""
        v = self.study.variants[variant]
        head, tok = self.study.heads[v.head], self.study.tokenizers[v.tokenizer]
        if head.kind == "joint":
            return None
        import torch

        from mar.heads import build_head

        with torch.device("meta"):  # shapes only: no memory, no random numbers
            manifest = {"codebook_size": tok.codebook_size, "token_dim": tok.token_dim}
            built = build_head(head, self.study.backbones[v.backbone].width, manifest)
        count = sum(p.numel() for p in built.parameters())
        return Estimate(count, count, count, 0, v.seeds[:1])

    def rfid(self, variant: str, split: str = "train") -> Estimate | None:
        """FID of the images of a split as the variant's tokenizer reconstructs them; None if not measured on it."""
        values = read_json(self.root / "tokenizers" / self.study.variants[variant].tokenizer / "rfid.json")
        measured = values if values.get("split") == split else values.get(split)
        if measured is None:
            return None
        found = measured["metrics"]["rfid"]
        return Estimate(found["value"], found["low"], found["high"], found["n"])

    @property
    def extractor(self) -> str:
        """Whose features the metrics are made of: `classifier`, the study's own, or `inception`."""
        return str(self._reference.get("extractor", "classifier"))

    @property
    def measured(self) -> set[str]:
        """Metrics of the held-out real images, and so of every sample set."""
        return set(self._reference["metrics"])

    @property
    def comparable(self) -> bool:
        """Whether our numbers are on the paper's scale: ImageNet's images and Inception's features.

        Elsewhere a difference to the paper's number says nothing, so none is printed, and no point of the paper is
        drawn among ours.
        """
        return self.study.data.expect == "imagenet" and self.extractor == "inception"

    def floor(self, metric: str) -> Estimate:
        """The metric of held-out real images, resampled to as many as a sample set: real versus real."""
        values = _metric(self._reference, self.root / "metrics" / "reference.json", metric)
        return Estimate(values["value"], values["low"], values["high"], values["n"])

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
        x, y = self._cell(*a, metric), self._cell(*b, metric)
        left, right = self.cell(*a, metric), self.cell(*b, metric)
        if x is None or y is None or left is None or right is None:
            return None
        paired = a[0] == b[0]
        spread = self.spread(metric, paired)
        noise = fmean(x.noise), fmean(y.noise)
        if paired:
            single = spread.sd**2 + sum(noise)  # variance of the difference with one seed
            total = single / len(x.y)
        else:
            single = 2 * spread.sd**2 + sum(noise)
            total = (spread.sd**2 + noise[0]) / len(x.y) + (spread.sd**2 + noise[1]) / len(y.y)
        effect, t = fmean(x.y) - fmean(y.y), _quantile(spread.dof)
        half = t * math.sqrt(total)
        far = spread.dof > 0 and abs(effect - edge) > 3 * t * math.sqrt(single / 2)
        few = min(len(x.y), len(y.y)) == 1
        return Comparison(metric, left, right, effect, effect - half, effect + half, few, far)

    @cached_property
    def _reference(self) -> dict[str, Any]:
        return self._read(self.root / "metrics" / "reference.json")

    def _timing(self, variant: str, setting: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The timed point of a setting and the protocol; None where none is trained or timed."""
        if not self.study.variants[variant].seeds or setting not in speed_settings(self.study, variant):
            return None
        path = self.root / "speed" / f"{variant}.json"
        values = read_json(path)
        if setting not in values["points"]:
            raise ValueError(f"{path}: points: {setting!r} is missing; found {', '.join(values['points'])}")
        return values["points"][setting], values["protocol"]

    def _compare_seconds(self, a: tuple[str, str], b: tuple[str, str]) -> Comparison | None:
        x, y = self.seconds(*a), self.seconds(*b)
        if x is None or y is None:
            return None
        low, effect, high = (math.log(r) for r in (x.low / y.high, x.value / y.value, x.high / y.low))
        return Comparison("seconds", x, y, effect, low, high)

    def _read(self, path: Path) -> dict[str, Any]:
        if path not in self._files:
            values = read_json(path)
            if values["samples"] != self.study.metrics.samples:
                raise ValueError(
                    f"{path}: samples: found {values['samples']}; the study asks for {self.study.metrics.samples}: "
                    "run its sample and evaluate stages again"
                )
            self._files[path] = values
        return self._files[path]

    def _cell(self, variant: str, setting: str, metric: str) -> _Cell | None:
        seeds = self.study.variants[variant].seeds
        if not seeds:
            return None
        y, noise, n = [], [], 0
        for seed in seeds:
            values = _metric(self.metrics(variant, seed, setting), self.metric_file(variant, seed, setting), metric)
            error = (values["high"] - values["low"]) / (2 * Z)
            if metric in LOG:
                # a FID of zero happens with copies of the reference only; the bound keeps its logarithm finite
                value = max(values["value"], 1e-6)
                y.append(math.log(value))
                noise.append((error / value) ** 2)
            else:
                y.append(values["value"])
                noise.append(error**2)
            n = values["n"]
        return _Cell(seeds, tuple(y), tuple(noise), n)

    def _pool(self, metric: str, paired: bool) -> Spread:
        dof, scatter, noise = 0, 0.0, 0.0
        for name, variant in self.study.variants.items():
            k = len(variant.seeds)
            cells = [c for s in variant.sampling if (c := self._cell(name, s, metric)) is not None]
            groups = list(itertools.combinations(cells, 2)) if paired else [(c,) for c in cells]
            if k < 2 or not groups:
                continue
            # (-1)^i: the difference of a pair, the value itself of a single cell
            y = [[sum((-1) ** i * c.y[j] for i, c in enumerate(group)) for j in range(k)] for group in groups]
            dof += k - 1
            scatter += (k - 1) * fmean(variance(row) for row in y)
            noise += (k - 1) * fmean(sum(fmean(c.noise) for c in group) for group in groups)
        return Spread(math.sqrt(max(0.0, scatter - noise) / dof), dof) if dof else Spread(0.0, 0)


def _metric(values: dict[str, Any], path: Path, metric: str) -> dict[str, Any]:
    if metric not in values["metrics"]:
        raise ValueError(f"{path}: metrics: {metric!r} is missing; found {', '.join(values['metrics'])}")
    entry: dict[str, Any] = values["metrics"][metric]
    return entry


def _quantile(dof: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, dof)) if dof else Z


def _unscale(metric: str, value: float) -> float:
    return math.exp(value) if metric in LOG else value
