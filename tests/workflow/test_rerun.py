"""What runs again after a change of a finished study: exactly what depends on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mar.data import image_files
from mar.planning import minutes, plan
from mar.runtime.files import read
from mar.study import layout
from mar.study.products import figure_names
from mar.study.reading import load
from mar.study.records import JudgeCosts, PlanRecord, StepsRecord, TokenizerCosts, VariantCosts

SMOKE = ("all", "--configfile", "config/smoke.yaml")
PRODUCTS = {"table", "figure", "alias", "claims", "report", "track"}


def changed(project: Any, values: dict[str, Any]) -> tuple[str, ...]:
    """The smoke study with other values."""
    path = project.folder / "config" / "changed.yaml"
    path.write_text(yaml.safe_dump({"extends": "smoke.yaml", "study": "smoke", **values}))
    return "all", "--configfile", "config/changed.yaml"


def test_nothing_after_a_complete_run(finished: Any) -> None:
    assert finished.plan(*SMOKE) == {}
    study = load(finished.folder / "config" / "smoke.yaml")
    assert len([c for c in finished.calls() if c.startswith("train ")]) == sum(
        len(v.seeds) for v in study.variants.values()
    )
    log = finished.folder / "results" / "smoke" / "logs" / "train" / "mar-diffloss" / "seed0.log"
    assert log.read_text() == "train done\n"


def test_a_run_begins_with_what_it_has_to_make(finished: Any) -> None:
    """Each job under the name and with the file by which `mar plan` knows it."""
    root = Path("results/smoke")
    outputs = read(finished.folder / layout.steps(root), StepsRecord).outputs
    study = load(finished.folder / "config" / "smoke.yaml")
    images = plan.Images(1, 1, 10)
    counts = PlanRecord(
        key="0" * 64,
        judges={"classifier": JudgeCosts(parameters=1, forward=1.0, features=1)},
        tokenizers={n: TokenizerCosts(parameters=1, encode=1, decode=1, training=1) for n in study.tokenizers},
        variants={
            name: VariantCosts(parameters=1, training=1, sampling=dict.fromkeys(v.sampling, 1.0))
            for name, v in study.variants.items()
        },
    )
    jobs = {minutes.key(job.stage, job.name): job for job in plan.jobs(study, images, counts)}
    assert len(jobs) > 50 and not set(jobs) - set(outputs)
    assert {key.partition("/")[0] for key in set(outputs) - set(jobs)} == PRODUCTS
    folder = {key: Path(file).parent for key, file in outputs.items()}
    assert all(minutes.OUTPUTS[job.stage](root, job.name).parent == folder[key] for key, job in jobs.items())
    drawn = [("table", "metrics"), ("figure", "samples"), ("claims", ""), ("report", ""), ("track", "")]
    assert all(minutes.OUTPUTS[stage](root, name).parent == folder[minutes.key(stage, name)] for stage, name in drawn)


def test_resources_threads_and_cores_rerun_nothing(finished: Any) -> None:
    plan = finished.plan(
        *SMOKE, "--set-resources", "train:runtime=60", "sample:mem_mb=1000", "--set-threads", "train=2", "--cores", "1"
    )
    assert plan == {}


def test_the_slurm_profile_reruns_nothing_and_reaches_the_launcher(finished: Any) -> None:
    site = finished.folder / "site.yaml"
    site.write_text("default-resources: {launcher: slurm, slurm_partition: gpu, constraint: a100|h100}\n")
    profiles = ("--profile", "slurm", "--profile", "site.yaml")
    assert finished.plan(*SMOKE, "--profile", "slurm") == {}
    target = "results/smoke/runs/mar-diffloss/seed0/run.json"
    output = finished.snakemake("-n", "-p", "--force", target, "--configfile", "config/smoke.yaml", *profiles)
    assert "mar launch --cluster=slurm" in output
    assert "--slurm-partition=gpu" in output
    assert "--slurm-constraint='a100|h100'" in output
    assert "-- --threads 0 train" in output


def test_a_hyper_parameter_reruns_the_training_and_what_follows(finished: Any) -> None:
    variant = "ar-raster-crossent"
    recipe = load(finished.folder / "config" / "smoke.yaml").recipes["causal"].model_dump(mode="json")
    other = {"recipes": {"other": {**recipe, "base_learning_rate": 5.0e-4}}, "variants": {variant: {"recipe": "other"}}}
    plan = finished.plan(*changed(finished, other))
    sets = [f"{variant} 0 ar-ce", f"{variant} 0 ar-ce-cfg"]
    assert plan.pop("train") == [f"{variant} 0"]
    assert plan.pop("sample") == plan.pop("evaluate") == sets
    assert plan.pop("features") == [f"classifier {key}" for key in sets]
    assert len(plan.pop("statistics")) == len(sets)
    assert plan.pop("speed") == [variant]
    assert set(plan) == PRODUCTS


def test_a_metric_setting_trains_nothing(finished: Any) -> None:
    plan = finished.plan(*changed(finished, {"metrics": {"bootstrap": 30}}))
    assert set(plan) == {"reference", "rfid", "evaluate", "tasks", *PRODUCTS}  # features and statistics stay


def test_images_that_are_added_run_prepare_again(project: Any) -> None:
    """Also those that change in size; a folder that is gone is no reason, for what was made from it is finished."""
    photos = project.folder / "photos"
    for name in ("ant", "cat"):
        (photos / name).mkdir(parents=True)
        (photos / name / "0.png").write_bytes(b"0")
    file = project.folder / "config" / "own.yaml"
    values = {"extends": "smoke.yaml", "study": "own", "data": {"kind": "imagefolder", "path": str(photos)}}
    file.write_text(yaml.safe_dump(values))
    call = ("results/own/data/manifest.json", "--configfile", "config/own.yaml")

    def finish() -> None:
        """The stub of prepare writes no record: put those there that the real command would write."""
        project.snakemake(*call)
        split = {"count": 1, "per_class": [1, 0]}
        record = {"kind": "imagefolder", "classes": ["ant", "cat"], "splits": {"train": split, "heldout": split}}
        record |= {"files": "0" * 64, "skipped": [], "image_size": 16, "flip": False}
        listing = image_files.checksum(image_files.scan(photos).found)
        manifest = project.folder / call[0]
        manifest.write_text(json.dumps(record | {"listing": listing}))
        (manifest.parent / layout.LISTING).write_text("")

    finish()
    assert "were added" not in project.snakemake("-n", *call) and project.plan(*call) == {}
    (photos / "cat" / "1.png").write_bytes(b"1")
    assert f"{photos}: image files were added, removed or changed in size since" in project.snakemake("-n", *call)
    assert project.plan(*call) == {"prepare": [""]}
    finish()
    assert project.plan(*call) == {}
    (photos / "cat" / "1.png").write_bytes(b"longer")
    assert project.plan(*call) == {"prepare": [""]}
    finish()
    photos.rename(project.folder / "elsewhere")
    assert project.plan(*call) == {}


def test_the_classifier_is_no_reason_to_train_a_tokenizer(finished: Any) -> None:
    plan = finished.plan(*changed(finished, {"classifier": {"images": 1280}}))
    judged = {"features", "features_real", "statistics", "reference", "rfid", "evaluate", "tasks"}
    assert set(plan) == {"classifier", *judged, "sweep", "sample", "speed", *PRODUCTS}
    # a sweep chooses by the new classifier, and the settings that it chooses for are drawn again
    assert all("best" in key for key in plan["sample"])


def test_a_second_seed_trains_only_itself(finished: Any) -> None:
    plan = finished.plan(*changed(finished, {"variants": {"mar-diffloss": {"seeds": [0, 1]}}}))
    assert plan["train"] == ["mar-diffloss 1"]
    settings = load(finished.folder / "config" / "smoke.yaml").variants["mar-diffloss"].sampling
    assert plan["evaluate"] == sorted(f"mar-diffloss 1 {setting}" for setting in settings)
    assert "speed" not in plan and "encode" not in plan


def test_the_order_of_keys_is_no_change(finished: Any) -> None:
    def backwards(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: backwards(value[key]) for key in reversed(value)}
        return value

    values = load(finished.folder / "config" / "smoke.yaml").model_dump(mode="json")
    path = finished.folder / "config" / "backwards.yaml"
    path.write_text(yaml.safe_dump(backwards(values), sort_keys=False))
    assert path.read_text().startswith(f"{list(values)[-1]}:")
    assert finished.plan("all", "--configfile", "config/backwards.yaml") == {}


def test_editing_the_drawing_code_redraws_the_figures_only(finished: Any) -> None:
    plan = edit_and_plan(finished, "mar/report/figures/draw.py")
    figures = sorted(figure_names(load(finished.folder / "config" / "smoke.yaml")))
    assert plan.pop("figure") == plan.pop("alias") == figures
    assert set(plan) == {"report", "track"}  # they show the figures


def test_editing_the_claims_judges_again(finished: Any) -> None:
    plan = edit_and_plan(finished, "config/claims.yaml")
    assert plan.pop("figure") == plan.pop("alias") == ["claims"]
    assert set(plan) == {"claims", "report", "track"}


def test_editing_the_training_code_draws_the_report_that_tells_it_and_nothing_else(finished: Any) -> None:
    assert set(edit_and_plan(finished, "mar/training/trainer.py")) == {"report"}
    assert edit_and_plan(finished, "mar/runtime/checkpoint.py") == {}


def edit_and_plan(project: Any, name: str) -> dict[str, list[str]]:
    """The plan after an edit, which is then taken back. A new time alone is no edit: Snakemake compares checksums."""
    path = project.folder / name
    text = path.read_text()
    path.write_text(text + "# edited\n")
    try:
        return project.plan(*SMOKE)
    finally:
        path.write_text(text)


def test_the_report_of_snakemake_has_the_products(finished: Any) -> None:
    finished.snakemake("--report", "page.html", "--configfile", "config/smoke.yaml")
    page = (finished.folder / "page.html").read_text()
    for text in ("figures/smoke/tradeoff.png", "results/smoke/tables/table1.csv", "results/smoke/report.html"):
        assert text in page


def test_the_alias_follows_the_study(finished: Any) -> None:
    (finished.folder / "config" / "other.yaml").write_text("extends: smoke.yaml\nstudy: other\n")
    alias: Path = finished.folder / "figures" / "losses.pdf"
    assert "results/smoke/study.json" in alias.read_text()
    finished.snakemake("figures/losses.pdf", "--configfile", "config/other.yaml")
    assert "results/other/study.json" in alias.read_text()
    assert finished.plan("figures/losses.pdf", "--configfile", "config/smoke.yaml") == {"alias": ["losses"]}
    finished.snakemake("figures/losses.pdf", "--configfile", "config/smoke.yaml")
    assert "results/smoke/study.json" in alias.read_text()


def test_another_grid_sweeps_again_and_draws_what_it_chooses_for(finished: Any) -> None:
    setting = "mar-diff-4-cfg-best"
    plan = finished.plan(*changed(finished, {"sampling": {setting: {"sweep": {"guidance": [2.0, 4.0, 8.0]}}}}))
    assert plan.pop("sweep") == [f"mar-diffloss {setting}"]
    assert plan.pop("sample") == plan.pop("evaluate") == [f"mar-diffloss 0 {setting}"]
    assert plan.pop("features") == [f"classifier mar-diffloss 0 {setting}"]
    assert set(plan) <= {"statistics", "speed", *PRODUCTS} and len(plan["statistics"]) == 1
