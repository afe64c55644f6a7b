"""Which results a study asks for: swept and timed settings, replicas, tables and figures."""

from __future__ import annotations

from mar.study.canonical import canonical
from mar.study.study import Study

CURVES = ("tradeoff", "diffusion_steps", "temperature")  # figures made of curves that a study names


def swept(study: Study) -> list[tuple[str, str]]:
    """Every trained variant with each of its settings that a sweep completes."""
    trained = ((name, variant) for name, variant in study.variants.items() if variant.seeds)
    return [(name, s) for name, variant in trained for s in variant.sampling if study.sampling[s].sweep]


def speed_settings(study: Study, variant: str) -> list[str]:
    """Settings of a variant that are timed: of the trade-off figure, guided ones of timed tables, fast modes."""
    found = [s for curve in study.tradeoff if curve.variant == variant for s in curve.sampling]
    rows = [row for table in study.tables.values() if table.timed for row in table.rows if row.variant == variant]
    found += [setting for row in rows if (setting := row.guided or row.without)]
    modes = study.fast if study.fast and study.fast.variant == variant else None
    return list(dict.fromkeys([*found, *((modes.default, *modes.modes) if modes else ())]))


def replicas(study: Study, variant: str) -> list[list[str]]:
    """Sampling settings of a variant in groups that differ in the sampling seed alone, in the study's order."""
    groups: dict[str, dict[int, str]] = {}
    for name in study.variants[variant].sampling:
        setting = study.sampling[name]
        groups.setdefault(canonical(setting.model_copy(update={"seed": 0})), {}).setdefault(setting.seed, name)
    return [list(group.values()) for group in groups.values()]


def table_names(study: Study) -> list[str]:
    """Tables that a study has: its own, every number of its sample sets, their variance where seeds show any, modes."""
    trained = [name for name, variant in study.variants.items() if variant.seeds]
    seeds = any(len(study.variants[name].seeds) > 1 for name in trained)
    several = seeds or any(len(group) > 1 for name in trained for group in replicas(study, name))
    return [*study.tables, "metrics", *(["variance"] if several else []), *(["fast"] if study.fast else [])]


def figure_names(study: Study) -> list[str]:
    """Figures that a study has: those of curves where it names some, its sweeps, samples and losses always."""
    curves = [name for name in CURVES if getattr(study, name)]
    return [*curves, *(["sweep"] if swept(study) else []), "samples", "losses"]
