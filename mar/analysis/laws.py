"""Power laws of VAR (Tian et al. 2024, section 4.2): loss and token error over model size and training compute.

*What is fitted.* L = (beta X)^alpha, a line in logarithms: over the parameters N of the blocks in billions at the end
of all trainings, or over the compute C of training in PFLOP along the Pareto front, the points that no other training
beats with as little compute or less. Values are means over the training seeds, on held-out images. Errors are
fractions.

*What cannot be learned.* The printed exponents of the loss are of L less a constant, 4.5 for the last scale and 5.0 for
all, which the authors named in an issue and the paper does not: raw losses have exponents near -0.05. So each law is
fitted three ways: `raw`; `subtracted`, with the authors' constant, where every loss lies above it; and `free`, with the
constant E of L = E + (beta X)^alpha fitted too, by least squares in log L. Printed exponents stand beside the way that
they were found by: `subtracted` for losses, `raw` for errors.

*Intervals.* `low` and `high` are the 95% interval of the exponent by the scatter about the line, with as many degrees
of freedom as there are models less the fitted numbers: points of one training share its luck. It covers 95% where
scatter is normal and equal (simulated in the tests). Bootstrap over the training seeds, and the range when one model is
left out, are shown beside it. Trainings of one seed share tokenizer and order of images whatever their size, so seeds
are drawn for all models together. With two or three seeds the bootstrap is too narrow, and no verdict rests on it.

*The claim* that a law holds is replicated if the interval of the raw exponent lies below zero, and the points lie along
a line: correlation of the logarithms STRAIGHT or below. It is not replicated if the interval lies above zero. What
falls, but not along a line, is undecided: with so few models scatter looks as a bend does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from mar.analysis.estimates import Results
from mar.analysis.findings import Finding, verdict_of
from mar.analysis.intervals import quantile
from mar.analysis.learning_curves import records
from mar.analysis.paper_columns import NOT_RUN
from mar.analysis.result_files import short
from mar.paper.claims import Law
from mar.paper.numbers import paper_rows
from mar.study.parts import ScalesBackbone
from mar.study.records import LearningRecord, Missing

TABLE = "var_laws"  # of the paper's numbers
WAYS = ("raw", "subtracted", "free")
RESAMPLES = 400  # of the bootstrap over seeds
PFLOP, BILLION = 1e15, 1e9
# Correlation up to which points are a line. The paper prints -0.998 over parameters and about -0.99 over compute; its
# raw losses, with the constant in them, have -0.99 too. An interval below zero alone would ask the less the more models
# there are: -0.95 of four, -0.63 of ten.
STRAIGHT = -0.95


class Point(NamedTuple):
    """A model at one place of its training.

    Attributes:
        variant: its variant.
        images: images seen.
        x: parameters in billions, or compute in PFLOP.
        seeds: loss or error of each training seed.
        numbers: the training seeds.
    """

    variant: str
    images: int
    x: float
    seeds: tuple[float, ...]
    numbers: tuple[int, ...]

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return math.fsum(self.seeds) / len(self.seeds)


@dataclass(frozen=True)
class Fit:
    """L - irreducible = (beta x)^alpha.

    Attributes:
        way: one of WAYS.
        models: how many models the fitted points are of.
        irreducible: what was subtracted.
        alpha: the exponent.
        beta: the factor of x.
        low: lower end of the exponent's 95% interval by the scatter about the line.
        high: upper end.
        correlation: of log x and log(L - irreducible).
        by_seeds: ends of its 95% interval by the bootstrap over seeds; None where there is one seed.
        without_one: least and greatest exponent with one model left out; None with three models, or where one cannot
            be fitted.
        residuals: log(L) less its fit, of each point.
    """

    way: str
    models: int
    irreducible: float
    alpha: float
    beta: float
    low: float
    high: float
    correlation: float
    by_seeds: tuple[float, float] | None
    without_one: tuple[float, float] | None
    residuals: tuple[float, ...]

    @property
    def falls(self) -> bool:
        """Whether the whole interval of the exponent lies below zero."""
        return self.high < 0

    @property
    def straight(self) -> bool:
        """Whether the points lie along a falling line."""
        return self.correlation <= STRAIGHT

    def at(self, x: Any) -> Any:
        """The law's value at x."""
        return self.irreducible + (self.beta * np.asarray(x)) ** self.alpha


