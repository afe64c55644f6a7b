"""rFID of a variant that has one tokenizer for each training seed (`per_seed`), with the spread over these tokenizers.

y is log rFID of one tokenizer and b its bootstrap standard error over images. All tokenizers rebuild the same images,
so the noise of the images moves them together and does not shrink with their number K, and the scatter over seeds
contains little of it. s^2 is the variance of y over the seeds of a section, pooled over the sections with weights
K - 1, and has dof = sum of (K - 1) degrees of freedom. The interval of the mean is
mean(y) +- sqrt(t^2 s^2 / K + z^2 mean b^2), where t is the 97.5% quantile of Student's t distribution with dof degrees
of freedom and z that of the normal distribution. Without a section of two seeds s is unknown, and the interval
contains the noise of the images alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

from mar.analysis.intervals import Z, quantile
from mar.analysis.result_files import Estimate, Source

LEAST = 1e-6  # rFID counts as at least this much, which keeps its logarithm finite


def over_seeds(own: Sequence[Estimate], sections: Sequence[Sequence[Estimate]]) -> Estimate:
    """The geometric mean of the rFID of a variant's tokenizers.

    Args:
        own: rFID of the tokenizer of each training seed of the variant, (K,).
        sections: rFID of each tokenizer of every section with `per_seed`, the variant's among them.
    """
    several = [[_log(e) for e in section] for section in sections if len(section) > 1]
    dof = sum(len(y) - 1 for y in several)
    spread = sum((len(y) - 1) * variance(y) for y in several) / dof if dof else 0.0
    noise = fmean(((e.high - e.low) / (2 * Z * max(e.value, LEAST))) ** 2 for e in own)
    middle = fmean(map(_log, own))
    half = math.sqrt((quantile(dof) if dof else Z) ** 2 * spread / len(own) + Z**2 * noise)
    value, low, high = (math.exp(x) for x in (middle, middle - half, middle + half))
    files = tuple(file for e in own if e.source for file in e.source.files)
    source = own[0].source and Source(own[0].source.variant, None, "rfid", files)
    return Estimate(value, low, high, own[0].n, tuple(seed for e in own for seed in e.seeds), source)


def _log(estimate: Estimate) -> float:
    return math.log(max(estimate.value, LEAST))
