"""Step 3: sample sets that are judged, the floor beside them, and comparisons that are refused."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judged
import numpy as np
import pipeline
import pytest
import torch
from click.testing import CliRunner

from mar.analysis.estimates import Results
from mar.cli.__main__ import main
from mar.crosscheck.export_adm import export
from mar.data.heldout import rows_of
from mar.data.images import open_split
from mar.data.prepare import prepare
from mar.features import features, image_sets, references
from mar.features.networks import classifier, extractors
from mar.metrics import evaluate, formulas, moments, real_images, statistics
from mar.metrics.bootstrap import Bootstrap
from mar.report.tables.paper_tables import frame
from mar.runtime.files import read_json, sha256
from mar.study.records import ONE_CLASS, ImageSource
from mar.study.study import Study

WHERE = "mar/seed0/plain"
NAMES = {"fid", "inception_score", "precision", "recall", "kid", "agreement", "nearest"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A study of classifier features, with the real side and one sample set judged."""
    study = pipeline.study()
    root = pipeline.with_classifier(tmp_path_factory.mktemp("evaluate"), study)
    judged.write_samples(root, judged.images(study, root))
    steps(study, root)
    return study, root


def steps(study: Study, root: Path, only: str = "") -> None:
    """All three steps, of every set or of one."""
    for name in study.metrics.extractors:
        sides = {real_images.real_side(study, name), "heldout"}
        for where in [only] if only else [*sorted(sides), WHERE]:
            features.features(study, root, name, where)
            if where != "heldout":
                statistics.statistics(study, root, name, where)
    if not only:
        evaluate.reference(study, root)
    evaluate.evaluate(study, root, "mar", 0, "plain")


@pytest.fixture
def place(finished: tuple[Study, Path], tmp_path: Path) -> tuple[Study, Path]:
    """A copy to be changed."""
    shutil.copytree(finished[1], tmp_path / "pipeline")
    return finished[0], tmp_path / "pipeline"


def report(root: Path) -> dict[str, Any]:
    return read_json(root / "metrics" / f"{WHERE}.json")


def test_a_metric_file(finished: tuple[Study, Path]) -> None:
    root = finished[1]
    found = report(root)
    assert set(found["metrics"]) == NAMES
    for name, metric in found["metrics"].items():
        assert metric["low"] <= metric["value"] <= metric["high"], name
        assert (metric["n"], metric["bootstrap"], metric["seed"]) == (60, 10, 0), name
    assert (found["variant"], found["seed"], found["setting"], found["samples"]) == ("mar", 0, "plain", 60)
    weights = sha256(root / "classifier" / "model.safetensors")
    side = {"name": "train split", "sha256": sha256(root / "data" / "manifest.json")}
    assert found["extractor"] == "classifier" and found["reference"] == side
    assert found["extractors"] == {"classifier": {"weights": weights, "note": "", "reference": side}}
    assert found["notes"] == [evaluate.SHUFFLED] and "seed 2020" in evaluate.SHUFFLED
    assert found["inputs"] == {
        "samples": sha256(root / "samples" / WHERE / "manifest.json"),
        "checkpoint": 64 * "c",
        "features classifier": sha256(root / "features" / "classifier" / WHERE / "manifest.json"),
        "real classifier": sha256(root / "statistics" / "classifier" / "train.npz"),
    }


def test_the_numbers_are_those_of_the_files(finished: tuple[Study, Path]) -> None:
    study, root = finished
    found = report(root)["metrics"]
    drawn = features.read(root, "classifier", WHERE, "generated")
    real = features.read(root, "classifier", "train", "real")
    saved = [statistics.read(root, "classifier", where)[0] for where in (WHERE, "train")]
    assert found["fid"]["value"] == pytest.approx(formulas.fid(*saved), rel=1e-6)
    sides = drawn.array("features"), real.array("features")
    expected = formulas.precision_recall(*sides, study.metrics.neighbours)
    assert (found["precision"]["value"], found["recall"]["value"]) == pytest.approx(expected)
    bias = [formulas.class_bias(f.array("features"), f.array("labels"), f.count) for f in (drawn, real)]
    assert found["kid"]["value"] == pytest.approx(formulas.kid(*sides).mean() + sum(bias))
    assert found["inception_score"]["value"] == pytest.approx(formulas.inception_score(drawn.array("logits")))
    right = drawn.array("logits").argmax(1) == np.arange(60) % 10
    assert found["agreement"]["value"] == pytest.approx(right.mean())
    assert found["nearest"]["value"] == pytest.approx(drawn.array("nearest").mean())


