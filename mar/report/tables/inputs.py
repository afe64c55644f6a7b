"""Files that a table reads, beside the metrics of the sample sets."""

from __future__ import annotations

from pathlib import Path

from mar.analysis.acceptance import section_of
from mar.analysis.paper_columns import columns_of
from mar.paper.numbers import table_rows
from mar.report.tables import fast_modes, laws, learning, tasks
from mar.report.tables.paper_tables import table_of
from mar.study import layout
from mar.study.products import edited, learned, speed_settings, swept, table_names, used_tokenizers
from mar.study.real_sets import real_side
from mar.study.study import Study


def inputs(study: Study, root: Path, name: str) -> list[Path]:
    """Files that a table reads beside the metric files, as its columns require."""
    if name not in study.tables and name in table_names(study):
        made = _fast_inputs(study, root) if name == fast_modes.NAME else []
        if name in (learning.NAME, laws.NAME):
            made = [layout.learning(root, variant, seed) for variant, seed in learned(study)]
        if name == tasks.NAME:
            made = [layout.tasks(root, variant, seed) for variant, seed in edited(study)]
        return [*made, *(layout.sweep(root, variant, setting) for variant, setting in swept(study))]
    table = table_of(study, name)
    asked = {column.name for column in columns_of(table_rows(table, f"tables.{name}.paper: "))}
    trained = [row.variant for row in table.rows if row.variant and study.variants[row.variant].seeds]
    # rFID with `per_seed` has an interval from the spread over all such tokenizers
    spread = [name for name in used_tokenizers(study) if study.instances[name].config.per_seed]
    files: list[Path] = []
    counted = asked & {"params", "head_params", "training_days"}
    for variant in dict.fromkeys(trained):
        seeds = study.variants[variant].seeds
        if "rfid" in asked:
            own = [study.tokenizer_of(variant, k) for k in seeds]
            files += [layout.rfid(root, tokenizer) for tokenizer in (*own, *(spread if set(own) & set(spread) else ()))]
        files += [
            layout.run_record(root, variant, k) for k in (seeds if "training_days" in asked else seeds[:1]) if counted
        ]
        if asked & {"seconds", "rel_time"} and speed_settings(study, variant):
            files.append(layout.speed(root, variant))
    for row in table.rows:
        used = [s for s in (row.without, row.guided) if s and row.variant in trained]
        files += [
            layout.sample_manifest(root, layout.sample_set(row.variant, seed, s))
            for s in used
            if row.variant and study.sampling[s].reject
            for seed in study.variants[row.variant].seeds
        ]
        files += [layout.sweep(root, row.variant, s) for s in used if row.variant and study.sampling[s].sweep]
    return list(dict.fromkeys(files))


def _fast_inputs(study: Study, root: Path) -> list[Path]:
    """Files that the table of fast modes reads beside the metric files."""
    section, extractor = section_of(study), study.metrics.extractors[0]
    seeds = study.variants[section.variant].seeds
    settings = (section.default, *section.modes) if seeds else ()
    sets = [layout.sample_set(section.variant, seed, setting) for seed in seeds for setting in settings]
    timings = [layout.speed(root, section.variant)] if seeds else []
    reference = layout.statistics(root, extractor, real_side(study, extractor))
    sets.append(real_side(study, extractor))
    return [*(layout.features_manifest(root, extractor, name) for name in sets), reference, *timings]
