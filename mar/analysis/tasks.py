"""Zero-shot tasks: what each model did, models compared on the same images, and whether what is drawn fits.

*The claim* that what is drawn fits its surroundings compares a picture's part with a part that the same model drew for
another image of the same class, both within the picture's own surroundings: log(FID / FID exchanged), with a 95%
interval by the images. It is replicated if the interval of every model of the study's `tasks` lies below zero, and not
replicated if that of one lies above. Weights are the same on both sides, so it needs one training seed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mar.analysis.estimates import Results
from mar.analysis.findings import Finding, verdict_of
from mar.analysis.intervals import Z
from mar.analysis.paper_columns import NOT_RUN
from mar.paper.claims import Fits
from mar.runtime import npz
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.labels import label
from mar.study.products import edited
from mar.study.records import Change, Missing, TaskDone, TasksRecord


class Effect(NamedTuple):
    """A difference or log ratio with its 95% interval."""

    effect: float
    low: float
    high: float


def records(results: Results) -> list[TasksRecord]:
    """What each model of the study's `tasks` did, in the order of the study."""
    return [results.tasks(variant, seed) for variant, seed in edited(results.study)]


def done(record: TasksRecord, task: str) -> TaskDone:
    """One task of a model.

    Raises:
        ValueError: it has not done it.
    """
    found = next((one for one in record.tasks if one.task == task), None)
    if found is None:
        raise ValueError(f"tasks of {record.variant}: has no {task}; accepted: remove it, and the same command does it")
    return found


def interval(change: Change) -> Effect:
    """A change with its 95% interval."""
    return Effect(change.effect, change.effect - Z * change.error, change.effect + Z * change.error)


def against(results: Results, a: TasksRecord, b: TasksRecord, task: str, measure: str) -> Effect | None:
    """How a compares with b on the same images: log ratio of a FID, else the mean difference; None if not measured.

    Raises:
        ValueError: the numbers of each image are missing, or not those of the records.
    """
    rows = []
    for record in (a, b):
        path = layout.tasks(results.root, record.variant, record.seed).with_name(layout.MEASURES)
        if not path.exists() or sha256(path) != record.measures:
            raise ValueError(f"{path}: missing, or not that of {layout.TASKS} beside it; run `mar tasks` again")
        name = f"{task}.{measure}"
        if name not in npz.headers(path):
            return None
        rows.append(npz.read(path, name))
    moved = rows[0] - rows[1]
    if measure == "fid":  # what each image moves log FID
        effect = math.log(done(a, task).metrics["fid"].value / done(b, task).metrics["fid"].value)
    else:
        effect = float(moved.mean())
    half = Z * float(np.std(moved, ddof=1)) / math.sqrt(len(moved))
    return Effect(effect, effect - half, effect + half)


def fits(check: Fits, results: Results) -> Finding:
    """A claim that what is drawn fits its surroundings (see above)."""
    if results.study.tasks is None:
        return Finding(NOT_RUN, None, "the study has no tasks")
    found = [(record, interval(done(record, check.task).fits)) for record in records(results)]
    reasons = [
        f"{label(results.study, record.variant)}: FID {math.exp(one.effect):.3f} times that with parts drawn for other "
        f"images, interval {math.exp(one.low):.3f} to {math.exp(one.high):.3f}"
        for record, one in found
    ]
    n = results.study.tasks.samples
    verdict = verdict_of(all(one.high < 0 for _, one in found), any(one.low > 0 for _, one in found))
    missing = Missing(kind="interval", text="an interval reaches both sides of 1: more images would tell")
    return Finding(verdict, None, f"{'; '.join(reasons)}; {n} images", missing=missing)
