"""The table `fast`: fast sampling modes of one variant against its default setting, each accepted or refused.

*Pairs.* A mode and the default have the same weights, labels and seeds of noise, image by image. What the image i moves
FID by (`mar/metrics/influence.py`) is taken from both sets together: a resample of the bootstrap draws pairs. Of
several training seeds the relative differences are averaged, each with resamples of its own.

*Rule.* A mode is accepted where the upper end of the 95% interval of (FID - FID of the default) / FID of the default is
at most MARGIN, and its IS, precision and recall lie inside the default's intervals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from mar.config import Modes, Study
from mar.estimates import Estimate, Results
from mar.files import write_text
from mar.results import short, title
from mar.slices import real_side
from mar.typeset import Head, latex, markdown

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "fast", "Fast sampling modes"
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


def inputs(study: Study) -> list[str]:
    """Files under the results folder that the table reads beside the metric files."""
    asked, main = _modes(study), study.metrics.extractors[0]
    seeds = study.variants[asked.variant].seeds
    settings = (asked.default, *asked.modes) if seeds else ()
    made = [f"features/{main}/{asked.variant}/seed{seed}/{s}/manifest.json" for seed in seeds for s in settings]
    timed = [f"speed/{asked.variant}.json"] if seeds else []
    return [*made, f"statistics/{main}/{real_side(study, main)}.npz", *timed]


def modes(results: Results) -> list[Mode]:
    """The default and every mode of a study, in its order; nothing where the variant is not trained.

    Raises:
        ValueError: a file is missing or stale, or the images of a mode are of other labels than the default's.
    """
    asked, study = _modes(results.study), results.study
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

    from mar.metrics import evaluate, features, influence
    from mar.metrics.bootstrap import Bootstrap

    study, root = results.study, results.root
    main, seeds = study.metrics.extractors[0], study.variants[asked.variant].seeds
    there = evaluate.real(study, root, main, images=False).statistics
    values, resampled = [], []
    for seed in seeds:
        sets = [
            features.read(root, main, f"{asked.variant}/seed{seed}/{s}", "generated") for s in (setting, asked.default)
        ]
        labels, theirs = (found.array("labels") for found in sets)
        if not np.array_equal(labels, theirs):
            raise ValueError(f"{sets[0].folder}: of other labels than {sets[1].folder}; accepted: the same, in pairs")
        (fid, moves), (default, default_moves) = (influence.fid(found.array("features"), there) for found in sets)
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
        said.append(f"FID difference up to {_percent(difference.high)}")
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


def _percent(x: float) -> str:
    return f"{100 * x:+.1f}%"


def frame(found: list[Mode]) -> pd.DataFrame:
    """A row for the default and each mode: seconds, speed-up, metrics and difference with intervals, verdict."""
    import pandas as pd

    lines = []
    for mode in found:
        line: dict[str, Any] = {"setting": mode.setting, "differs": mode.differs}
        numbers = {"seconds": mode.seconds, **mode.metrics, "fid_difference": mode.difference}
        for name, number in numbers.items():
            ends = (number.value, number.low, number.high) if number else ("", "", "")
            line |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        line |= {"speedup": mode.speedup or "", "n": mode.metrics["fid"].n}
        line |= {"accepted": "" if mode.difference is None else not mode.refused, "refused": "; ".join(mode.refused)}
        lines.append(line)
    return pd.DataFrame(lines, dtype=object)


def texts(found: list[Mode]) -> tuple[list[Head], list[list[str]]]:
    """Headings and rows to read."""
    names = list(found[0].metrics) if found else []
    heads = [Head("setting"), Head("differs by"), Head("seconds an image", align="r"), Head("times as fast", align="r")]
    heads += [Head(title(metric), align="r") for metric in names] + [
        Head("FID difference", align="r"),
        Head("accepted"),
    ]
    rows = []
    for mode in found:
        difference = ""
        if mode.difference:
            low, high = _percent(mode.difference.low), _percent(mode.difference.high)
            difference = f"{_percent(mode.difference.value)} [{low}, {high}]"
        verdict = "" if mode.difference is None else f"no: {'; '.join(mode.refused)}" if mode.refused else "yes"
        cells = [mode.setting, mode.differs or "the default", str(mode.seconds or "")]
        cells += [short(mode.speedup) if mode.speedup else "", *(str(mode.metrics[metric]) for metric in names)]
        rows.append([*cells, difference, verdict])
    return heads, rows


def note(results: Results, found: list[Mode]) -> str:
    """What the numbers are, and how many images the rule takes."""
    study, asked = results.study, _modes(results.study)
    differences = [mode.difference for mode in found if mode.difference]
    if not differences:
        return f"Not run: {asked.variant} has no training seeds."
    widest = max((d.high - d.low) / 2 for d in differences)
    enough = int(-(-study.metrics.samples * (widest / MARGIN) ** 2 // 100) * 100)
    return (
        f"Variant {asked.variant}, {study.metrics.samples} images a set, same weights, labels and noise seeds. FID "
        f"difference: from the default's, in percent of it, with its 95% interval from {study.metrics.bootstrap} "
        f"resamples of pairs. Accepted: its upper end is at most {100 * MARGIN:g}%, and IS, precision and recall lie "
        f"inside the default's intervals. The widest interval is +-{100 * widest:.1f}%: a mode of exactly the "
        f"default's FID passes from about {enough} images on. Seconds: median and range of timed batches, by the "
        f"protocol of the trade-off figure. FID of real images held out: {results.floor('fid')}."
    )


def table(study: Study, root: Path) -> None:
    """Write tables/fast.{csv,md,tex}."""
    results, folder = Results(study, root), root / "tables"
    found = modes(results)
    heads, rows = texts(found)
    write_text(folder / f"{NAME}.tex", latex(TITLE, heads, rows, note(results, found)))
    write_text(folder / f"{NAME}.md", markdown(TITLE, heads, rows, note(results, found)))
    write_text(folder / f"{NAME}.csv", frame(found).to_csv(index=False, lineterminator="\n"))
    accepted = sum(mode.difference is not None and not mode.refused for mode in found)
    print(f"{folder / NAME}.csv, .md, .tex: {accepted} of {max(0, len(found) - 1)} modes accepted", flush=True)


def _modes(study: Study) -> Modes:
    if study.fast is None:
        raise ValueError(f"study {study.study}: table {NAME}: the study has no section `fast`; accepted: one with it")
    return study.fast
