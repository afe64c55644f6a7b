"""The table `fast`: fast sampling modes of one variant against its default setting, each accepted or refused.

Image i of a mode and image i of the default have the same weights, label and random numbers, so the sets are paired,
and each resample of the bootstrap draws pairs, within classes (`mar/metrics/paired.py`). What a mode loses in each
metric, its interval and the rule: `mar/analysis/noninferiority.py`. With several training seeds a loss is the mean
over the seeds, each with its own resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.noninferiority import MARGINS, Loss, enough, judge, loss, power
from mar.analysis.result_files import Estimate
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.real_sets import real_side
from mar.study.sections import Modes
from mar.study.study import Study

if TYPE_CHECKING:
    import numpy as np

    from mar.metrics.paired import Resampled

    Sets = list[tuple[Path, np.ndarray, dict[str, Resampled]]]


@dataclass(frozen=True)
class Mode:
    """The default setting or a fast mode, with its numbers.

    Attributes:
        setting: name of the sampling setting.
        differs: the keys of the setting that differ from the default, as text; for the default, all that it sets.
        seconds: seconds per image; None if not timed.
        speedup: seconds of the default / seconds of the mode; None if one of them is not timed.
        metrics: metrics by name, with the intervals over images.
        losses: what it loses in each metric; empty for the default.
        power: probability that a mode that loses nothing is accepted; 0 for the default.
        enough: images with which it is accepted in 90% of studies; None for the default, or where there are none.
    """

    setting: str
    differs: str
    seconds: Estimate | None
    speedup: float | None
    metrics: dict[str, Estimate]
    losses: dict[str, Loss]
    power: float = 0.0
    enough: int | None = None

    @property
    def difference(self) -> Loss | None:
        """The relative loss of FID; None for the default."""
        return self.losses.get("fid")

    @property
    def refused(self) -> tuple[str, ...]:
        """Reasons why the rule refuses it; empty if it accepts it."""
        return tuple(
            f"{title(metric)} {'up' if metric == 'fid' else 'down'} by up to {percent(loss.bound).lstrip('+')}"
            for metric, loss in self.losses.items()
            if not loss.accepted
        )


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
    names = [metric for metric in MARGINS if metric in results.names]
    cells = {s: {m: _cell(results, section.variant, s, m) for m in names} for s in (section.default, *section.modes)}
    sets = {s: _sets(results, section, s) for s in (section.default, *section.modes)}
    for setting in (section.default, *section.modes):
        seconds = results.seconds(section.variant, setting)
        speedup = default_seconds.value / seconds.value if default_seconds and seconds else None
        mode = Mode(setting, _differs(results, section, setting), seconds, speedup, cells[setting], {})
        if setting != section.default:
            values, resampled = _losses(names, sets[setting], sets[section.default])
            mode = replace(
                mode,
                losses=judge(values, resampled),
                power=power(resampled),
                enough=enough(resampled, study.metrics.samples),
            )
        rows.append(mode)
    return rows


def _cell(results: Results, variant: str, setting: str, metric: str) -> Estimate:
    """Mean of a metric over training seeds; its interval is over images alone: all modes share the weights."""
    each = results.each(variant, setting, metric)
    value, ends = fmean(e.value for e in each), [(e.low - e.value, e.high - e.value) for e in each]
    low, high = (math.sqrt(sum(end[side] ** 2 for end in ends)) / len(each) for side in (0, 1))
    return Estimate(value, value - low, value + high, each[0].n, results.study.variants[variant].seeds)


def _sets(results: Results, section: Modes, setting: str) -> Sets:
    """For each training seed the folder of the features, the labels, and the metrics with their resamples."""
    from mar.features import features
    from mar.metrics import paired, real_images
    from mar.metrics.bootstrap import Bootstrap

    study, root = results.study, results.root
    main = study.metrics.extractors[0]
    found: Sets = []
    target = real_images.real(study, root, main)
    path = layout.statistics(root, main, real_side(study, main))
    digest = sha256(path)
    for seed in study.variants[section.variant].seeds:
        stored = features.read(root, main, layout.sample_set(section.variant, seed, setting), "generated")
        if results.metrics(section.variant, seed, setting).inputs.get(f"real {main}", digest) != digest:
            raise ValueError(
                f"{path}: not the file that {results.metric_file(section.variant, seed, setting)} was made with; "
                "accepted: the same; run `mar evaluate` again"
            )
        labels = stored.array("labels")
        arrays: dict[str, np.ndarray] = {}
        for key in ("features", "logits"):
            if key in stored.keys:
                arrays[key] = stored.array(key)
        draw = Bootstrap(labels, study.metrics.bootstrap, study.seed + seed)
        found.append((stored.folder, labels, paired.resampled(draw, arrays, target, study.metrics.neighbours)))
    return found


def _losses(names: Sequence[str], modes: Sets, defaults: Sets) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """The losses of a mode, and those of the resamples: means over the training seeds."""
    import numpy as np

    values: dict[str, list[float]] = {}
    resampled: dict[str, list[np.ndarray]] = {}
    for (place, labels, mode), (other, theirs, default) in zip(modes, defaults, strict=True):
        if not np.array_equal(labels, theirs):
            raise ValueError(f"{place}: of other labels than {other}; accepted: the same, in pairs")
        for metric in (name for name in names if name in mode):
            of = default[metric].value
            values.setdefault(metric, []).append(float(loss(metric, mode[metric].value, of, of)))
            each = loss(metric, mode[metric].values, default[metric].values, of)
            resampled.setdefault(metric, []).append(np.asarray(each))
    return {m: fmean(x) for m, x in values.items()}, {m: np.mean(x, axis=0) for m, x in resampled.items()}


def _differs(results: Results, section: Modes, setting: str) -> str:
    """Keys of a setting whose values differ from the default's; for the default, from those of an empty setting."""
    settings = results.sampling(section.variant, setting)
    used, other = settings.model_dump(), results.sampling(section.variant, section.default).model_dump()
    if setting == section.default:
        other = type(settings)(steps=settings.steps).model_dump() | {"steps": None}
    changed = {key: value for key, value in used.items() if value != other.get(key) and key != "sweep"}
    changed |= {key: str(said) for key, said in settings.annealed.items() if key in changed}
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
