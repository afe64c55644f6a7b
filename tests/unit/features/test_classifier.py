"""The classifier: shapes, augmentation, the same weights from the same study, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pipeline
import pytest
import torch

from mar.data.prepare import prepare
from mar.features.networks import classifier
from mar.runtime.files import read_json, sha256
from mar.study.study import Study


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study = pipeline.study(classifier={"channels": [16, 16], "features": 16, "images": 6400})
    root = pipeline.with_classifier(tmp_path_factory.mktemp("classifier"), study)
    return study, root


def test_a_short_training_reads_most_digits(trained: tuple[Study, Path]) -> None:
    _, root = trained
    record = read_json(root / "classifier" / "classifier.json")
    assert record["accuracy"] > 0.8 and record["split"] == "heldout"
    assert record["count"] == read_json(root / "data" / "manifest.json")["splits"]["heldout"]["count"]
    lines = (root / "classifier" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) >= 100


def test_interface(trained: tuple[Study, Path]) -> None:
    study, root = trained
    model = classifier.load(root, study)
    assert not model.training
    features, logits = model(torch.zeros(3, 3, 16, 16))
    assert features.shape == (3, 16) and logits.shape == (3, 10)
    assert (
        sum(p.numel() for p in model.parameters()) == read_json(root / "classifier" / "classifier.json")["parameters"]
    )


def test_complete_work_is_left_alone(trained: tuple[Study, Path]) -> None:
    study, root = trained
    weights = root / "classifier" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    classifier.train(study, root)
    assert weights.stat().st_mtime_ns == before


def test_same_study_same_weights_other_seed_other_weights(tmp_path: Path) -> None:
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        study = pipeline.study(seed=seed, classifier={"channels": [8], "features": 8, "images": 192})
        root = pipeline.root(tmp_path / str(number), study)
        prepare(study, root)
        torch.manual_seed(number)  # the global generator plays no part
        classifier.train(study, root)
        digests.append(sha256(root / "classifier" / "model.safetensors"))
    assert digests[0] == digests[1] != digests[2]


def test_another_recipe_is_refused_when_loaded_and_moved_aside_when_trained(tmp_path: Path) -> None:
    small = {"channels": [8], "features": 8, "images": 64}
    study, other = pipeline.study(classifier=small), pipeline.study(classifier={**small, "images": 128})
    root = pipeline.root(tmp_path, study)
    with pytest.raises(ValueError, match=r"classifier\.json: missing"):
        classifier.load(root, study)
    prepare(study, root)
    classifier.train(study, root)
    with pytest.raises(ValueError, match=r"trained by another recipe"):
        classifier.load(root, other)
    classifier.train(other, root)
    classifier.load(root, other)
    assert len(list(root.glob("classifier.old-*"))) == 1
    (root / "classifier" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"model\.safetensors: found .*; accepted: a safetensors file; delete it and"):
        classifier.load(root, other)


def test_augmentation() -> None:
    images = torch.zeros(8, 3, 32, 32)
    images[:, :, 16, 8] = 1.0
    moved = classifier.augment(images, False, torch.Generator().manual_seed(0))
    spots = {divmod(int(image[0].argmax()), 32) for image in moved}
    assert len(spots) > 3 and all(abs(i - 16) <= 2 and abs(j - 8) <= 2 for i, j in spots)
    assert 0 < (moved - moved.round()).abs().mean() < 0.1
    mirrored = classifier.augment(images, True, torch.Generator().manual_seed(0))
    assert {divmod(int(image[0].argmax()), 32)[1] > 16 for image in mirrored} == {True, False}
