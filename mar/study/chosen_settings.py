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
    """A setting with guidance and temperature filled in: what its sweep chose for the variant, if it has one.

    Raises:
        ValueError: the sweep has not run, or was of another grid, of other images or of other weights.
    """
    sampling = study.sampling[setting]
    if not sampling.sweep:
        return sampling
    path = layout.sweep(Path(root), variant, setting)
    again = f"run `mar sweep --study {Path(root) / 'study.json'} --variant {variant} --setting {setting}`"
    if not path.exists():
        raise ValueError(f"{path}: missing: sampling.{setting} is chosen by a sweep, which has not run; {again}")
    found = read(path, SweepRecord)
    if found.recipe.slice != sweep_key(study, variant, setting):
        raise ValueError(f"{path}: sampling.{setting} or metrics have changed since; {again} again")
    run = layout.run_record(Path(root), variant, study.variants[variant].seeds[0])
    if read(run, RunRecord).checkpoint != found.recipe.checkpoint:
        raise ValueError(f"{path}: was drawn from other weights than {run} names; {again} again")
    return sampling.at(found.best.guidance, found.best.temperature)
