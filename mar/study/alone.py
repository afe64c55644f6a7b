"""A study of one variant: the sections that it needs, as a study file has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from mar.study.study import Study


def alone(study: Study, variant: str, settings: Iterable[str], drawn: bool = True) -> dict[str, Any]:
    """The sections of a study that a variant needs beside the data, the judge and tables.

    Args:
        study: the study.
        variant: the variant, which gets one seed.
        settings: its sampling settings.
        drawn: whether sample sets are drawn with these settings; else the study has them for `mar draw` alone, which
            rejects no image.
    """
    v, settings = study.variants[variant], tuple(settings)
    change = {} if drawn else {"reject": None}
    parts: dict[str, dict[str, BaseModel]] = {
        "tokenizers": {v.tokenizer: study.tokenizers[v.tokenizer]},
        "backbones": {v.backbone: study.backbones[v.backbone]},
        "heads": {v.head: study.heads[v.head]},
        "recipes": {v.recipe: study.recipes[v.recipe]},
        "sampling": {name: study.sampling[name].model_copy(update=change) for name in settings},
        "variants": {variant: v.model_copy(update={"sampling": settings if drawn else (), "seeds": (0,)})},
    }
    seed = {"seed": study.seed} if study.seed else {}
    return seed | {key: {name: plain(part) for name, part in named.items()} for key, named in parts.items()}


def plain(part: BaseModel) -> dict[str, Any]:
    """A section as a study file has it, without default values."""
    return part.model_dump(mode="json", exclude_defaults=True)
