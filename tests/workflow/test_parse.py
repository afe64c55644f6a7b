"""What snakemake makes of the workflow before anything runs: lint, what waits for what, errors of a study file."""

from __future__ import annotations

import os
from typing import Any

import pytest

from mar.study.reading import load


def test_lint_is_clean(fresh: Any) -> None:
    assert "Congratulations" in fresh.snakemake("--lint")


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
