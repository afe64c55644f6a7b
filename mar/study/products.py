"""Which results a study asks for: swept and timed settings, replicas, tables and figures."""

from __future__ import annotations

from typing import Any

from mar.study.canonical import canonical
from mar.study.study import Study

CURVES = ("tradeoff", "diffusion_steps", "evaluations", "temperature")  # figures whose curves a study lists


def used_tokenizers(study: Study) -> list[str]:
    """Names on disk of the tokenizers of all trainings, in the order of the variants and their seeds."""
    pairs = ((name, seed) for name, variant in study.variants.items() for seed in variant.seeds)
    return list(dict.fromkeys(study.tokenizer_of(name, seed) for name, seed in pairs))


def swept(study: Study) -> list[tuple[str, str]]:
    """Pairs (variant, setting): each trained variant with each of its settings that has a sweep."""
    trained = ((name, variant) for name, variant in study.variants.items() if variant.seeds)
    return [(name, s) for name, variant in trained for s in variant.sampling if study.sampling[s].sweep]


def speed_settings(study: Study, variant: str) -> list[str]:
    """Settings of a variant that are timed: of the trade-off figure, of timed tables (guided if any), fast modes."""
    timed = [s for curve in study.tradeoff if curve.variant == variant for s in curve.sampling]
    rows = [row for table in study.tables.values() if table.timed for row in table.rows if row.variant == variant]
    timed += [setting for row in rows if (setting := row.guided or row.without)]
    modes = study.fast if study.fast and study.fast.variant == variant else None
    return list(dict.fromkeys([*timed, *((modes.default, *modes.modes) if modes else ())]))


def learned(study: Study) -> list[tuple[str, int]]:
    """Pairs (variant, seed) of the trainings that keep averages on the way, by which learning is measured."""
    kept = ((n, v) for n, v in study.variants.items() if not v.pretrained and study.recipes[v.recipe].points)
    return [(name, seed) for name, variant in kept for seed in variant.seeds]


def learning_setting(study: Study, variant: str) -> str | None:
    """The sampling setting with which images are drawn along the training of a variant; None where none are asked."""
    if study.learning is None:
        return None
    return study.learning.setting.get(variant, next(iter(study.variants[variant].sampling), None))


def pictured_setting(study: Study, variant: str) -> str | None:
    """The sampling setting with which the first seed of a variant of `laws` draws pictures along its training."""
    asked = study.laws is not None and variant in study.laws.variants and study.variants[variant].sampling
    return study.shown_setting(variant) if asked else None


def edited(study: Study) -> list[tuple[str, int]]:
    """Pairs (variant, seed) of the models that do the zero-shot tasks: of each variant the first seed, as timings."""
    return [(name, study.variants[name].seeds[0]) for name in study.tasks.models] if study.tasks else []


def rejections(study: Study) -> dict[str, list[list[str]]]:
    """Groups of the settings of a trained variant that differ in `reject` alone, where one of them rejects."""
    found: dict[str, list[list[str]]] = {}
    for name, variant in study.variants.items():
        groups: dict[str, list[str]] = {}
        for s in variant.sampling if variant.seeds else ():
            groups.setdefault(canonical(study.sampling[s].model_copy(update={"reject": None})), []).append(s)
        if several := [group for group in groups.values() if any(study.sampling[s].reject for s in group)]:
            found[name] = several
    return found


def replicas(study: Study, variant: str) -> list[list[str]]:
    """Groups of the sampling settings of a variant that differ in the sampling seed alone, in the study's order."""
    groups: dict[str, dict[int, str]] = {}
    for name in study.variants[variant].sampling:
        setting = study.sampling[name]
        groups.setdefault(canonical(setting.model_copy(update={"seed": 0})), {}).setdefault(setting.seed, name)
    return [list(group.values()) for group in groups.values()]


def table_names(study: Study) -> list[str]:
    """Names of the tables: the study's own, `metrics`, and those of what else the study asks for."""
    trained = [name for name, variant in study.variants.items() if variant.seeds]
    seeds = any(len(study.variants[name].seeds) > 1 for name in trained)
    several = seeds or any(len(group) > 1 for name in trained for group in replicas(study, name))
    more: dict[str, Any] = {"variance": several, "fast": study.fast, "learning": learned(study)}
    more |= {"laws": study.laws, "tasks": study.tasks}
    return [*study.tables, "metrics", *(name for name, asked in more.items() if asked)]


def figure_names(study: Study) -> list[str]:
    """Names of the figures: claims, those whose curves a study lists, of sweeps and of learning, the rest.

    `guidance` shows sweeps along the guidance scale, `heldout_loss` the losses along the trainings, `fid_images` and
    `fid_operations` the FID along them, `laws` the power laws of VAR, `laws_samples` what its models draw on the way,
    `tasks` what zero-shot tasks draw, `tokenizers` what the scales of a multi-scale tokenizer add, `rejection` FID over
    the acceptance rate.
    """
    curves = [name for name in CURVES if getattr(study, name)]
    sweeps = [study.sampling[setting].sweep for _, setting in swept(study)]
    more: dict[str, Any] = {"sweep": sweeps, "guidance": any(grid and len(grid.guidance) > 1 for grid in sweeps)}
    more["heldout_loss"] = runs = learned(study)
    more["fid_images"] = more["fid_operations"] = any(learning_setting(study, variant) for variant, _ in runs)
    more["laws"], more["tasks"] = study.laws, study.tasks
    more["laws_samples"] = study.laws and all(pictured_setting(study, name) for name in study.laws.variants)
    more["tokenizers"] = any(study.instances[name].config.sides for name in used_tokenizers(study))
    more["rejection"] = rejections(study)
    return ["claims", *curves, *(name for name, asked in more.items() if asked), "samples", "losses"]