def size(backbone: ScalesBackbone) -> int:
    """Parameters of the blocks of a scales backbone: 18 d w^2 as in the paper, 73,728 d^3 for widths of 64 d.

    Attention has 4 w^2, the two layers behind it 8 w^2 (mlp_ratio 4), AdaLN 6 w^2, once where all blocks share it.
    """
    width, depth = backbone.width, backbone.depth
    aln = 6 * backbone.adaln * (1 if backbone.shared_aln else depth)
    return round(width**2 * (depth * (4 + 2 * backbone.mlp_ratio) + aln))


def points(results: Results, quantity: str, tokens: str, over: str) -> list[Point]:
    """The models of the study's `laws`: at their ends over parameters, at all kept averages over compute.

    Raises:
        ValueError: the curves of a training are missing, or were measured without its scales.
    """
    study, found = results.study, []
    for variant in study.laws.variants if study.laws else ():
        backbone = study.backbones[study.variants[variant].backbone]
        assert isinstance(backbone, ScalesBackbone)  # checked where the study is read
        n = size(backbone) / BILLION
        curves = records(results, variant)
        for index, place in enumerate(curves[0].points):
            if over == "parameters" and index < len(curves[0].points) - 1:
                continue
            values = tuple(_measured(curve, index, quantity, tokens) for curve in curves)
            x = n if over == "parameters" else place.images * curves[0].operations / PFLOP
            found.append(Point(variant, place.images, x, values, tuple(curve.seed for curve in curves)))
    return found


def _measured(record: LearningRecord, index: int, quantity: str, tokens: str) -> float:
    by_name = record.points[index].scales
    if (name := f"{quantity} {tokens}") not in by_name:
        raise ValueError(
            f"learning.json of {record.variant} seed {record.seed}: has no {name}, which was not measured when it was "
            "made; accepted: remove it, and the same command measures it"
        )
    return by_name[name].value


def front(found: Sequence[Point]) -> list[Point]:
    """The points that no other beats with as little compute or less, by compute."""
    kept: list[Point] = []
    for point in sorted(found, key=lambda point: (point.x, point.value)):
        if not kept or point.value < kept[-1].value:
            kept.append(point)
    return kept


def fits(found: Sequence[Point], over: str, subtracted: float | None) -> dict[str, Fit]:
    """The law fitted in each way that the points allow, by the name of the way.

    Args:
        found: points of three models or more.
        over: parameters, or compute, where the front of the points is fitted.
        subtracted: the authors' constant; None where they print none.
    """
    made = {}
    for way in WAYS:
        given = {"raw": 0.0, "subtracted": subtracted, "free": None}[way]
        if way == "subtracted" and (given is None or min(point.value for point in found) <= given):
            continue
        fit = _fit(found, over, way, given)
        if fit is not None:
            made[way] = fit
    return made


def _fit(found: Sequence[Point], over: str, way: str, given: float | None) -> Fit | None:
    used = _used(found, over)
    models = len({point.variant for point in used})
    fitted = 3 if given is None else 2  # slope, intercept, and the constant
    if models <= fitted:
        return None
    x, y = np.array([p.x for p in used]), np.array([p.value for p in used])
    line = _free(x, y) if given is None else _line(x, y, given)
    if line is None:
        return None
    alpha, intercept, error, irreducible = line
    dof = models - fitted
    half = float(quantile(dof)) * error * math.sqrt((len(used) - fitted) / dof)
    logs = np.log(y - irreducible)
    return Fit(
        way=way,
        models=models,
        irreducible=irreducible,
        alpha=alpha,
        beta=math.exp(intercept / alpha) if alpha else math.nan,
        low=alpha - half,
        high=alpha + half,
        correlation=float(np.corrcoef(np.log(x), logs)[0, 1]),
        by_seeds=_by_seeds(found, over, given),
        without_one=_without_one(found, over, given),
        residuals=tuple(map(float, np.log(y) - np.log(irreducible + np.exp(intercept + alpha * np.log(x))))),
    )


def _used(found: Sequence[Point], over: str) -> list[Point]:
    return front(found) if over == "compute" else sorted(found, key=lambda point: point.x)


def _line(x: np.ndarray, y: np.ndarray, irreducible: float) -> tuple[float, float, float, float] | None:
    """Slope, intercept, standard error of the slope of log(y - irreducible) over log x; None if y is not above it."""
    if len(x) < 3 or (y <= irreducible).any() or np.ptp(x) == 0:
        return None
    u, v = np.log(x), np.log(y - irreducible)
    spread = float(((u - u.mean()) ** 2).sum())
    alpha = float(((u - u.mean()) * (v - v.mean())).sum() / spread)
    intercept = float(v.mean() - alpha * u.mean())
    rest = v - intercept - alpha * u
    return alpha, intercept, math.sqrt(float((rest**2).sum()) / (len(x) - 2) / spread), irreducible


