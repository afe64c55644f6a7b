"""The table `fast`: fast sampling modes of one variant against its default setting, each accepted or refused.

*Pairs.* A mode and the default have the same weights, labels and seeds of noise, image by image. What the image i moves
FID by (`mar/metrics/jackknife.py`) is taken from both sets together: a resample of the bootstrap draws pairs. Of
several training seeds the relative differences are averaged, each with resamples of its own.

*Rule.* A mode is accepted where the upper end of the 95% interval of (FID - FID of the default) / FID of the default is
at most MARGIN, and its IS, precision and recall lie inside the default's intervals.
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
from mar.study.sections import Modes
from mar.study.stage_keys import real_side
from mar.study.study import Study

MARGIN = 0.05  # of the default's FID
INSIDE = ("inception_score", "precision", "recall")  # those that the judging network gives


@dataclass(frozen=True)
class Mode:
    """A setting beside the default: what differs, its numbers, and why it is refused (accepted: nothing)."""

    setting: str
    differs: str
    seconds: Estimate | None
    speedup: float | None
    metrics: dict[str, Estimate]
    difference: Estimate | None  # of FID from the default's, relative; none of the default itself
    refused: tuple[str, ...]


def modes(results: Results) -> list[Mode]:
    """The default and every mode of a study, in its order; nothing where the variant is not trained.

    Raises:
        ValueError: a file is missing or stale, or the images of a mode are of other labels than the default's.
    """
    asked, study = section_of(results.study), results.study
    if not study.variants[asked.variant].seeds:
        return []
    found = []
    slow = results.seconds(asked.variant, asked.default)
    drawn = {s: _differences(results, asked, s) for s in asked.modes}
    names = [metric for metric in ("fid", *INSIDE) if metric in results.names]
    cells = {s: {m: _cell(results, asked.variant, s, m) for m in names} for s in (asked.default, *asked.modes)}
    for setting in (asked.default, *asked.modes):
        seconds = results.seconds(asked.variant, setting)
        speedup = slow.value / seconds.value if slow and seconds else None
        difference = drawn.get(setting)
        refused = _refused(cells[setting], cells[asked.default], difference) if difference else ()
        differs = _differs(results, asked, setting)
        found.append(Mode(setting, differs, seconds, speedup, cells[setting], difference, refused))
    return found


def _cell(results: Results, variant: str, setting: str, metric: str) -> Estimate:
    """Mean over training seeds. The weights of a pair are the same, so the interval holds the images alone."""
    each = results.each(variant, setting, metric)
    value, ends = fmean(e.value for e in each), [(e.low - e.value, e.high - e.value) for e in each]
    low, high = (math.sqrt(sum(end[side] ** 2 for end in ends)) / len(each) for side in (0, 1))
    return Estimate(value, value - low, value + high, each[0].n, results.study.variants[variant].seeds)


def _differences(results: Results, asked: Modes, setting: str) -> Estimate:
    """(FID - FID of the default) / FID of the default, of pairs."""
    import numpy as np

    from mar.features import features
    from mar.metrics import evaluate, jackknife
    from mar.metrics.bootstrap import Bootstrap

    study, root = results.study, results.root
    main, seeds = study.metrics.extractors[0], study.variants[asked.variant].seeds
    there = evaluate.real(study, root, main, images=False).statistics
    path = layout.statistics(root, main, real_side(study, main))
    digest = sha256(path)
    values, resampled = [], []
    for seed in seeds:
        sets = [
            features.read(root, main, f"{asked.variant}/seed{seed}/{s}", "generated") for s in (setting, asked.default)
        ]
        for name in (setting, asked.default):
            if results.metrics(asked.variant, seed, name).inputs.get(f"real {main}", digest) != digest:
                raise ValueError(
                    f"{path}: not the file that {results.metric_file(asked.variant, seed, name)} was made with; "
                    "accepted: the same; run `mar evaluate` again"
                )
        labels, theirs = (found.array("labels") for found in sets)
        if not np.array_equal(labels, theirs):
            raise ValueError(f"{sets[0].folder}: of other labels than {sets[1].folder}; accepted: the same, in pairs")
        (fid, moves), (default, default_moves) = (jackknife.fid(found.array("features"), there) for found in sets)
        counts = Bootstrap(labels, study.metrics.bootstrap, study.seed + seed).counts
        values.append((fid - default) / default)
        resampled.append(counts @ (moves - default_moves) / len(labels) / default)
    value, drawn = float(np.mean(values)), np.mean(resampled, axis=0)
    low, high = value + np.percentile(drawn, [2.5, 97.5]) - drawn.mean()
    return Estimate(value, float(low), float(high), study.metrics.samples, seeds)


def _refused(cells: dict[str, Estimate], default: dict[str, Estimate], difference: Estimate) -> tuple[str, ...]:
    """What the rule has against a mode."""
    said = []
    if difference.high > MARGIN:
        said.append(f"FID difference up to {percent(difference.high)}")
    for metric in INSIDE:
        if metric in cells and not default[metric].low <= (value := cells[metric].value) <= default[metric].high:
            said.append(f"{title(metric)} {'below' if value < default[metric].low else 'above'} the default's interval")
    return tuple(said)


def _differs(results: Results, asked: Modes, setting: str) -> str:
    """What a setting says otherwise than the default; of the default all that it says."""
    used = results.sampling(asked.variant, setting).model_dump()
    other = results.sampling(asked.variant, asked.default).model_dump()
    standard = type(results.study.sampling[setting]).model_fields
    if setting == asked.default:
        other = {key: field.default for key, field in standard.items()}
    changed = {key: value for key, value in used.items() if value != other[key] and key != "sweep"}
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
