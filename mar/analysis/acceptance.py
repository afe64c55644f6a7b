"""The table `fast`: fast sampling modes of one variant against its default setting, each accepted or refused.

*What is estimated.* d = (FID of the mode - FID of the default) / FID of the default, the relative loss of quality.

*Interval.* Image i of a mode and image i of the default have the same weights, label and random numbers, so the sets
are paired. Each resample of the bootstrap draws pairs, within classes. It moves d by the mean over its pairs of
(jackknife value of the mode's image - that of the default's image) / FID of the default (`mar/metrics/jackknife.py`).
With several training seeds d is the mean over the seeds, each with its own resamples.

*Rule.* A mode is accepted if the upper end of the 95% interval of d is at most MARGIN, and its Inception score,
precision and recall lie inside the default's intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.result_files import Estimate
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.real_sets import real_side
from mar.study.sections import Modes
from mar.study.study import Study

MARGIN = 0.05  # largest accepted relative loss of FID
INSIDE = ("inception_score", "precision", "recall")  # of these, the ones that the study measures


@dataclass(frozen=True)
class Mode:
    """The default setting or a fast mode, with its numbers.

    Attributes:
        setting: name of the sampling setting.
        differs: the keys of the setting that differ from the default, as text; for the default, all that it sets.
        seconds: seconds per image; None if not timed.
        speedup: seconds of the default / seconds of the mode; None if one of them is not timed.
        metrics: metrics by name, with the intervals over images.
        difference: relative loss of FID (d above); None for the default.
        refused: reasons why the mode is refused; empty if it is accepted.
    """

    setting: str
    differs: str
    seconds: Estimate | None
    speedup: float | None
    metrics: dict[str, Estimate]
    difference: Estimate | None
    refused: tuple[str, ...]


def modes(results: Results) -> list[Mode]:
    """The default and every mode, in the order of the study; empty if the variant is not trained.

    Raises:
        ValueError: a file is missing or stale, or the images of a mode have other labels than the default's.
    """
    section, study = section_of(results.study), results.study
    if not study.variants[section.variant].seeds:
        return []
    rows = []
    default_seconds = results.seconds(section.variant, section.default)
    differences = {s: _difference(results, section, s) for s in section.modes}
    names = [metric for metric in ("fid", *INSIDE) if metric in results.names]
    cells = {s: {m: _cell(results, section.variant, s, m) for m in names} for s in (section.default, *section.modes)}
    for setting in (section.default, *section.modes):
        seconds = results.seconds(section.variant, setting)
        speedup = default_seconds.value / seconds.value if default_seconds and seconds else None
        difference = differences.get(setting)
        refused = _refused(cells[setting], cells[section.default], difference) if difference else ()
        differs = _differs(results, section, setting)
        rows.append(Mode(setting, differs, seconds, speedup, cells[setting], difference, refused))
    return rows


def _cell(results: Results, variant: str, setting: str, metric: str) -> Estimate:
    """Mean of a metric over training seeds; its interval is over images alone: all modes share the weights."""
    each = results.each(variant, setting, metric)
    value, ends = fmean(e.value for e in each), [(e.low - e.value, e.high - e.value) for e in each]
    low, high = (math.sqrt(sum(end[side] ** 2 for end in ends)) / len(each) for side in (0, 1))
    return Estimate(value, value - low, value + high, each[0].n, results.study.variants[variant].seeds)


def _difference(results: Results, section: Modes, setting: str) -> Estimate:
    """Relative difference of FID from the default's, with its interval over paired images (module docstring)."""
    import numpy as np

    from mar.features import features
    from mar.metrics import evaluate, jackknife
    from mar.metrics.bootstrap import Bootstrap

    study, root = results.study, results.root
    main, seeds = study.metrics.extractors[0], study.variants[section.variant].seeds
    real = evaluate.real(study, root, main, images=False).statistics
    path = layout.statistics(root, main, real_side(study, main))
    digest = sha256(path)
    values, resampled = [], []
    for seed in seeds:
        pair = (setting, section.default)
        sets = [features.read(root, main, layout.sample_set(section.variant, seed, name), "generated") for name in pair]
        for name in pair:
            if results.metrics(section.variant, seed, name).inputs.get(f"real {main}", digest) != digest:
                raise ValueError(
                    f"{path}: not the file that {results.metric_file(section.variant, seed, name)} was made with; "
                    "accepted: the same; run `mar evaluate` again"
                )
        labels, default_labels = (stored.array("labels") for stored in sets)
        if not np.array_equal(labels, default_labels):
            raise ValueError(f"{sets[0].folder}: of other labels than {sets[1].folder}; accepted: the same, in pairs")
        (fid, moves), (default, default_moves) = (jackknife.fid(stored.array("features"), real) for stored in sets)
        counts = Bootstrap(labels, study.metrics.bootstrap, study.seed + seed).counts
        values.append((fid - default) / default)
        resampled.append(counts @ (moves - default_moves) / len(labels) / default)
    value, means = float(np.mean(values)), np.mean(resampled, axis=0)
    low, high = value + np.percentile(means, [2.5, 97.5]) - means.mean()
    return Estimate(value, float(low), float(high), study.metrics.samples, seeds)


def _refused(cells: dict[str, Estimate], default: dict[str, Estimate], difference: Estimate) -> tuple[str, ...]:
    """Reasons why the rule refuses a mode; empty if it accepts it."""
    reasons = []
    if difference.high > MARGIN:
        reasons.append(f"FID difference up to {percent(difference.high)}")
    for metric in INSIDE:
        if metric in cells and not default[metric].low <= (value := cells[metric].value) <= default[metric].high:
            side = "below" if value < default[metric].low else "above"
            reasons.append(f"{title(metric)} {side} the default's interval")
    return tuple(reasons)


def _differs(results: Results, section: Modes, setting: str) -> str:
    """Keys of a setting whose values differ from the default's; for the default, from those of an empty setting."""
    used = results.sampling(section.variant, setting).model_dump()
    other = results.sampling(section.variant, section.default).model_dump()
    standard = type(results.study.sampling[setting]).model_fields
    if setting == section.default:
        other = {key: field.default for key, field in standard.items()}
    changed = {key: value for key, value in used.items() if value != other.get(key) and key != "sweep"}
    return ", ".join(f"{key.replace('_', ' ')} {f'{v:g}' if isinstance(v, float) else v}" for key, v in changed.items())


def percent(x: float) -> str:
    """A share as a signed percentage with one decimal."""
    return f"{100 * x:+.1f}%"


def section_of(study: Study) -> Modes:
    """The section `fast` of a study.

    Raises:
        ValueError: it has none.
    """
    if study.fast is None:
        raise ValueError(f"study {study.study}: table fast: the study has no section `fast`; accepted: one with it")
    return study.fast