def test_the_floor(finished: tuple[Study, Path]) -> None:
    study, root = finished
    found = read_json(root / "metrics" / "reference.json")
    assert set(found["metrics"]) == NAMES and found["samples"] == 60
    assert all(metric["n"] == 60 for metric in found["metrics"].values())
    rows = features.read(root, "classifier", "heldout", "real").array("features")
    real = statistics.read(root, "classifier", "train")[0]
    labels = open_split(study, root, "heldout").labels
    draws = [rows[evaluate.balanced(labels, 60, seed)] for seed in range(evaluate.DRAWS)]
    values = [formulas.fid(moments.of(draw), real) for draw in draws]
    assert found["metrics"]["fid"]["value"] == pytest.approx(np.mean(values))
    assert found["metrics"]["fid"]["low"] < found["metrics"]["fid"]["value"] < found["metrics"]["fid"]["high"]
    first = formulas.precision_recall(draws[0], features.read(root, "classifier", "train", "real").array("features"), 3)
    shown = [found["metrics"][name]["value"] for name in ("precision", "recall")]
    assert shown == pytest.approx(first)


def test_held_out_images_are_compared_with(finished: tuple[Study, Path], tmp_path: Path) -> None:
    """Half of them is the real side and a quarter the floor, of as many images as a sample set has; none is in both."""
    shutil.copytree(finished[1], tmp_path / "pipeline")
    root = tmp_path / "pipeline"
    study = pipeline.study(metrics={**pipeline.VALUES["metrics"], "real": "heldout"})
    with pytest.raises(ValueError, match=r"features/classifier/heldout-reference/manifest\.json: missing"):
        evaluate.evaluate(study, root, "mar", 0, "plain")
    for where in ("heldout-reference", "heldout-floor"):
        features.features(study, root, "classifier", where)
    statistics.statistics(study, root, "classifier", "heldout-reference")
    evaluate.reference(study, root)
    evaluate.evaluate(study, root, "mar", 0, "plain")
    floor, found, before = read_json(root / "metrics" / "reference.json"), report(root), report(finished[1])
    labels = open_split(study, root, "heldout").labels
    all_rows = features.read(root, "classifier", "heldout", "real").array("features")
    real, own = (all_rows[rows_of(labels, name)] for name in ("heldout-reference", "heldout-floor"))
    draws = [own[evaluate.balanced(open_split(study, root, "heldout-floor").labels, 60, k)] for k in range(20)]
    expected = np.mean([formulas.fid(moments.of(draw), moments.of(real)) for draw in draws])
    assert floor["metrics"]["fid"]["value"] == pytest.approx(expected, rel=1e-5)
    assert floor["metrics"]["fid"]["n"] == found["metrics"]["fid"]["n"] == 60
    drawn = features.read(root, "classifier", WHERE, "generated").array("features")
    assert found["metrics"]["fid"]["value"] == pytest.approx(
        formulas.fid(moments.of(drawn), moments.of(real)), rel=1e-5
    )
    shown = [found["metrics"][name]["value"] for name in ("precision", "recall")]
    assert shown == pytest.approx(formulas.precision_recall(drawn, real, 3))
    assert f"precision and recall of 60 images are against {len(real)} real ones" in found["notes"]
    assert found["metrics"]["nearest"] == before["metrics"]["nearest"], "the nearest image is one of the train split"
    for record in (floor, found):
        assert record["reference"]["name"] == "the reference part of the held-out images"
        assert record["reference"]["sha256"] == floor["reference"]["sha256"] != before["reference"]["sha256"]
    assert floor["spread"]["classifier"]["features"] == 8


def test_images_of_the_floor_are_balanced_and_distinct() -> None:
    labels = np.repeat([0, 1, 2], [50, 20, 5])
    chosen = evaluate.balanced(labels, 60, seed=1)
    assert np.bincount(labels[chosen]).tolist() == [20, 20, 5]  # of the last class there are no more
    assert len(set(chosen)) == len(chosen) and (np.diff(chosen) > 0).all()
    assert (chosen == evaluate.balanced(labels, 60, seed=1)).all()
    assert (chosen != evaluate.balanced(labels, 60, seed=2)).any()
    assert (evaluate.balanced(labels, 1000, seed=0) == np.arange(75)).all()


