"""Evaluation: intervals, the floor, sample sets that are judged and sample sets that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pipeline
import pytest

from mar.config import Study
from mar.data.images import open_split, prepare
from mar.files import read_json, sha256
from mar.metrics import bootstrap, classifier, evaluate, features, metrics, statistics

NAMES = {"fid", "inception_score", "precision", "recall", "agreement", "nearest"}


def test_balanced_resample() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 5])
    chosen = evaluate.balanced(labels, 100, seed=1)
    assert np.bincount(labels[chosen]).tolist() == [34, 33, 33]
    assert (chosen == evaluate.balanced(labels, 100, seed=1)).all()


def test_features_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    arrays = {"features": np.ones((4, 2), np.float32), "logits": np.ones((4, 3), np.float32)}
    arrays["features"][2, 1] = np.nan
    path = tmp_path / "f.npz"
    features.write(path, arrays)
    with pytest.raises(ValueError, match=r"f\.npz: features of 1 images are not finite; the first is image 2"):
        features.read(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"f\.npz: no valid \.npz"):
        features.read(path)
    with pytest.raises(ValueError, match=r"gone\.npz: missing"):
        features.read(tmp_path / "gone.npz")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study = pipeline.study()
    root = pipeline.root(tmp_path_factory.mktemp("metrics"), study)
    prepare(study, root)
    classifier.train(study, root)
    evaluate.reference(study, root)
    return study, root


def write_samples(root: Path, images: np.ndarray, labels: np.ndarray, **over: Any) -> Path:
    """A sample set in two chunks with the run that it says it comes from."""
    (root / "runs" / "mar" / "seed0").mkdir(parents=True, exist_ok=True)
    (root / "runs" / "mar" / "seed0" / "run.json").write_text(json.dumps({"checkpoint": "c0ffee"}))
    folder = root / "samples" / "mar" / "seed0" / "plain"
    folder.mkdir(parents=True, exist_ok=True)
    chunks = []
    for number, chunk in enumerate(np.array_split(images, 2)):
        path = folder / f"chunk-{number:05d}.npy"
        np.save(path, chunk)
        chunks.append({"file": path.name, "count": len(chunk), "sha256": sha256(path)})
    np.save(folder / "labels.npy", labels)
    manifest = {"count": len(images), "chunks": chunks, "checkpoint": "c0ffee", "tokenizer": "t"} | over
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def samples(judged: tuple[Study, Path]) -> Path:
    """Sixty held-out images, as if generated."""
    study, root = judged
    heldout = open_split(study, root, "heldout")
    chosen = evaluate.balanced(heldout.labels, 60, seed=0)
    return write_samples(root, heldout.batch(chosen).permute(0, 2, 3, 1).numpy(), heldout.labels[chosen])


def test_reference(judged: tuple[Study, Path]) -> None:
    study, root = judged
    record = read_json(root / "metrics" / "reference.json")
    assert set(record["metrics"]) == NAMES
    assert all(m["n"] == 60 for m in record["metrics"].values())
    assert record["counts"] == {s: len(open_split(study, root, s)) for s in ("train", "heldout")}
    train = features.read(root / "features" / "train.npz")
    assert train["features"].shape == (record["counts"]["train"], 8)
    assert (train["labels"] == open_split(study, root, "train").labels).all()
    before = (root / "metrics" / "reference.json").stat().st_mtime_ns
    evaluate.reference(study, root)
    assert (root / "metrics" / "reference.json").stat().st_mtime_ns == before


def test_real_images_as_samples_score_the_floor(judged: tuple[Study, Path], samples: Path) -> None:
    study, root = judged
    evaluate.evaluate(study, root, "mar", 0, "plain")
    record = read_json(root / "metrics" / "mar" / "seed0" / "plain.json")
    floor = read_json(root / "metrics" / "reference.json")["metrics"]
    assert set(record["metrics"]) == NAMES
    for name, metric in record["metrics"].items():
        if name != "fid":  # its floor is the mean over many resamples, of which these samples are the first
            assert metric["value"] == pytest.approx(floor[name]["value"], rel=1e-5), name
        assert metric["low"] <= metric["value"] <= metric["high"]
    assert record["samples"] == 60 and record["metrics"]["nearest"]["value"] > 0.01
    assert record["inputs"] == {
        "samples": sha256(samples / "manifest.json"),
        "reference": sha256(root / "features" / "train.npz"),
        "checkpoint": "c0ffee",
    }
    kept = features.read(root / "features" / "mar" / "seed0" / "plain.npz")
    assert kept["features"].shape == (60, 8) and kept["labels"].shape == (60,)


def test_floor_is_the_mean_over_resamples(judged: tuple[Study, Path]) -> None:
    study, root = judged
    heldout, train = (features.read(root / "features" / f"{split}.npz") for split in ("heldout", "train"))
    drawn = [evaluate.balanced(heldout["labels"], 60, seed) for seed in range(study.metrics.bootstrap)]
    real = statistics.of(train["features"])
    values = [metrics.fid(statistics.of(heldout["features"][rows]), real) for rows in drawn]
    found = read_json(root / "metrics" / "reference.json")["metrics"]["fid"]
    assert found["value"] == pytest.approx(np.mean(values), rel=1e-5)
    assert min(values) <= found["low"] < found["value"] < found["high"] <= max(values)


def test_wrong_classes_and_copies_show(judged: tuple[Study, Path]) -> None:
    study, root = judged
    train = open_split(study, root, "train")
    chosen = evaluate.balanced(train.labels, 60, seed=0)
    write_samples(root, train.batch(chosen).permute(0, 2, 3, 1).numpy(), (train.labels[chosen] + 1) % 10)
    evaluate.evaluate(study, root, "mar", 0, "plain")
    found = read_json(root / "metrics" / "mar" / "seed0" / "plain.json")["metrics"]
    assert found["nearest"]["value"] == 0.0
    assert found["agreement"]["value"] < 0.3


def test_among_very_many_training_images_the_nearest_is_not_looked_for(
    judged: tuple[Study, Path], samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, root = judged
    report = root / "metrics" / "mar" / "seed0" / "plain.json"
    monkeypatch.setattr(evaluate, "LOOKED_AT", 10)
    monkeypatch.setattr(evaluate, "REAL", 40)
    seen, whole = [], bootstrap.Bootstrap.precision_recall

    def precision_recall(self: bootstrap.Bootstrap, generated: np.ndarray, real: np.ndarray, neighbours: int) -> Any:
        seen.append(len(real))
        return whole(self, generated, real, neighbours)

    monkeypatch.setattr(bootstrap.Bootstrap, "precision_recall", precision_recall)
    evaluate.evaluate(study, root, "mar", 0, "plain")
    found = read_json(report)["metrics"]
    assert set(found) == NAMES - {"nearest"}
    assert seen == [40]  # a sample of the training images, as ADM's batch is one
    report.unlink()


def test_an_equal_evaluation_is_not_repeated(judged: tuple[Study, Path], samples: Path) -> None:
    study, root = judged
    report = root / "metrics" / "mar" / "seed0" / "plain.json"
    evaluate.evaluate(study, root, "mar", 0, "plain")
    before = report.stat().st_mtime_ns
    evaluate.evaluate(study, root, "mar", 0, "plain")
    assert report.stat().st_mtime_ns == before
    more = pipeline.study(metrics={**pipeline.VALUES["metrics"], "bootstrap": 12})
    evaluate.evaluate(more, root, "mar", 0, "plain")
    assert read_json(report)["metrics"]["fid"]["bootstrap"] == 12


def test_refusals(judged: tuple[Study, Path], samples: Path) -> None:
    study, root = judged

    def refused(message: str, of: Study = study) -> None:
        with pytest.raises(ValueError, match=message):
            evaluate.evaluate(of, root, "mar", 0, "plain")

    more = pipeline.study(metrics={**pipeline.VALUES["metrics"], "samples": 90})
    refused(r"manifest\.json: holds 60 images; accepted: metrics\.samples 90", of=more)
    images = np.concatenate([np.load(samples / f"chunk-0000{i}.npy") for i in (0, 1)])
    labels = np.load(samples / "labels.npy")

    write_samples(root, images, labels, checkpoint="5ca1ab1e")
    refused(r"manifest\.json: drawn from checkpoint 5ca1ab1e, .*run\.json says c0ffee")
    write_samples(root, images, labels[:-1])
    refused(r"labels\.npy: 60 images and labels \(59,\)")
    write_samples(root, images[:, :8], labels)
    refused(r"chunk-00000\.npy: holds uint8 \(30, 8, 16, 3\); accepted: uint8 \(30, 16, 16, 3\)")
    write_samples(root, np.full_like(images, 7), labels)
    refused(r"samples/mar/seed0/plain: all 60 images are equal")
    chunk = write_samples(root, images, labels) / "chunk-00001.npy"
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    refused(r"chunk-00001\.npy: differs from its checksum")
    chunk.unlink()
    refused(r"chunk-00001\.npy: missing")
    (samples / "manifest.json").unlink()
    refused(r"manifest\.json: missing")


def test_another_classifier_is_refused(judged: tuple[Study, Path], samples: Path) -> None:
    study, root = judged
    path = root / "features" / "train.npz"
    whole = path.read_bytes()
    features.write(path, features.read(path) | {"classifier": np.array("0ld")})
    with pytest.raises(ValueError, match=r"train\.npz: made with another classifier; run `mar reference` again"):
        evaluate.evaluate(study, root, "mar", 0, "plain")
    path.write_bytes(whole)


def test_samples_of_another_tokenizer_are_refused(judged: tuple[Study, Path], samples: Path) -> None:
    study, root = judged
    weights = root / "tokenizers" / "kl" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"new weights")
    with pytest.raises(ValueError, match=r"decoded by another tokenizer"):
        evaluate.evaluate(study, root, "mar", 0, "plain")
    weights.unlink()
