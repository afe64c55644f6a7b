"""Steps 1 and 2: features part by part, restarts, statistics of parts, and what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import judged
import numpy as np
import pipeline
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics

from mar.data.images import open_split
from mar.data.prepare import prepare
from mar.features import features, image_sets, neighbours, references
from mar.features.networks import classifier, extractors
from mar.metrics import moments, statistics
from mar.runtime.files import read_json, sha256
from mar.study.study import Study

WHERE = "mar/seed0/plain"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study = pipeline.study()
    root = pipeline.with_classifier(tmp_path_factory.mktemp("features"), study)
    return study, root


@pytest.fixture
def place(trained: tuple[Study, Path], tmp_path: Path) -> tuple[Study, Path]:
    """A copy with a sample set and no features."""
    study, root = trained
    copy = tmp_path / "pipeline"
    shutil.copytree(root, copy)
    judged.write_samples(copy, judged.images(study, copy))
    return study, copy


def folder(root: Path, where: str = WHERE, extractor: str = "classifier") -> Path:
    return root / "features" / extractor / where


def test_worker_processes_change_nothing(place: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    study, root = place
    features.features(study, root, "classifier", WHERE)
    alone = read_json(folder(root) / "manifest.json")["parts"]
    shutil.rmtree(folder(root))
    monkeypatch.setattr(features, "WORKER_IMAGES", 30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    asked, read_ahead = [], image_sets.read_ahead
    monkeypatch.setattr(image_sets, "read_ahead", lambda *given: asked.append(given[2]) or read_ahead(*given))
    features.features(study, root, "classifier", WHERE)
    assert 2 in asked
    assert read_json(folder(root) / "manifest.json")["parts"] == alone


def times(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in path.glob("part-*")}


def test_features_of_a_sample_set(place: tuple[Study, Path]) -> None:
    study, root = place
    features.features(study, root, "classifier", WHERE)
    found = features.read(root, "classifier", WHERE, "generated")
    network = extractors.load("classifier", study, root, torch.device("cpu"))
    images = image_sets.of_samples(study, root, "mar", 0, "plain")
    expected = network(torch.cat(list(images.batches())))
    for key in ("features", "logits"):
        np.testing.assert_allclose(found.array(key), expected[key].numpy(), rtol=1e-5, atol=1e-6)
    assert (found.array("labels") == images.labels).all()
    sides = []
    for split in (image_sets.of_split(study, root, name) for name in ("train", "heldout")):
        assert split.labels is not None
        sides.append(neighbours.Searched(torch.cat(list(split.batches())), split.labels))
    known = neighbours.Seen(*sides).arrays(torch.cat(list(images.batches())))
    for key, values in known.items():
        np.testing.assert_array_equal(found.array(key), values)
    manifest = read_json(folder(root) / "manifest.json")
    weights = sha256(root / "classifier" / "model.safetensors")
    assert manifest["extractor"] == {"name": "classifier", "weights": weights, "note": ""}
    assert (manifest["role"], manifest["count"]) == ("generated", 60)
    assert manifest["source"]["sha256"] == sha256(root / "samples" / WHERE / "manifest.json")
    assert [part["count"] for part in manifest["parts"]] == [30, 30]  # a part a chunk
    assert all(part["sha256"] == sha256(folder(root) / part["file"]) for part in manifest["parts"])


def test_rows_are_read_from_their_parts_alone(place: tuple[Study, Path]) -> None:
    study, root = place
    features.features(study, root, "classifier", "train")
    found = features.read(root, "classifier", "train", "real")
    chosen = np.array([0, 3, 249, 250, 700, found.count - 1])
    assert (found.rows("features", chosen) == found.array("features")[chosen]).all()
    (folder(root, "train") / "part-00001.npz").write_bytes(b"damaged")  # images 250 to 499
    assert len(found.rows("features", np.array([3, 700]))) == 2
    with pytest.raises(ValueError, match=r"part-00001\.npz: differs from its checksum in the manifest; run `mar feat"):
        found.rows("features", np.array([250]))
    assert "nearest" not in found.keys  # of the training images themselves: it would be 0


def test_parts_that_are_there_are_kept_and_damaged_ones_made_again(
    place: tuple[Study, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    study, root = place
    features.features(study, root, "classifier", WHERE)
    before, manifest = times(folder(root)), read_json(folder(root) / "manifest.json")["parts"]
    features.features(study, root, "classifier", WHERE)
    assert "complete" in capsys.readouterr().out and times(folder(root)) == before
    part = folder(root) / "part-00001.npz"
    for damage in (lambda data: data[:200], lambda data: data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]):
        part.write_bytes(damage(part.read_bytes()))
        features.features(study, root, "classifier", WHERE)
        assert f"{part}: differs from its checksum in the manifest; made again" in capsys.readouterr().out
        now = times(folder(root))
        assert now["part-00000.npz"] == before["part-00000.npz"] and now["part-00001.npz"] > before["part-00001.npz"]
        assert read_json(folder(root) / "manifest.json")["parts"] == manifest
    (folder(root) / "manifest.json").unlink()  # as of a run that was killed
    part.write_bytes(part.read_bytes()[:200])
    features.features(study, root, "classifier", WHERE)
    assert f"{part}: features by classifier cannot be read" in capsys.readouterr().out
    assert times(folder(root))["part-00000.npz"] == before["part-00000.npz"]
    assert read_json(folder(root) / "manifest.json")["parts"] == manifest


@pytest.mark.parametrize("where", [WHERE, "train"])
def test_the_result_does_not_depend_on_the_split(place: tuple[Study, Path], where: str) -> None:
    study, root = place
    features.features(study, root, "classifier", where)
    manifest = read_json(folder(root, where) / "manifest.json")
    for count in (2, 3):
        shutil.rmtree(root / "features")
        for shard in reversed(range(count)):  # whoever ends last writes the manifest
            features.features(study, root, "classifier", where, (shard, count))
            assert (folder(root, where) / "manifest.json").exists() == (shard == 0)
        again = read_json(folder(root, where) / "manifest.json")
        assert again["parts"] == manifest["parts"] and {**again, "provenance": 0} == {**manifest, "provenance": 0}


def test_a_lost_share_is_made_again_alone(place: tuple[Study, Path]) -> None:
    study, root = place
    for shard in (0, 1):
        features.features(study, root, "classifier", "train", (shard, 2))
    before, manifest = times(folder(root, "train")), read_json(folder(root, "train") / "manifest.json")
    (folder(root, "train") / "manifest.json").unlink()
    (folder(root, "train") / "part-00001.npz").unlink()
    features.features(study, root, "classifier", "train", (0, 2))
    assert not (folder(root, "train") / "manifest.json").exists()
    features.features(study, root, "classifier", "train", (1, 2))
    assert read_json(folder(root, "train") / "manifest.json")["parts"] == manifest["parts"]
    after = times(folder(root, "train"))
    assert {name for name in after if after[name] != before[name]} == {"part-00001.npz"}


def test_features_of_other_images_or_weights_are_moved_aside(place: tuple[Study, Path]) -> None:
    study, root = place
    features.features(study, root, "classifier", WHERE)
    first = read_json(folder(root) / "manifest.json")
    judged.write_samples(root, judged.images(study, root)[::-1].copy())
    features.features(study, root, "classifier", WHERE)
    second = read_json(folder(root) / "manifest.json")
    assert second["source"]["sha256"] != first["source"]["sha256"]
    (aside,) = folder(root).parent.glob("plain.old-*")
    shutil.rmtree(aside)  # named by the second
    again = pipeline.study(seed=1)
    prepare(again, root)
    classifier.train(again, root)
    features.features(again, root, "classifier", WHERE)
    third = read_json(folder(root) / "manifest.json")
    assert third["extractor"]["weights"] != second["extractor"]["weights"]
    assert len(list(folder(root).parent.glob("plain.old-*"))) == 1


def test_a_killed_run_goes_on(place: tuple[Study, Path]) -> None:
    """kill -9 between the parts of the train split: those that were there stay, the bytes are those of a whole run."""
    study, root = place
    features.features(study, root, "classifier", "heldout")
    expected = read_json(folder(root, "heldout") / "manifest.json")["parts"]
    shutil.rmtree(folder(root, "heldout"))
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "import pipeline, torch; from mar.features import features; from mar.features.networks import extractors\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "load = extractors.load\n"
        "def slow(*arguments):\n"
        "    network = load(*arguments)\n"
        "    shown = []\n"
        "    def judge(images):\n"
        "        shown.append(1)\n"
        "        time.sleep(60 if len(shown) > 1 else 0)\n"
        "        return network(images)\n"
        "    judge.name, judge.weights, judge.note = network.name, network.weights, network.note\n"
        "    return judge\n"
        "extractors.load = slow\n"
        "features.features(pipeline.study(), Path(sys.argv[1]), 'classifier', 'heldout')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(root), str(Path(judged.__file__).parent)])
    deadline = time.monotonic() + 120
    while not (folder(root, "heldout") / "part-00000.npz").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = times(folder(root, "heldout"))
    assert list(before) == ["part-00000.npz"] and not (folder(root, "heldout") / "manifest.json").exists()
    features.features(study, root, "classifier", "heldout")
    assert times(folder(root, "heldout"))["part-00000.npz"] == before["part-00000.npz"]
    assert read_json(folder(root, "heldout") / "manifest.json")["parts"] == expected


def fake(monkeypatch: pytest.MonkeyPatch, spoil: int | None = None) -> None:
    """A network of the name inception: sums of pixels, 12 features, 5 logits, 6 spatial features."""

    def judge(images: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = images.flatten(1).float() / 255.0
        generator = torch.Generator().manual_seed(0)
        found = {}
        for name, width in (("features", 12), ("logits", 5), ("spatial", 6)):
            found[name] = flat @ torch.randn((flat.shape[1], width), generator=generator)
        if spoil is not None:
            found["features"][spoil % len(flat), 1] = torch.nan
        return found

    network: Any = judge
    network.name, network.weights, network.note = "inception", "f" * 64, ""
    monkeypatch.setattr(extractors, "load", lambda *arguments: network)


INCEPTION = {"metrics": {**pipeline.VALUES["metrics"], "extractors": ["inception"]}}


def test_features_that_are_no_numbers_are_refused(place: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, spoil=4)
    with pytest.raises(ValueError, match=r"features by inception of 1 images are not finite; the first is image 4"):
        features.features(pipeline.study(**INCEPTION), place[1], "inception", WHERE)
    assert not (folder(place[1], WHERE, "inception") / "manifest.json").exists()


def test_the_side_of_a_comparison_is_known(place: tuple[Study, Path]) -> None:
    study, root = place
    for where in (WHERE, "heldout"):
        features.features(study, root, "classifier", where)
    with pytest.raises(ValueError, match=r"holds features of real images; accepted here: generated ones"):
        features.read(root, "classifier", "heldout", "generated")
    with pytest.raises(ValueError, match=r"holds features of generated images; accepted here: real ones"):
        features.read(root, "classifier", WHERE, "real")


def test_names_of_sets(place: tuple[Study, Path]) -> None:
    study, root = place
    for where, message in (
        ("test", r"--set test: accepted: train, heldout, reference, heldout-reference, .*, VARIANT/seedK/SETTING"),
        ("mar/seed0", r"--set mar/seed0: accepted"),
        ("nobody/seed0/plain", r"--set: variant: found 'nobody'; accepted: mar"),
        ("mar/seed0/other", r"--set: setting of mar: found 'other'; accepted: plain"),
        ("reference", r"--set reference: belongs to a study with metrics\.reference"),
        (WHERE.replace("seed0", "seed1"), r"--set: seed of mar: found 1; accepted: 0$"),
    ):
        with pytest.raises(ValueError, match=message):
            features.features(study, root, "classifier", where)
    with pytest.raises(ValueError, match=r"--extractor: found 'dinov2'; accepted: classifier"):
        features.features(study, root, "dinov2", WHERE)


@pytest.mark.parametrize("sizes", [(60,), (1, 59), (7, 0, 13, 1, 39)])
def test_statistics_of_parts_are_those_of_all_at_once(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    rows = (1000.0 + rng.normal(size=(60, 9)) * rng.uniform(0.1, 30.0, 9)).astype(np.float32)
    counted = moments.Moments()
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        counted.add(part)
    found = counted.statistics()
    expected = fid_features_to_statistics(torch.from_numpy(rows.astype(np.float64)))
    np.testing.assert_allclose(found["mu"], expected["mu"], rtol=1e-12)
    # a covariance near zero is a difference of large numbers: relative to the scatter of its two features
    scale = np.sqrt(np.outer(np.diag(expected["sigma"]), np.diag(expected["sigma"])))
    np.testing.assert_allclose(found["sigma"] / scale, expected["sigma"] / scale, rtol=1e-10, atol=1e-10)


def test_statistics_of_a_set(place: tuple[Study, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    study, root = pipeline.study(**INCEPTION), place[1]
    fake(monkeypatch)
    features.features(study, root, "inception", "train")
    statistics.statistics(study, root, "inception", "train")
    arrays, about = statistics.read(root, "inception", "train")
    kept = features.read(root, "inception", "train", "real")
    for key, suffix in (("features", ""), ("spatial", "_s")):
        expected = fid_features_to_statistics(torch.from_numpy(kept.array(key).astype(np.float64)))
        for name in ("mu", "sigma"):
            assert arrays[name + suffix].dtype == np.float64
            np.testing.assert_allclose(arrays[name + suffix], expected[name], rtol=1e-10, atol=1e-12)
    assert about.n == kept.count == len(open_split(study, root, "train"))
    assert about.extractor.weights == "f" * 64 and about.features == kept.sha256
    path = root / "statistics" / "inception" / "train.npz"
    with np.load(path, allow_pickle=False) as file:
        assert (int(file["n"]), str(file["extractor"]), str(file["weights"])) == (kept.count, "inception", "f" * 64)
        assert str(file["source"]) == sha256(root / "data" / "manifest.json")
    before = path.stat().st_mtime_ns
    statistics.statistics(study, root, "inception", "train")
    assert path.stat().st_mtime_ns == before
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"train\.npz: no file of statistics .*; delete it and run `mar statistics`"):
        statistics.read(root, "inception", "train")
    with pytest.raises(ValueError, match=r"heldout\.npz: missing; run `mar statistics` first"):
        statistics.read(root, "inception", "heldout")
    with pytest.raises(ValueError, match=r"features/inception/heldout/manifest\.json: missing"):
        statistics.statistics(study, root, "inception", "heldout")


def batch(path: Path, images: np.ndarray | None) -> dict[str, np.ndarray]:
    """A reference of statistics that are not those of its images, and with them if there are any."""
    rng = np.random.default_rng(5)
    found = {"mu": rng.normal(size=12), "mu_s": rng.normal(size=6), "sigma": np.eye(12), "sigma_s": np.eye(6)}
    np.savez(path, **found, **({} if images is None else {"arr_0": images}))
    return found


@pytest.mark.parametrize("with_images", [True, False])
def test_statistics_of_a_reference_are_its_own(
    place: tuple[Study, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_images: bool
) -> None:
    monkeypatch.setattr(references, "WIDTHS", {"mu": 12, "mu_s": 6})
    fake(monkeypatch)
    path = tmp_path / "batch.npz"
    stored = batch(path, open_split(*place, "heldout").arrays(range(40)) if with_images else None)
    asked = {"file": str(path), "sha256": sha256(path)}
    study = pipeline.study(metrics={**INCEPTION["metrics"], "reference": asked})
    root = place[1]
    features.features(study, root, "inception", "reference")
    kept = features.read(root, "inception", "reference", "real")
    assert kept.count == (40 if with_images else 0)
    statistics.statistics(study, root, "inception", "reference")
    arrays, about = statistics.read(root, "inception", "reference")
    for name, value in stored.items():
        assert (arrays[name] == value).all()
    assert about.source.sha256 == sha256(path) and about.n == 0  # the file does not say of how many


def test_step_2_needs_no_torch(place: tuple[Study, Path]) -> None:
    study, root = place
    features.features(study, root, "classifier", WHERE)
    code = (
        "import sys; from mar.cli.__main__ import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
    )
    arguments = ["statistics", "--study", str(root / "study.json"), "--extractor", "classifier", "--set", WHERE]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    assert statistics.read(root, "classifier", WHERE)[1].n == 60


def test_what_another_study_has_finished_is_taken_over(place: tuple[Study, Path]) -> None:
    study, root = place
    features.features(study, root, "classifier", WHERE)
    again = pipeline.study(study="again", reuse="pipeline")
    other = pipeline.root(root.parent, again)
    for name in ("data", "samples", "runs", "classifier"):
        shutil.copytree(root / name, other / name)
    features.features(again, other, "classifier", WHERE)
    theirs, ours = (read_json(folder(r) / "manifest.json") for r in (root, other))
    assert ours == theirs  # the provenance too: they are the same features
    assert features.read(other, "classifier", WHERE, "generated").array("features").shape == (60, 8)