def test_with_fewer_held_out_images_than_samples_all_are_judged_once(place: tuple[Study, Path]) -> None:
    root = place[1]
    more = pipeline.study(metrics={**pipeline.VALUES["metrics"], "samples": 990})
    evaluate.reference(more, root)
    found = read_json(root / "metrics" / "reference.json")
    count = len(open_split(more, root, "heldout"))
    assert any(f"of {count} images, all that are held out" in note for note in found["notes"])
    assert found["samples"] == 990 and {m["n"] for m in found["metrics"].values()} == {count}
    rows = features.read(root, "classifier", "heldout", "real").array("features")
    real = statistics.read(root, "classifier", "train")[0]
    assert found["metrics"]["fid"]["value"] == pytest.approx(formulas.fid(moments.of(rows), real))


def test_copies_and_images_of_other_classes_show(place: tuple[Study, Path]) -> None:
    study, root = place
    train = open_split(study, root, "train")
    right = [np.flatnonzero(train.labels == i % 10)[i // 10] for i in range(60)]
    judged.write_samples(root, train.arrays(right[1:] + right[:1]))  # each has its neighbour's class
    steps(study, root, WHERE)
    found = report(root)["metrics"]
    assert found["nearest"]["value"] == 0.0
    assert found["agreement"]["value"] < 0.3


def test_an_equal_evaluation_is_not_repeated(place: tuple[Study, Path]) -> None:
    study, root = place
    files = [root / "metrics" / "reference.json", root / "metrics" / f"{WHERE}.json"]

    def run(study: Study) -> list[int]:
        evaluate.reference(study, root)
        evaluate.evaluate(study, root, "mar", 0, "plain")
        return [file.stat().st_mtime_ns for file in files]

    before = [file.stat().st_mtime_ns for file in files]
    assert run(study) == before
    after = run(pipeline.study(metrics={**pipeline.VALUES["metrics"], "bootstrap": 12}))
    assert all(a > b for a, b in zip(after, before, strict=True))
    assert report(root)["metrics"]["fid"]["bootstrap"] == 12


def test_of_many_real_images_a_sample_is_compared_with(
    place: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, root = place
    monkeypatch.setattr(real_images, "REAL", 40)
    there = real_images.real(study, root, "classifier")
    assert there.features is not None and there.features.shape == (40, 8)
    whole = features.read(root, "classifier", "train", "real").array("features")
    assert all((whole == row).all(1).any() for row in there.features)


def test_what_precision_and_kid_need_of_the_real_images_is_computed_for_the_first_set_alone(
    place: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Distances among the real images and their kernels; the numbers are those that are computed without the files."""
    study, root = place
    real = real_images.real(study, root, "classifier")
    assert real.features is not None and real.nearest is None and real.kernels is None
    computed = [formulas.nearest_others(real.features, 3)[0], formulas.real_kernels(real.features, 60)]
    kept = [root / "statistics" / "classifier" / name for name in (".train.nearest.npz", ".train.kernels-60.npz")]
    before, shown = [file.read_bytes() for file in kept], report(root)
    monkeypatch.setattr(real_images.formulas, "nearest_others", None)  # no number is computed anew
    monkeypatch.setattr(real_images.formulas, "real_kernels", None)
    side = real_images.with_kept(study, root, real, 60)
    for found, expected in zip((side.nearest, side.kernels), computed, strict=True):
        np.testing.assert_array_equal(found, expected)
    monkeypatch.undo()
    for file in (*kept, root / "metrics" / f"{WHERE}.json"):
        file.unlink()
    evaluate.evaluate(study, root, "mar", 0, "plain")
    assert [file.read_bytes() for file in kept] == before
    assert report(root)["metrics"] == shown["metrics"]
    alone, _ = evaluate.again(study, root, WHERE, images=True)
    assert {name: metric.model_dump(mode="json") for name, metric in alone.items()} == shown["metrics"]


@pytest.mark.parametrize("fault", ["cut off", "edited", "other features", "other k", "other formulas", "a pipe"])
def test_what_was_kept_of_other_real_images_is_not_used(
    place: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    study, root = place
    real, path = real_images.real(study, root, "classifier"), root / "statistics" / "classifier" / ".train.nearest.npz"
    assert real.features is not None
    with np.load(path) as arrays:
        whole = dict(arrays)
    if fault == "cut off":
        path.write_bytes(path.read_bytes()[:300])
    elif fault == "edited":
        np.savez(path, **(whole | {"values": whole["values"] * 2}))
    elif fault == "other features":
        real = dataclasses.replace(real, features=real.features[::-1] + 1)
    elif fault == "other k":
        study = pipeline.study(metrics={**pipeline.VALUES["metrics"], "neighbours": 5})
    elif fault == "other formulas":
        np.savez(path, **(whole | {"values": np.zeros(3), "sha256": np.array(real_images._checksum(np.zeros(3)))}))
        monkeypatch.setattr(real_images, "digest_of", lambda source: "0" * 64)
    else:
        path.unlink()
        os.mkfifo(path)
    side = real_images.with_kept(study, root, real, 60)
    assert real.features is not None
    expected = formulas.nearest_others(real.features, study.metrics.neighbours)[0]
    np.testing.assert_array_equal(side.nearest, expected)
    monkeypatch.setattr(real_images.formulas, "nearest_others", None)  # kept now
    np.testing.assert_array_equal(real_images.with_kept(study, root, real, 60).nearest, expected)


def test_among_too_many_training_images_the_nearest_is_not_looked_for(
    place: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, root = place
    monkeypatch.setattr(features, "LOOKED_AT", 1000)
    shutil.rmtree(root / "features" / "classifier" / WHERE)
    steps(study, root, WHERE)
    assert set(report(root)["metrics"]) == NAMES - {"nearest"}


def test_step_3_needs_no_torch(place: tuple[Study, Path]) -> None:
    root = place[1]
    (root / "metrics" / f"{WHERE}.json").unlink()
    code = (
        "import sys; from mar.cli.__main__ import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules\n"
    )
    options = ["--study", str(root / "study.json"), "--variant", "mar", "--seed", "0", "--setting", "plain"]
    subprocess.run([sys.executable, "-c", code, "evaluate", *options], check=True)
    assert set(report(root)["metrics"]) == NAMES


def refused(place: tuple[Study, Path], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate(*place, "mar", 0, "plain")


def edit(path: Path, **over: Any) -> None:
    path.write_text(json.dumps(read_json(path) | over))


def test_swapped_sides(place: tuple[Study, Path]) -> None:
    study, root = place
    kept = root / "features" / "classifier"
    shutil.move(kept / "train", kept / "real")
    shutil.copytree(kept / WHERE, kept / "train")
    refused(place, r"train/manifest\.json: holds features of generated images; accepted here: real ones\. Swapping")
    shutil.rmtree(kept / WHERE)
    shutil.move(kept / "real", kept / WHERE)
    refused(place, r"plain/manifest\.json: holds features of real images; accepted here: generated ones\. Swapping")
    edit(kept / "heldout" / "manifest.json", role="generated")
    with pytest.raises(ValueError, match=r"heldout/manifest\.json: holds features of generated images"):
        evaluate.reference(study, root)


def test_another_split_in_the_place_of_the_real_side(place: tuple[Study, Path]) -> None:
    kept = place[1] / "features/classifier"
    shutil.rmtree(kept / "train")
    shutil.copytree(kept / "heldout", kept / "train")
    refused(place, r"train/manifest\.json: source\.name: found 'heldout split'; accepted: images of train; delete")
    edit(
        kept / WHERE / "manifest.json", extractor=read_json(kept / WHERE / "manifest.json")["extractor"] | {"name": "x"}
    )
    refused(place, r"plain/manifest\.json: extractor\.name: found 'x'; accepted: classifier; delete")


def test_features_of_other_weights(place: tuple[Study, Path]) -> None:
    root = place[1]
    again = pipeline.study(seed=1)
    prepare(again, root)
    classifier.train(again, root)
    features.features(again, root, "classifier", WHERE)
    statistics.statistics(again, root, "classifier", WHERE)
    with pytest.raises(ValueError, match=r"plain: features by classifier with weights \w{12}, those of train split wi"):
        evaluate.evaluate(again, root, "mar", 0, "plain")


def test_steps_that_are_behind(place: tuple[Study, Path]) -> None:
    study, root = place
    judged.write_samples(root, judged.images(study, root)[::-1].copy())
    refused(place, r"features/classifier/mar/seed0/plain: of other samples than .*; run `mar features` again")
    features.features(study, root, "classifier", WHERE)
    refused(place, r"statistics/classifier/mar/seed0/plain\.npz: of other features; run `mar statistics` again")
    statistics.statistics(study, root, "classifier", WHERE)
    edit(root / "features" / "classifier" / "train" / "manifest.json", note="remade")
    refused(place, r"statistics/classifier/train\.npz: of other features than .*; run `mar statistics` again")
    statistics.statistics(study, root, "classifier", "train")
    edit(root / "runs" / "mar" / "seed0" / "run.json", checkpoint=64 * "5")
    refused(place, r"manifest\.json: drawn from checkpoint cccccccccccc, .*run\.json says 555555555555")
    edit(root / "runs" / "mar" / "seed0" / "run.json", checkpoint=64 * "c")
    evaluate.evaluate(study, root, "mar", 0, "plain")
    (root / "statistics" / "classifier" / "train.npz").unlink()
    refused(place, r"statistics/classifier/train\.npz: missing; run `mar statistics` first")
    shutil.rmtree(root / "features" / "classifier" / WHERE)
    refused(place, r"features/classifier/mar/seed0/plain/manifest\.json: missing")


WEIGHTS = {"inception": "a" * 64, "dinov2": "d" * 64}


def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of published names: random sums of pixels, by inception 12 features, 5 logits and 6 spatial ones."""

    def load(name: str, *arguments: Any) -> Any:
        widths = {"inception": {"features": 12, "logits": 5, "spatial": 6}, "dinov2": {"features": 9}}[name]

        def judge(images: torch.Tensor) -> dict[str, torch.Tensor]:
            flat, generator = images.flatten(1).float() / 255.0, torch.Generator().manual_seed(len(name))
            return {k: flat @ torch.randn((flat.shape[1], w), generator=generator) for k, w in widths.items()}

        network: Any = judge
        network.name, network.weights, network.note = name, WEIGHTS[name], f"{name} of a test"
        return network

    monkeypatch.setattr(extractors, "load", load)
    monkeypatch.setattr(references, "WIDTHS", {"mu": 12, "mu_s": 6})


def published(root: Path, tmp_path: Path, images: bool, **over: Any) -> Study:
    """A study without a classifier, judged by Inception against a file of statistics, and by DINOv2."""
    real = open_split(pipeline.study(), root, "train").arrays(range(100))
    content = {"mu": np.ones(12), "sigma": np.eye(12), "mu_s": np.zeros(6), "sigma_s": np.eye(6)}
    path = tmp_path / "batch.npz"
    np.savez(path, **content, **({"arr_0": real} if images else {}))
    asked = {"file": str(path), "unknown_hash": True}
    values = {**pipeline.VALUES["metrics"], "extractors": ["inception", "dinov2"], "reference": asked, **over}
    return pipeline.study(classifier=None, metrics=values)


WIDE = {"fid", "sfid", "inception_score", "nearest", "fid_dinov2"}


@pytest.mark.parametrize("images", [True, False])
def test_published_networks_and_a_reference(
    place: tuple[Study, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: bool
) -> None:
    root = place[1]
    shutil.rmtree(root / "classifier")
    study = published(root, tmp_path, images)
    fake(monkeypatch)
    steps(study, root)
    found, floor = report(root), read_json(root / "metrics" / "reference.json")
    for record in (found, floor):
        assert set(record["metrics"]) == WIDE | ({"precision", "recall", "kid"} if images else set())
        file = str(tmp_path / "batch.npz")
        digest = sha256(tmp_path / "batch.npz")
        assert record["reference"] == {"name": file, "sha256": digest, "note": f"reference {file} of unknown hash"}
        assert record["extractor"] == "inception" and list(record["extractors"]) == ["inception", "dinov2"]
        train_split = {"name": "train split", "sha256": sha256(root / "data" / "manifest.json")}
        own = {"weights": WEIGHTS["dinov2"], "note": "dinov2 of a test", "reference": train_split}
        assert record["extractors"]["dinov2"] == own
        assert (evaluate.NO_IMAGES in record["notes"]) == (not images)
    # Inception has looked at none of the train split, DINOv2 at all of it
    assert not (root / "features" / "inception" / "train").exists()
    drawn = features.read(root, "inception", WHERE, "generated")
    stored = {"mu": np.zeros(6), "sigma": np.eye(6)}
    assert found["metrics"]["sfid"]["value"] == pytest.approx(formulas.fid(moments.of(drawn.array("spatial")), stored))
    train = statistics.read(root, "dinov2", "train")[0]
    own = features.read(root, "dinov2", WHERE, "generated")
    assert "nearest" not in own.keys
    expected = formulas.fid(moments.of(own.array("features")), train)
    assert found["metrics"]["fid_dinov2"]["value"] == pytest.approx(expected)
    if images:
        kept = features.read(root, "inception", "reference", "real").array("features")
        expected = formulas.precision_recall(drawn.array("features"), kept, 3)
        assert [found["metrics"][k]["value"] for k in ("precision", "recall")] == pytest.approx(expected)


def test_another_reference_is_another_comparison(
    place: tuple[Study, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = place[1]
    study = published(root, tmp_path, images=True)
    fake(monkeypatch)
    steps(study, root)
    first = report(root)
    study = published(root, tmp_path, images=False)  # another file under the same name
    features.features(study, root, "inception", "reference")
    refused(
        (study, root), r"statistics/inception/reference\.npz: of other features than .*; run `mar statistics` again"
    )
    statistics.statistics(study, root, "inception", "reference")
    evaluate.evaluate(study, root, "mar", 0, "plain")
    assert report(root)["reference"]["sha256"] != first["reference"]["sha256"]
    with pytest.raises(ValueError, match="study pipeline has no classifier"):
        classifier.train(study, root)


Change = Callable[[dict[str, np.ndarray]], None]


def rewrite(path: Path, change: Change) -> None:
    """Another .npz in its place, with the arrays changed and all else as it was."""
    with np.load(path) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    change(found)
    np.savez(path, **found)


def without_checksum(arrays: dict[str, np.ndarray]) -> None:
    """As statistics were written before they had one."""
    about = json.loads(str(arrays["about"]))
    del about["arrays"]
    arrays["about"] = np.array(json.dumps(about))


def indefinite(arrays: dict[str, np.ndarray]) -> None:
    arrays["sigma"] = arrays["sigma"] - 2 * np.eye(len(arrays["sigma"])) * np.trace(arrays["sigma"])


NO_COVARIANCE = "sigma is no covariance: not symmetric, or not positive semi-definite"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("change", "said", "told"),
    [
        (lambda x: x.update(mu=x["mu"] + 1), "differ from their checksum", "are not those of the features in"),
        (lambda x: x.update(sigma=2 * x["sigma"]), "differ from their checksum", "are not those of the features in"),
        (
            lambda x: x.update(mu=x["mu"][:5], sigma=x["sigma"][:5, :5]),
            "differ from their checksum",
            "are not those of the features in",
        ),
        (lambda x: x.update(sigma=np.tril(x["sigma"]) + 1), NO_COVARIANCE, NO_COVARIANCE),
        (indefinite, NO_COVARIANCE, NO_COVARIANCE),
        (lambda x: x.update(mu=x["mu"][:5]), r"mu is float64 \(5,\), sigma float64 \(8, 8\)", r"mu is float64 \(5,\)"),
        (lambda x: x.update(mu=x["mu"].astype("f4")), r"mu is float32 \(8,\)", r"mu is float32 \(8,\)"),
        (lambda x: x.update(mu=x["mu"] * np.nan), "mu or sigma holds numbers that are not", "mu or sigma holds"),
        (lambda x: x.pop("sigma"), "found mu; accepted: mu with sigma", "found mu; accepted: mu with sigma"),
        (lambda x: x.update(mu=np.array([{}])), "no file of statistics .*Object arrays", "no file of statistics"),
        (lambda x: x.update(about=np.array("[1]")), "about: Input should be an object", "about: Input should be"),
        (lambda x: x.pop("about"), "no file of statistics .*about", "no file of statistics"),
    ],
)
def test_statistics_that_are_not_those_of_the_features(
    place: tuple[Study, Path], change: Change, said: str, told: str, old: bool
) -> None:
    path = place[1] / "statistics" / "classifier" / "train.npz"
    if old:
        rewrite(path, without_checksum)
    rewrite(path, change)
    refused(place, rf"statistics/classifier/train\.npz: .*{told if old else said}.*(`mar statistics`|the same command)")


def test_old_statistics_are_read(place: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a checksum they are computed once more, unless the metrics of real images were made with that file."""
    study, root = place
    path, first = root / "statistics" / "classifier" / "train.npz", report(place[1])["metrics"]
    rewrite(path, without_checksum)
    evaluate.evaluate(study, root, "mar", 0, "plain")
    assert report(root)["metrics"] == first
    evaluate.reference(study, root)
    monkeypatch.setattr(statistics, "streamed", None)
    evaluate.evaluate(study, root, "mar", 0, "plain")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x.update(features=x["features"] * np.nan), "features holds numbers that are not finite"),
        (lambda x: x.update(features=x["features"][:7]), r"features is float32 \(7, 8\); accepted: .*numbers, 30 x 8"),
        (lambda x: x.update(features=x["features"][:, :3]), r"features is float32 \(30, 3\); accepted: .*, 30 x 8"),
        (lambda x: x.update(features=x["features"][:, 0]), r"features is float32 \(30,\); accepted"),
        (lambda x: x.update(features=np.full((30, 8), "a")), r"features is <U1 \(30, 8\); accepted: floating point"),
        (lambda x: x.update(features=np.array([{}] * 30)), "features holds Python objects, which are not unpickled"),
        (lambda x: x.update(labels=x["labels"] + 0.5), r"labels is float64 \(30,\); accepted: whole numbers, 30"),
        (lambda x: x.pop("logits"), "has no logits; found"),
    ],
)
def test_features_that_are_none(place: tuple[Study, Path], change: Change, said: str) -> None:
    """The checksum is right: whoever wrote them is to blame."""
    folder = place[1] / "features" / "classifier" / WHERE
    rewrite(folder / "part-00001.npz", change)
    parts = read_json(folder / "manifest.json")["parts"]
    parts[1]["sha256"] = sha256(folder / "part-00001.npz")
    edit(folder / "manifest.json", parts=parts)
    about = place[1] / "statistics" / "classifier" / f"{WHERE}.npz"
    with np.load(about) as arrays:
        values = json.loads(str(arrays["about"])) | {"features": sha256(folder / "manifest.json")}
    rewrite(about, lambda x: x.update(about=np.array(json.dumps(values))))
    refused(place, rf"plain/part-00001\.npz: {said}.*; delete it and run `mar features` again")


def test_features_of_another_width_than_the_real_side(place: tuple[Study, Path]) -> None:
    study, root = place
    folder = root / "features" / "classifier" / WHERE
    parts = read_json(folder / "manifest.json")["parts"]
    for part in parts:
        rewrite(folder / part["file"], lambda x: x.update(features=x["features"][:, :3]))
        part["sha256"] = sha256(folder / part["file"])
    edit(folder / "manifest.json", parts=parts)
    statistics.statistics(study, root, "classifier", WHERE)
    refused(place, r"plain: 3 features an image, those of train split have 8; accepted: the same")


def given_of(files: dict[str, Path]) -> Study:
    """The study with these files as sets that others drew."""
    return pipeline.study(given={name: {"file": str(file)} for name, file in files.items()})


def judge_given(study: Study, root: Path, name: str) -> dict[str, Any]:
    """All steps of one given set: the content of its metric file."""
    features.features(study, root, "classifier", f"given/{name}")
    statistics.statistics(study, root, "classifier", f"given/{name}")
    evaluate.evaluate_given(study, root, name)
    found: dict[str, Any] = read_json(root / "metrics" / "given" / f"{name}.json")
    return found


def test_equal_images_that_others_drew_have_equal_numbers(place: tuple[Study, Path], tmp_path: Path) -> None:
    """Exported, shuffled and read back, ours has the same numbers and intervals to the bit, also as rows of a table."""
    study, root = place
    ours, folder = report(root), root / "samples" / WHERE
    export(image_sets.of_chunks(folder), tmp_path / "adm.npz")
    study = pipeline.study(
        given={"exported": {"file": str(tmp_path / "adm.npz"), "label": "ADM"}, "drawn": {"file": str(folder)}},
        tables={"t": {"paper": "mar_table4", "title": "T", "rows": [
            {"paper": "mar-b", "variant": "mar", "without": "plain"},
            {"paper": "adm", "without": "exported", "guided": "drawn"},
        ]}},
    )  # fmt: skip
    for name in ("exported", "drawn"):
        found = judge_given(study, root, name)
        assert found["metrics"] == ours["metrics"] and found["copied"] == ours["copied"], name
        assert not {"variant", "seed", "setting"} & set(found) and found["samples"] == 60
        assert found["notes"] == ours["notes"] and found["reference"] == ours["reference"]
    file = str(tmp_path / "adm.npz")
    exported = read_json(root / "metrics" / "given" / "exported.json")
    assert exported["given"] == {"kind": "npz", "name": file, "sha256": sha256(file)}
    assert exported["inputs"]["samples"] == sha256(file) and "checkpoint" not in exported["inputs"]
    assert found["given"]["sha256"] == sha256(folder / "manifest.json") and "given" not in ours
    rows = frame(study, root, "t").set_index("row")
    keys = [f"{metric}{end}" for metric in ("fid", "is", "precision", "recall") for end in ("", "_low", "_high")]
    assert rows.loc["adm", keys].tolist() == rows.loc["mar-b", keys].tolist()
    guided = [key.replace("_", "_guided_", 1) if "_" in key else f"{key}_guided" for key in keys]
    assert rows.loc["adm", guided].tolist() == rows.loc["mar-b", keys].tolist()
    assert all(isinstance(number, float) for number in rows.loc["adm", keys])
    shown = ["ours", "setting", "setting_guided", "guidance", "temperature", "swept", "seeds", "n", "params"]
    assert rows.loc["adm", shown].tolist() == ["given", "exported", "drawn", "-", "-", "-", "given", 60, "-"]


def test_a_set_without_classes_is_one_stratum(place: tuple[Study, Path], tmp_path: Path) -> None:
    root = place[1]
    rows = np.concatenate([np.load(path) for path in sorted((root / "samples" / WHERE).glob("chunk-*.npy"))])
    np.savez(tmp_path / "bare.npz", arr_0=rows)
    ours, found = report(root), judge_given(given_of({"bare": tmp_path / "bare.npz"}), root, "bare")
    assert set(found["metrics"]) == NAMES - {"agreement"} and ONE_CLASS in found["notes"]
    for name in ("fid", "inception_score", "precision", "recall", "nearest"):
        assert found["metrics"][name]["value"] == ours["metrics"][name]["value"], name
    drawn = features.read(root, "classifier", "given/bare", "generated")
    assert "labels" not in drawn.keys
    draw = Bootstrap(np.zeros(60, dtype=int), 10, 0)
    expected = draw.inception_score(drawn.array("logits"))
    assert found["metrics"]["inception_score"] == expected.model_dump()
    assert expected.low != ours["metrics"]["inception_score"]["low"]


def test_a_given_file_that_changed_is_judged_again_and_never_mixed(place: tuple[Study, Path], tmp_path: Path) -> None:
    root, file = place[1], tmp_path / "theirs.npz"
    rows = np.concatenate([np.load(path) for path in sorted((root / "samples" / WHERE).glob("chunk-*.npy"))])
    labels = np.arange(60) % 10
    np.savez(file, arr_0=rows, arr_1=labels)
    study = given_of({"theirs": file})
    first = judge_given(study, root, "theirs")
    assert judge_given(study, root, "theirs") == first, "nothing is made again"
    np.savez(file, arr_0=rows // 2, arr_1=labels)
    with pytest.raises(ValueError, match=r"features/classifier/given/theirs: of other samples than .*theirs\.npz"):
        evaluate.evaluate_given(study, root, "theirs")
    second = judge_given(study, root, "theirs")
    assert second["metrics"]["fid"] != first["metrics"]["fid"]
    assert second["given"]["sha256"] == sha256(file) != first["given"]["sha256"]
    results = Results(study, root)
    assert results.given("theirs").given == ImageSource(**second["given"])
    other = given_of({"theirs": tmp_path / "other.npz"})
    with pytest.raises(ValueError, match=rf"given\.name: found {file}; the study says .*other\.npz"):
        Results(other, root).given("theirs")
    stated = pipeline.study(given={"theirs": {"file": str(file), "sha256": "0" * 64}})
    with pytest.raises(ValueError, match=rf"given\.sha256: found {sha256(file)}; the study says {'0' * 64}"):
        Results(stated, root).given("theirs")


def test_other_pieces_of_a_given_set_are_made_anew(place: tuple[Study, Path], tmp_path: Path) -> None:
    """Parts of a stopped run have as many images as the chunks of the study had then."""
    root, file = place[1], tmp_path / "theirs.npz"
    rows = np.concatenate([np.load(path) for path in sorted((root / "samples" / WHERE).glob("chunk-*.npy"))])
    np.savez(file, arr_0=rows)
    folder, study = root / "features" / "classifier" / "given" / "theirs", given_of({"theirs": file})
    features.features(study, root, "classifier", "given/theirs")
    (folder / "manifest.json").unlink()
    halved = pipeline.study(given={"theirs": {"file": str(file)}}, metrics={**pipeline.VALUES["metrics"], "chunk": 15})
    features.features(halved, root, "classifier", "given/theirs")
    assert [part.count for part in features.read(root, "classifier", "given/theirs", "generated").manifest.parts] == [
        15
    ] * 4


def test_the_command_judges_a_sample_set_or_a_given_one(place: tuple[Study, Path]) -> None:
    command = ["evaluate", "--study", str(place[1] / "study.json")]
    for more, message in (
        (["--variant", "mar"], "evaluate: accepted: --variant, --seed and --setting together, or --given alone"),
        (["--given", "theirs"], "--given: found 'theirs'; accepted: none"),
    ):
        done = CliRunner().invoke(main, [*command, *more])
        assert done.exit_code == 1 and message in done.output, done.output
