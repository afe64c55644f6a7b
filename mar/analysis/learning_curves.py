"""Where a training had its optimum, and whether it was still learning when it ended.

*Still learning.* In the last quarter of a training FID changes from one kept average to the last; the images of both
are drawn with the same random numbers and compared with the same held-out images. The effect is the mean over the
training seeds of log(FID at the end / FID before), its variance the mean of the seeds' variances by the images, divided
by their number. A model is still learning if the 95% interval lies below zero, so where the curve is flat that is said
of 2.5% of the models. A comparison of different trainings that such a side loses decides nothing: it might have won at
its end. Comparisons of one training with itself are not concerned.

*Out of reach.* We assume that on logarithmic axes a curve of FID over images flattens, as a power law with a floor
does, so that no later rate is faster than that of the last quarter. A side that at this rate would have to see more
than FAR times as many images to come level with where the other is now could not have caught up: that it was still
learning is told, and forbids no verdict. Rate and gap are taken at those ends of their intervals that bring the two
level soonest. The rate is that of the setting of `learning`, whichever settings are compared.

*Optimum.* The point of lowest mean over the seeds. The FID there is that of a model chosen by it, so it is shown beside
the final one and used by no claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from mar.analysis.estimates import Results
from mar.analysis.intervals import Z
from mar.study.labels import label
from mar.study.products import learned, learning_setting
from mar.study.records import LearningPoint, LearningRecord, Missing, Range

FAR = 100.0  # times as many images: from four epochs, the length of `fashion`, to the 400 of the paper


@dataclass(frozen=True)
class Trend:
    """Change of FID in the last quarter of a variant's trainings: the log ratio with its 95% interval.

    Attributes:
        since: images seen at the point that it is counted from.
        until: images seen at the end.
        effect: mean log ratio over the seeds, below 0 where FID fell.
        low: lower end of the interval.
        high: upper end.
    """

    since: int
    until: int
    effect: float
    low: float
    high: float

    @property
    def falls(self) -> bool:
        """Whether FID still falls beyond the interval."""
        return self.high < 0

    def longer(self, gap: float) -> float:
        """How many times as many images would lower FID by a log ratio `gap` > 0, at the fastest rate in the interval.

        Infinity where not even that falls, or for more than 10^6 times as many.
        """
        quarters = gap / -self.low if self.low < 0 else math.inf
        times = quarters * math.log(self.until / self.since)
        return math.exp(times) if times < math.log(1e6) else math.inf

    def __str__(self) -> str:
        effect, low, high = (f"{100 * math.expm1(x):+.1f}%" for x in (self.effect, self.low, self.high))
        return f"{effect} [{low}, {high}]"


def trend(records: Sequence[LearningRecord]) -> Trend | None:
    """Change of FID in the last quarter, of the records of all seeds of a variant; None where it was not measured."""
    falls = [record.fall for record in records if record.fall is not None]
    if not falls or len(falls) < len(records):
        return None
    effect = fmean(fall.effect for fall in falls)
    half = Z * math.sqrt(sum(fall.error**2 for fall in falls)) / len(falls)
    return Trend(falls[0].since, records[0].points[-1].images, effect, effect - half, effect + half)


def records(results: Results, variant: str) -> list[LearningRecord]:
    """The curves of all seeds of a variant; none where it keeps no averages."""
    return [results.learning(name, seed) for name, seed in learned(results.study) if name == variant]


def still_learning(results: Results, variants: Iterable[str]) -> Missing | None:
    """That some of these variants were still learning when their trainings ended; None if none was."""
    asked = {name: records(results, name) for name in variants if learning_setting(results.study, name)}
    trends = {name: found for name, of in asked.items() if (found := trend(of)) is not None and found.falls}
    if not trends:
        return None
    parts = [f"{label(results.study, name)} {found} since {found.since:,} images" for name, found in trends.items()]
    text = f"FID still falls at the end of training: {', '.join(parts)}"
    return Missing(kind="still learning", text=text, variants=tuple(trends))


def heldout_loss(point: LearningPoint, split: str = "heldout") -> Range:
    """Loss of one training at a point, mean over the mask ratios.

    The interval is the mean of theirs, since the ratios share images.
    """
    by_ratio = list(getattr(point, split).values())
    value, low, high = (fmean(getattr(metric, key) for metric in by_ratio) for key in ("value", "low", "high"))
    return Range(value=value, low=low, high=high)


def mean(numbers: Sequence[Range]) -> Range:
    """Mean of independent numbers, with the interval that their intervals give it."""
    value = fmean(number.value for number in numbers)
    half = [math.sqrt(sum((getattr(n, key) - n.value) ** 2 for n in numbers)) / len(numbers) for key in ("low", "high")]
    return Range(value=value, low=value - half[0], high=value + half[1])


def along(records: Sequence[LearningRecord], what: str) -> list[tuple[int, Range]]:
    """Images seen and the mean over the seeds of `heldout`, `train` (losses), `fid`; points without it are left out."""

    def numbers(images: int) -> list[Range]:
        points = [point for record in records for point in record.points if point.images == images]
        if what in ("heldout", "train"):
            return [heldout_loss(point, what) for point in points]
        return [metric for point in points if (metric := getattr(point, what)) is not None]

    places = [point.images for point in records[0].points] if records else []
    return [(images, mean(found)) for images in places if len(found := numbers(images)) == len(records)]


def optimum(curve: Sequence[tuple[int, Range]]) -> tuple[int, Range] | None:
    """The lowest point of a curve; None without points."""
    return min(curve, key=lambda point: point[1].value) if curve else None
