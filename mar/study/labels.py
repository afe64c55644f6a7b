"""What variants and sampling settings are called wherever people read them: one label for each, made of its factors.

Files, commands and the columns of CSV files use the names that the study gives them. Curves of a figure have the
labels that the study writes, which begin with their model in the studies that ship.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from mar.study.annealing import Annealed
from mar.study.parts import Sampling
from mar.study.study import Study

OTHERS = ("top_k", "top_p", "late_steps", "token_cache", "condition_cache")  # settings that few studies have


def label(study: Study, variant: str) -> str:
    """The label of a variant, as `MAR, Diffusion Loss`; with its name behind it where another one has the same."""
    labels = {name: _label(study, name) for name in study.variants}
    shared = Counter(labels.values())[labels[variant]] > 1
    return f"{labels[variant]} ({variant})" if shared else labels[variant]


def setting(study: Study, variant: str, name: str) -> str:
    """What a variant is sampled with, as `4 steps, guidance 1.5`; with its name where others read the same."""
    words = {other: _setting(study.sampling[other]) for other in study.variants[variant].sampling}
    shared = Counter(words.values())[said := words.get(name, _setting(study.sampling[name]))] > 1
    return f"{said} ({name})" if shared else said


def cell(study: Study, variant: str, name: str | None) -> str:
    """The label of a variant with that of a sampling setting, as `MAR, Diffusion Loss at 4 steps, guidance 2`."""
    return f"{label(study, variant)} at {setting(study, variant, name)}" if name else label(study, variant)


def given(study: Study, name: str) -> str:
    """What a sample set that others drew is called."""
    return study.given[name].label or name


def model(study: Study, variant: str) -> str:
    """The model of a variant without its head, as `AR`, `MAR`, `DiT`."""
    v = study.variants[variant]
    backbone = study.backbones[v.backbone]
    plain = f"{backbone.label or backbone.kind} in {v.order.label or v.order.kind} order"
    return backbone.labels.get(v.order.kind, plain)


def _label(study: Study, variant: str) -> str:
    v = study.variants[variant]
    name, head = model(study, variant), study.heads[v.head]
    return name if study.backbones[v.backbone].published and head.published else f"{name}, {head.label or head.kind}"


def _setting(s: Sampling) -> str:
    """The values of a sampling setting that differ from plain sampling, in words."""
    parts = [f"{s.steps} step{'s' * (s.steps > 1)}"]
    parts += [s.order] if s.order else []
    parts += [f"{_falling(s.diffusion_steps)} diffusion steps"] if s.diffusion_steps else []
    parts += [str(s.solver)] if s.solver else []
    parts += (
        ["swept"] if s.sweep else [f"{key} {x:g}" for key in ("guidance", "temperature") if (x := getattr(s, key)) != 1]
    )
    parts += [f"{key.replace('_', ' ')} {value}" for key in OTHERS if (value := getattr(s, key)) is not None]
    parts += ["more smooth"] if s.more_smooth else []
    parts += [f"{key.replace('_', ' ')} {_falling(value)}" for key, value in s.head.values.items()]
    parts += [s.dtype] if s.dtype != "fp32" else []
    parts += [f"sampling seed {s.seed}"] if s.seed else []
    parts += [f"accepted at {s.reject.threshold:g}"] if s.reject else []
    return ", ".join(parts)


def _falling(value: Any) -> str:
    """A value in words, as `50 to 5 (linear)` of one that falls over the autoregressive steps."""
    return f"{value.first} to {value.last} ({value.schedule})" if isinstance(value, Annealed) else str(value)
