"""Where a study departs from the published recipe (config/paper/mar_recipe.csv), and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from mar.paper.numbers import paper_lines
from mar.study.parts import DiffusionHead
from mar.study.study import Study

WHY = {  # reasons for departures from the published recipe
    ("backbones", "dropout"): "A trial without dropout was no worse; its own effect was not measured.",
    ("recipes", "mask_ratio"): "Sampling one token a step meets every number of unknown tokens once; the published "
    "normal masks less than half of the tokens in one step of twenty only.",
    ("recipes", "masks_per_image"): "A causal backbone learns from as many contexts as an image has tokens, a masked "
    "one from a single mask.",
    ("recipes", "mask_ratio_min"): "Of a short sequence, a ratio of 0.7 or more shows the model a handful of tokens in "
    "training, while sampling shows it all but one.",
    ("sampling", "clamp"): "With the cosine schedule alpha_bar is 2.4e-9 at t = 999, so the first reverse step divides "
    "the error of the predicted noise by sqrt(alpha_bar), 5e-5: a briefly trained denoiser throws x0 far off. Holding "
    "x0 within a few standard deviations stops that; the published code does not clamp.",
    ("sampling", "diffusion_steps"): "Fewer reverse steps, for speed.",
    ("recipes", "base_learning_rate"): "A small model that trains briefly takes a higher rate.",
    ("sampling", "guidance, temperature"): "These rows take one setting for all variants; a sweep for each costs as "
    "many samples again as a table.",
    ("recipes", "ema"): "A decay of 0.9999 averages over about 10,000 steps, more than this run has.",
}


def deviations(study: Study) -> list[dict[str, str]]:
    """Departures of MAR and AR variants from config/paper/mar_recipe.csv: where, key, ours, published, source, why."""
    departures = []
    if study.data.totals != "imagenet":
        departures.append(_departure("data", "data set", study.data.title, "ImageNet", "MAR paper", ""))
    if (extractor := study.metrics.extractors[0]) != "inception":
        ours = "the study's own classifier" if extractor == "classifier" else extractor
        why = "It knows the study's images. " * (extractor == "classifier") + "FID is on its scale, not on Inception's."
        departures.append(_departure("metrics", "feature extractor", ours, "Inception", "MAR paper", why))
    used = _used(study)
    for row in paper_lines("mar_recipe"):
        section, key = row["section"], row["key"]
        differing: dict[str, list[str]] = {}
        for name, part in used[section].items():
            value = _plain(part, key)
            if value is not None and not _same(value, row["published"]):
                differing.setdefault(value, []).append(name)
        for value, names in differing.items():
            where = f"{section}: {', '.join(n for n in names if n)}" if any(names) else section
            why = WHY.get((section, key), "")
            departures.append(_departure(where, key, value, row["published"], row["source"], why))
    # Only settings of tables count: figures vary guidance and temperature themselves, as the paper's do.
    settings = [study.sampling[name] for name in _tabled(study) if not study.sampling[name].sweep]
    scales = sorted({s.guidance for s in settings if s.guidance > 1})
    if scales:
        temperatures = sorted({s.temperature for s in settings})
        values = f"{', '.join(f'{s:g}' for s in scales)} and {', '.join(f'{t:g}' for t in temperatures)}, not swept"
        key = "guidance, temperature"
        departures.append(
            _departure("sampling", key, values, "swept per model", "MAR paper, Appendix B", WHY["sampling", key])
        )
    return departures


def _departure(where: str, key: str, ours: str, published: str, source: str, why: str) -> dict[str, str]:
    return {"where": where, "key": key, "ours": ours, "published": published, "source": source, "why": why}


def _used(study: Study) -> dict[str, Mapping[str, BaseModel]]:
    """Parts of the study that variants use, by section and name.

    DiT and what stands in tables of VAR's paper alone are left out: they have other recipes.
    """
    rows = [(row.variant, table.paper) for table in study.tables.values() for row in table.rows]
    var = {name for name, paper in rows if (paper or "").startswith("var_")} - {
        name for name, paper in rows if not (paper or "").startswith("var_")
    }
    run = [
        v
        for name, v in study.variants.items()
        if v.seeds and name not in var and not study.backbones[v.backbone].published
    ]
    trained = [v for v in run if not v.pretrained]
    return {
        "data": {"": study.data},
        "tokenizers": {v.tokenizer: study.tokenizers[v.tokenizer] for v in run},
        "backbones": {v.backbone: study.backbones[v.backbone] for v in run},
        "heads": {v.head: study.heads[v.head] for v in run if isinstance(study.heads[v.head], DiffusionHead)},
        "recipes": {v.recipe: study.recipes[v.recipe] for v in trained},
        "sampling": {s: study.sampling[s] for v in run for s in v.sampling},
        "metrics": {"": study.metrics},
        "speed": {"": study.speed},
    }


def _tabled(study: Study) -> list[str]:
    """Names of the sampling settings in tables, of variants that this study trains."""
    run = {name for name, variant in study.variants.items() if variant.seeds and not variant.pretrained}
    rows = [row for table in study.tables.values() for row in table.rows if row.variant in run]
    return list(dict.fromkeys(s for row in rows for s in (row.without, row.guided) if s))


def _plain(part: BaseModel, key: str) -> str | None:
    """The value of a key as the published recipe writes it; None where it does not apply, or is off as published."""
    value = getattr(part, key, None)
    if value is None:
        return None
    return (
        ", ".join(f"{v:g}" for v in value)
        if isinstance(value, tuple)
        else f"{value:.10g}"
        if _number(value)
        else str(value)
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(ours: str, published: str) -> bool:
    try:
        return float(ours) == float(published)
    except ValueError:
        return ours == published
