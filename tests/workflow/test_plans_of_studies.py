"""The jobs of every shipped study, as `snakemake -n` plans them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mar.data import published
from mar.data.published import LPIPS, WEIGHTS
from mar.study.products import edited, figure_names, rejections, speed_settings, table_names
from mar.study.reading import load
from mar.study.real_sets import real_side, scored, validation

STUDIES = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))
STUDIES = [path for path in STUDIES if "study:" in path.read_text()]
ASSETS = [row.path(Path()) for row in published.table(STUDIES[0].parent / "assets.csv").values()]


def path_of(key: str) -> str:
    """Where the files of a sample set are: of `variant seed setting`."""
    variant, seed, setting = key.split()
    return f"{variant}/seed{seed}/{setting}"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_plans_the_jobs_that_it_asks_for(fresh: Any, path: Path) -> None:
    study = load(path)
    trained = {name: variant for name, variant in study.variants.items() if variant.seeds}
    runs = sorted(f"{name} {seed}" for name, variant in trained.items() for seed in variant.seeds)
    sets = sorted(f"{run} {setting}" for run in runs for setting in trained[run.split()[0]].sampling)
    tokenizers = sorted({study.tokenizer_of(name, seed) for name, v in trained.items() for seed in v.seeds})
    figures = sorted(figure_names(study))
    sections = [(name, study.instances[name].config) for name in tokenizers]
    parts = [(config.weights or name, config.pretrained) for name, config in sections]
    parts += [(variant.weights or name, variant.pretrained) for name, variant in trained.items()]
    judges, sides = study.metrics.extractors, {name: real_side(study, name) for name in study.metrics.extractors}
    files = {WEIGHTS[name] for name in judges if name in WEIGHTS}
    if study.tasks and judges[0] != "classifier":
        files |= set(LPIPS)
    if rejections(study) and study.rejecter.weights:
        files.add(study.rejecter.weights)
    if study.metrics.reference:
        files.add(study.metrics.reference.file)
    learned = [name for name in tokenizers if study.instances[name].config.trained]
    own = [run for run in runs if not trained[run.split()[0]].pretrained]
    some = {  # no such job where there is nothing to do
        "tokenizer": learned,
        "install_tokenizer": sorted({*tokenizers} - {*learned}),
        "train": own,
        "install_run": sorted({*runs} - {*own}),
        "classifier": [""] * ("classifier" in judges),
        "rejecter": [""] * (bool(rejections(study)) and not study.rejecter.weights),
        "fetch": sorted(name for path in ASSETS if (name := path.name) and path.stem in files),
        "sweep": sorted(f"{name} {s}" for name in trained for s in trained[name].sampling if study.sampling[s].sweep),
        "import_weights": sorted({weights for weights, pretrained in parts if pretrained}),
        "speed": sorted(name for name in trained if speed_settings(study, name)),
        "learning": [run for run in runs if study.recipes[trained[run.split()[0]].recipe].points],
        "tasks": sorted(f"{name} {seed}" for name, seed in edited(study)),
        "gate": [""] * (study.gate is not None),
    }
    # with samples along the trainings these are compared with a part of the held-out images of its own
    aside = {validation(study)} if study.learning else set()
    real = {name: {sides[name], scored(study), *(aside if name == judges[0] else ())} for name in judges}
    # Without budget and GPU, since counting needs torch, which this project lacks: see test_drill_rule.py.
    free = f"extends: {path.name}\nstudy: {study.study}\nbudget: null\nmemory: null\n"
    (fresh.folder / "config" / "free.yaml").write_text(free)
    assert fresh.plan("all", "--configfile", "config/free.yaml") == {
        "prepare": [""],
        "features_real": sorted(f"{name} {split}" for name in judges for split in real[name]),
        "features": sorted(f"{name} {key}" for name in judges for key in sets),
        "statistics": sorted(
            [f"{name} {sides[name]}" for name in judges] + [f"{name} {path_of(key)}" for name in judges for key in sets]
        ),
        "reference": [""],
        "rfid": tokenizers,
        "encode": tokenizers,
        "sample": sets,
        "evaluate": sets,
        "table": sorted(table_names(study)),
        "figure": figures,
        "alias": figures,
        "claims": [""],
        "report": [""],
        "track": [""],
        **{rule: jobs for rule, jobs in some.items() if jobs},
    }
    assert (fresh.folder / "results" / study.study / "study.json").exists()
