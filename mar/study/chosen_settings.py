"""Guidance scale and temperature that the sweeps of a study have chosen."""

from __future__ import annotations

from pathlib import Path

from mar.runtime.files import read
from mar.study import layout
from mar.study.parts import Sampling
from mar.study.records import RunRecord, SweepRecord
from mar.study.stage_keys import sweep_key
from mar.study.study import Study

AXES = ("guidance", "temperature")


def resolved(study: Study, root: str | Path, variant: str, setting: str) -> Sampling:
    """A sampling setting with guidance scale and temperature filled in: those that its sweep chose, if it has one.

    Raises:
        ValueError: the sweep has not run, or it had another grid, other images or other weights.
    """
    sampling = study.sampling[setting]
    if not sampling.sweep:
        return sampling
    path = layout.sweep(Path(root), variant, setting)
    again = f"run `mar sweep --study {Path(root) / 'study.json'} --variant {variant} --setting {setting}`"
    if not path.exists():
        raise ValueError(f"{path}: missing: sampling.{setting} is chosen by a sweep, which has not run; {again}")
    record = read(path, SweepRecord)
    if record.recipe.slice != sweep_key(study, variant, setting):
        raise ValueError(f"{path}: sampling.{setting} or metrics have changed since; {again} again")
    run = layout.run_record(Path(root), variant, study.variants[variant].seeds[0])
    if read(run, RunRecord).checkpoint != record.recipe.checkpoint:
        raise ValueError(f"{path}: was drawn from other weights than {run} names; {again} again")
    return sampling.at(record.best.guidance, record.best.temperature)
