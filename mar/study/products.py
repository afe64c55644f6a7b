"""Which results a study asks for: swept and timed settings, replicas, tables and figures."""

from __future__ import annotations

from mar.study.canonical import canonical
from mar.study.study import Study

CURVES = ("tradeoff", "diffusion_steps", "temperature")  # figures whose curves a study lists


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


def replicas(study: Study, variant: str) -> list[list[str]]:
    """Groups of the sampling settings of a variant that differ in the sampling seed alone, in the study's order."""
    groups: dict[str, dict[int, str]] = {}
    for name in study.variants[variant].sampling:
        setting = study.sampling[name]
        groups.setdefault(canonical(setting.model_copy(update={"seed": 0})), {}).setdefault(setting.seed, name)
    return [list(group.values()) for group in groups.values()]


def table_names(study: Study) -> list[str]:
    """Names of the tables of a study: its own, `metrics`, `variance` if it has several seeds, `fast` if it has any."""
    trained = [name for name, variant in study.variants.items() if variant.seeds]
    seeds = any(len(study.variants[name].seeds) > 1 for name in trained)
    several = seeds or any(len(group) > 1 for name in trained for group in replicas(study, name))
    return [*study.tables, "metrics", *(["variance"] if several else []), *(["fast"] if study.fast else [])]


def figure_names(study: Study) -> list[str]:
    """Names of the figures of a study: those whose curves it lists, `sweep` if it has any, `samples` and `losses`."""
    curves = [name for name in CURVES if getattr(study, name)]
    return [*curves, *(["sweep"] if swept(study) else []), "samples", "losses"]
