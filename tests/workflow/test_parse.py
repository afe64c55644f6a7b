"""What snakemake makes of the workflow before anything runs: lint, the jobs of every study, errors of a study file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mar.data import published
from mar.data.published import WEIGHTS
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


def test_lint_is_clean(fresh: Any) -> None:
    assert "Congratulations" in fresh.snakemake("--lint")


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


def test_each_training_seed_waits_for_its_own_tokenizer(fresh: Any) -> None:
    (fresh.folder / "config" / "seeds.yaml").write_text(
        "extends: smoke.yaml\nstudy: seeds\ntokenizers: {kl: {per_seed: true}}\n"
        "variants: {mar-diffloss: {seeds: [0, 1]}}\n"
    )
    plan = fresh.plan("all", "--configfile", "config/seeds.yaml")
    assert sorted(plan["tokenizer"] + plan["install_tokenizer"]) == plan["encode"] == plan["rfid"]
    assert {name for name in plan["tokenizer"] if name.startswith("kl")} == {"kl-seed0", "kl-seed1"}
    plan = fresh.plan("results/seeds/runs/mar-diffloss/seed1/run.json", "--configfile", "config/seeds.yaml")
    assert (plan["train"], plan["encode"]) == (["mar-diffloss 1"], ["kl-seed1"])
    swept = fresh.plan(
        "results/seeds/sweeps/mar-diffloss/mar-diff-4-cfg-best.json", "--configfile", "config/seeds.yaml"
    )
    assert swept["tokenizer"] == ["kl-seed0"]


def test_a_study_of_three_lines_runs_from_any_folder(fresh: Any) -> None:
    mine = fresh.folder / "elsewhere" / "mine.yaml"
    mine.parent.mkdir()
    for name in ("a", "b"):
        (fresh.folder / "photos" / name).mkdir(parents=True)
        (fresh.folder / "photos" / name / "1.png").touch()
    mine.write_text("extends: images.yaml\nstudy: mine\ndata: {path: photos}\n")
    plan = fresh.plan("all", "--configfile", "elsewhere/mine.yaml")
    assert plan["prepare"] == [""] and plan["tokenizer"] == ["kl-seed0", "kl-seed1", "vq-seed0", "vq-seed1"]
    assert len(plan["train"]) == 8 and len(plan["sample"]) == 16
    mine.write_text("extends: images.yaml\ndata: {path: photos}\n")
    assert "elsewhere/mine.yaml:1: study: is missing; accepted: a name of its own" in fresh.fails(
        "-n", "--configfile", "elsewhere/mine.yaml"
    )


def test_one_figure_by_name_is_that_of_the_default_study(fresh: Any) -> None:
    plan = fresh.plan("figures/tradeoff.pdf")
    assert plan["alias"] == plan["figure"] == ["tradeoff"]
    assert "table" not in plan and "report" not in plan
    digits = load(fresh.folder / "config" / "digits.yaml")
    assert len(plan["train"]) == sum(len(variant.seeds) for variant in digits.variants.values())


def test_a_mistake_in_a_study_is_told_without_traceback(fresh: Any) -> None:
    (fresh.folder / "config" / "bad.yaml").write_text(
        "extends: smoke.yaml\nstudy: bad\nrecipes: {causal: {base_learning_rat: 1.0e-4}}\n"
    )
    output = fresh.fails("-n", "--configfile", "config/bad.yaml")
    assert "config/bad.yaml:3: recipes.causal: unknown key 'base_learning_rat' (did you mean" in output
    assert "Traceback" not in output
    assert not (fresh.folder / "results" / "bad").exists()


def test_a_table_row_that_the_paper_lacks_is_refused(fresh: Any) -> None:
    (fresh.folder / "config" / "bad.yaml").write_text(
        "extends: smoke.yaml\nstudy: bad\n"
        "tables: {table1: {rows: [{paper: nothere, variant: mar-diffloss, without: mar-diff-4}]}}\n"
    )
    output = fresh.fails("-n", "--configfile", "config/bad.yaml")
    assert "config/bad.yaml:3: tables.table1.rows[0].paper: found 'nothere'; accepted: ar-raster-crossent" in output
    assert "Traceback" not in output
    assert not (fresh.folder / "results" / "bad").exists()


def test_a_name_that_the_study_lacks_is_no_target(fresh: Any) -> None:
    output = fresh.fails("-n", "results/smoke/runs/nobody/seed0/run.json", "--configfile", "config/smoke.yaml")
    assert "MissingRuleException" in output


def test_trainings_wait_for_the_gate_where_a_study_has_one(fresh: Any) -> None:
    (fresh.folder / "config" / "gated.yaml").write_text(
        "extends: smoke.yaml\nstudy: gated\nbudget: null\n"
        "gate: {crossent: {tokenizer: vq, fid: 20.0}, diffloss: {tokenizer: kl, fid: 10.0}, floor: 1.0, source: none}\n"
    )
    run = "runs/mar-diffloss/seed0/run.json"
    plan = fresh.plan(f"results/gated/{run}", "--configfile", "config/gated.yaml")
    assert plan["gate"] == [""] and plan["rfid"] == ["kl", "vq"] and len(plan["train"]) == 1
    plan = fresh.plan(f"results/smoke/{run}", "--configfile", "config/smoke.yaml")
    assert "gate" not in plan and "rfid" not in plan


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pipe", "found a pipe or device; accepted: a YAML file"),
        ("latin-1", "no valid YAML: 'utf-8' codec can't decode byte 0xe9"),
    ],
)
def test_a_file_that_is_no_study_is_named_before_snakemake_reads_it(kind: str, said: str, project: Any) -> None:
    file = project.folder / "config" / "bad.yaml"
    os.mkfifo(file) if kind == "pipe" else file.write_bytes(b"title: caf\xe9\n")
    output = project.fails("-n", "--configfile", "config/bad.yaml")
    assert f"Error: config/bad.yaml: {said}" in output and "Traceback" not in output