def _free(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float, float] | None:
    """The same with the constant that is subtracted fitted too, by least squares in log y (Levenberg and Marquardt)."""
    from scipy.optimize import least_squares

    u, low = np.log(x), float(y.min())

    def law(p: np.ndarray) -> np.ndarray:  # the constant is below all values: E = low / (1 + exp(-p0))
        return np.log(low / (1 + np.exp(-p[0])) + np.exp(p[1] + p[2] * u)) - np.log(y)

    best = None
    for share in (0.1, 0.5, 0.9, 0.99):
        start = _line(x, y, share * low)
        if start is None or len(x) < 4:
            return None
        found = least_squares(law, [math.log(share / (1 - share)), start[1], start[0]], method="lm")
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    info = best.jac.T @ best.jac
    if not np.isfinite(info).all() or np.linalg.cond(info) > 1e14:  # without a bend any constant does
        return None
    covariance = np.linalg.inv(info) * 2 * best.cost / max(1, len(x) - 3)
    irreducible = low / (1 + math.exp(-best.x[0]))
    return float(best.x[2]), float(best.x[1]), math.sqrt(max(0.0, float(covariance[2, 2]))), irreducible


def _exponent(found: Sequence[Point], over: str, given: float | None) -> float | None:
    used = _used(found, over)
    x, y = np.array([p.x for p in used]), np.array([p.value for p in used])
    line = _free(x, y) if given is None else _line(x, y, given)
    return line[0] if line else None


def _by_seeds(found: Sequence[Point], over: str, given: float | None) -> tuple[float, float] | None:
    """95% interval of the exponent when the training seeds are drawn again, the same for all models and places.

    Draws in which a model has none of its seeds are left out.
    """
    numbers = sorted({number for point in found for number in point.numbers})
    if len(numbers) < 2:
        return None

    @cache
    def exponent(chosen: tuple[int, ...]) -> float | None:
        again = []
        for point in found:
            values = dict(zip(point.numbers, point.seeds, strict=True))
            again.append(point._replace(seeds=tuple(values[number] for number in chosen if number in values)))
        return _exponent(again, over, given) if all(point.seeds for point in again) else None

    draws = np.random.default_rng(0).choice(numbers, (RESAMPLES, len(numbers)))
    drawn = [alpha for draw in np.sort(draws) if (alpha := exponent(tuple(draw.tolist()))) is not None]
    return (float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))) if len(drawn) > 20 else None


def _without_one(found: Sequence[Point], over: str, given: float | None) -> tuple[float, float] | None:
    names = list(dict.fromkeys(point.variant for point in found))
    if len(names) < 4:
        return None
    left = [_exponent([p for p in found if p.variant != name], over, given) for name in names]
    known = [alpha for alpha in left if alpha is not None]
    return (min(known), max(known)) if len(known) == len(names) else None


def law(check: Law, results: Results) -> Finding:
    """A claim that loss or error falls with size or compute by a power law (see above)."""
    row = paper_rows(TABLE)[check.row]
    if results.study.laws is None:
        return Finding(NOT_RUN, None, "the study fits no laws")
    found = points(results, row["quantity"], row["tokens"], row["over"])
    made = fits(found, row["over"], float(row["subtracted"]) if row["subtracted"] else None)
    fit = made.get("raw")
    if fit is None:
        return Finding(NOT_RUN, None, "fewer than three models are on the front that is fitted")
    seeds = sorted({len(point.seeds) for point in found})
    text = f"exponent {fit.alpha:.3f} [{fit.low:.3f}, {fit.high:.3f}] over {row['over']}"
    many = f"{' and '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''}"
    where = f" on the front of {len({point.variant for point in found})}" if row["over"] == "compute" else ""
    text += f", correlation {fit.correlation:.3f}, {fit.models} models{where}, {many} each"
    if (own := made.get("subtracted")) is not None:
        text += f"; with {short(own.irreducible)} subtracted {own.alpha:.3f}"
    given = f" of what lies above {row['subtracted']}" if row["subtracted"] else ""
    text += f"; the paper: {row['alpha']}{given}, correlation {row['correlation']}"
    open_ = "the interval reaches both sides of exponent 0: more models would tell"
    if fit.falls:
        open_ = f"it falls, but not along a line: correlation {fit.correlation:.3f}, asked for {STRAIGHT} or below; "
        open_ += "more seeds would tell scatter from a bend"
    missing = Missing(kind="interval", text=open_)
    return Finding(verdict_of(fit.falls and fit.straight, fit.low > 0), None, text, missing=missing)
