"""Lengths in epochs, and steps of sampling in tokens: what follows from the images of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mar.cli.group import open_study
from mar.data.sources import classes_of
from mar.study import layout, stage_keys
from mar.study.lengths import check_images, count, has_epochs
from mar.study.reading import StudyError, load, write_resolved
from mar.study.study import Study

CONFIG = Path("config")


def mine(folder: Path, base: str = "images.yaml", **changes: Any) -> Study:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": base, "study": "mine", **changes}))
    return load(path)


def counted(folder: Path, train: int, **recipe: Any) -> int:
    short = {"warmup_images": 0}
    return count(mine(folder, recipes={"causal": short | recipe, "masked": short}), train).recipes["causal"].images


def test_epochs_are_images_in_whole_batches_and_the_shorter_length_counts(tmp_path: Path) -> None:
    assert counted(tmp_path, 100, images=None, epochs=20) == 2000
    assert counted(tmp_path, 100, images=None, epochs=20.5) == 2048  # 128 batches of 16: nearest to 2050
    assert counted(tmp_path, 7, images=None, epochs=0.5) == 16, "one batch is the least"
    assert counted(tmp_path, 100, images=1600, epochs=20) == 1600
    assert counted(tmp_path, 100, images=3200, epochs=20) == 2000
    assert counted(tmp_path, 100, images=3200, epochs=None) == 3200


def test_every_training_of_a_study_is_counted(tmp_path: Path) -> None:
    study = mine(tmp_path)
    small, large = count(study, 200), count(study, 1_000_000)
    assert has_epochs(study) and not has_epochs(small)
    assert {recipe.images for recipe in small.recipes.values()} == {16_000}
    assert {tok.images for tok in small.tokenizers.values()} == {16_000}
    assert small.classifier and small.classifier.images == 32_000
    assert {recipe.images for recipe in large.recipes.values()} == {96_000}
    assert small.recipes["causal"].points == (12_000, 16_000)
    digits = load(CONFIG / "digits.yaml")
    assert count(digits, 1293) is digits


@pytest.mark.parametrize(
    "section, message",
    [
        ({"recipes": {"causal": {"images": None, "epochs": None}}}, "recipes.causal: images: is missing; accepted"),
        (
            {"recipes": {"causal": {"images": 0, "epochs": None}}},
            "recipes.causal: images: is missing; accepted: images",
        ),
        ({"recipes": {"causal": {"epochs": 0}}}, "recipes.causal.epochs: found 0; accepted: above 0"),
        ({"classifier": {"images": None, "epochs": None}}, "classifier: images: is missing"),
        (
            {"tokenizers": {"kl": {"images": None, "epochs": None}}},
            "tokenizers.kl: images or epochs is needed to train",
        ),
        ({"recipes": {"causal": {"epochs": 2, "evaluate_at": [0.5, 0.25]}}}, "accepted: ascending shares"),
    ],
)
def test_refused(tmp_path: Path, section: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message.replace("[", r"\[")):
        mine(tmp_path, **section)


def test_a_warm_up_longer_than_the_training_is_refused_when_it_is_counted(tmp_path: Path) -> None:
    study = mine(tmp_path)
    with pytest.raises(ValueError, match=r"causal: warmup_images 1600 of images 800; .*80 epochs of 10 images"):
        count(study, 10)


def test_commands_count_and_the_workflow_plans_in_epochs(tmp_path: Path) -> None:
    path = write_resolved(mine(tmp_path), tmp_path)
    planned = load(path)
    key = stage_keys.train_key(planned, "mar-diffloss", 0)
    assert '"epochs":80' in key and key == stage_keys.train_key(mine(tmp_path), "mar-diffloss", 0)
    opened, root = open_study(str(path), "mar-diffloss", recipe=key, stage="train", seed=0)
    assert has_epochs(opened), "not prepared"
    manifest = layout.data_manifest(root)
    manifest.parent.mkdir(parents=True)
    splits = {name: {"count": 200, "per_class": [100, 100]} for name in ("train", "heldout")}
    values = {"kind": "imagefolder", "classes": ["a", "b"], "splits": splits, "files": "0" * 64, "skipped": []}
    manifest.write_text(json.dumps(values | {"image_size": 32, "flip": False, "listing": ""}))
    opened, _ = open_study(str(path), "mar-diffloss", recipe=key, stage="train", seed=0)
    assert opened.recipes["masked"].images == 16_000
    assert '"epochs"' not in stage_keys.train_key(opened, "mar-diffloss", 0)


@pytest.mark.parametrize("size, tokens", [(32, 16), (64, 64), (128, 256)])
def test_a_token_covers_eight_pixels_whatever_the_size(tmp_path: Path, size: int, tokens: int) -> None:
    study = mine(tmp_path, data={"image_size": size})
    assert study.tokens("kl") == study.tokens("vq") == tokens
    assert study.sampling["ar-diff"].steps == tokens and study.sampling["mar-diff-cfg"].steps == tokens // 4


def test_steps_in_tokens_of_unequal_variants_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"sampling\.mar-ce\.steps: found 'tokens / 4', and its variants have 16, 64"):
        mine(
            tmp_path,
            tokenizers={"fine": {"kind": "vq", "stride": 4, "channels": [8, 8, 8], "latent_channels": 8}
            | {"codebook_size": 64, "images": 64, "learning_rate": 1e-3}},
            variants={"fine": {"tokenizer": "fine", "order": "random", "backbone": "masked", "head": "crossent"}
            | {"recipe": "masked", "sampling": ["mar-ce"]}},
        )  # fmt: skip
    study = mine(tmp_path, sampling={"more": {"steps": "tokens"}}, variants={"mar-diffloss": {"sampling": ["table1"]}})
    assert study.sampling["more"].steps == study.sampling["mar-diff-cfg"].steps * 4 == 16, "used by no variant"
    with pytest.raises(StudyError, match=r"sampling\.mar-ce\.steps: found 'tokens / 0'; accepted: a whole number"):
        mine(tmp_path, sampling={"mar-ce": {"steps": "tokens / 0"}})


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert mine(tmp_path, data={"path": "~/photos"}).data.path == "/home/somebody/photos"
    assert mine(tmp_path, data={"path": "photos~"}).data.path == "photos~"


def test_fewer_images_than_classes_are_refused_once_the_classes_are_counted(tmp_path: Path) -> None:
    study = mine(tmp_path)
    least = min(s for s in (study.metrics.samples, *(x.sweep.samples for x in study.sampling.values() if x.sweep)))
    check_images(study, least, 1000)
    with pytest.raises(ValueError, match=rf"samples {least}: fewer images than the {least + 1} classes of the data"):
        check_images(study, least + 1)
    pairs = load(CONFIG / "fashion-tasks.yaml")
    assert pairs.tasks
    said = f"tasks.samples {pairs.tasks.samples}: fewer than 2 images of each of the {pairs.tasks.samples} classes"
    with pytest.raises(ValueError, match=said):
        check_images(pairs, pairs.tasks.samples)
    with pytest.raises(ValueError, match=r"metrics\.neighbours: found 3 of 3 training images; accepted: fewer than"):
        check_images(study, 2, 3)


def test_classes_of_a_folder_are_known_before_its_images_are_read(tmp_path: Path) -> None:
    photos, manifest = tmp_path / "photos", tmp_path / "manifest.json"
    assert classes_of(manifest, photos) is None
    for name in ("a", "b", ".hidden", "train"):
        (photos / name / "inside").mkdir(parents=True)
    assert classes_of(manifest, photos) == 1, "train/ has the classes where it is there"
    (photos / "train").rename(photos / "c")
    assert classes_of(manifest, photos) == 3
    manifest.write_text("[]")
    assert classes_of(manifest, photos) is None
