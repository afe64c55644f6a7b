"""What variants and sampling settings are called wherever people read them: one label for each, made of its factors.

Files, commands and the columns of CSV files use the names that the study gives them. Curves of a figure have the
labels that the study writes, which begin with their model in the studies that ship.
"""

from __future__ import annotations

from collections import Counter

from mar.study.parts import Sampling
from mar.study.study import Study

MODELS = {  # by the kind of the backbone and the order; the backbone alone where the order is no choice
    ("causal", "raster"): "AR",
    ("causal", "random"): "causal MAR",
    ("masked", "random"): "MAR",
    ("masked", "raster"): "MAR in raster order",
    ("scales", "scales"): "VAR",
    ("dit", "joint"): "DiT",
}
HEADS = {
    "categorical": "cross-entropy",
    "diffusion": "Diffusion Loss",
    "mse": "L2 loss",
    "mixture": "normal mixture",
}
OTHERS = ("top_k", "top_p", "late_steps", "token_cache", "condition_cache")  # settings that few studies have

PLAIN = ("VAR", "DiT")  # models whose published head goes without saying
PUBLISHED_HEADS = ("categorical", "joint")


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
    kind = study.backbones[v.backbone].kind
    return MODELS.get((kind, v.order), f"{kind}, {v.order} order")


def _label(study: Study, variant: str) -> str:
    name, kind = model(study, variant), study.heads[study.variants[variant].head].kind
    return name if name in PLAIN and kind in PUBLISHED_HEADS else f"{name}, {HEADS.get(kind, kind)}"


def _setting(s: Sampling) -> str:
    """The values of a sampling setting that differ from plain sampling, in words."""
    parts = [f"{s.steps} step{'s' * (s.steps > 1)}"]
    parts += [s.order] if s.order else []
    parts += [f"{s.diffusion_steps} diffusion steps"] if s.diffusion_steps else []
    parts += [s.solver] if s.solver != "ancestral" else []
    parts += (
        ["swept"] if s.sweep else [f"{key} {x:g}" for key in ("guidance", "temperature") if (x := getattr(s, key)) != 1]
    )
    parts += [f"{key.replace('_', ' ')} {value}" for key in OTHERS if (value := getattr(s, key)) is not None]
    parts += [s.dtype] if s.dtype != "fp32" else []
    parts += [f"sampling seed {s.seed}"] if s.seed else []
    return ", ".join(parts)
