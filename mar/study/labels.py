"""What a variant is called wherever people read it: one label for each, made of its factors by the paper's names.

Files, commands and the columns of CSV files use the name that the study gives the variant. Curves of a figure have the
labels that the study writes, which begin with their model in the studies that ship.
"""

from __future__ import annotations

from collections import Counter

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
PLAIN = ("VAR", "DiT")  # models whose published head goes without saying
PUBLISHED_HEADS = ("categorical", "joint")


def label(study: Study, variant: str) -> str:
    """The label of a variant, as `MAR, Diffusion Loss`; with its name behind it where another one has the same."""
    labels = {name: _label(study, name) for name in study.variants}
    shared = Counter(labels.values())[labels[variant]] > 1
    return f"{labels[variant]} ({variant})" if shared else labels[variant]


def cell(study: Study, variant: str, setting: str | None) -> str:
    """The label of a variant with the name of a sampling setting, as `MAR, Diffusion Loss at mar-diff-4`."""
    return f"{label(study, variant)} at {setting}" if setting else label(study, variant)


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
