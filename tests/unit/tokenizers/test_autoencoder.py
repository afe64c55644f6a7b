"""Tokenizers: shapes, training, the codebook, measurement, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pipeline
import pytest
import torch

from mar.data.images import ImageSet, open_split, to_float, to_uint8
from mar.features.networks import extractors
from mar.metrics import real_images, reconstruction
from mar.runtime.files import read, read_json, sha256, write
from mar.study import layout
from mar.study.records import RfidRecord
from mar.study.stage_keys import metrics_key, rfid_key
from mar.study.study import Study
from mar.tokenizers import autoencoder
from mar.tokenizers import train as training
from mar.tokenizers.autoencoder import build, norm_groups


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """Data, classifier, statistics of the train split and both tokenizers."""
    study = pipeline.study()
    root = pipeline.with_classifier(tmp_path_factory.mktemp("tokenizers"), study)
    pipeline.real_side(study, root)
    for name in ("kl", "vq"):
        training.train(study, root, name)
        reconstruction.rfid(study, root, name)
    return study, root


def test_files(made: tuple[Study, Path]) -> None:
    study, root = made
    for name in ("kl", "vq"):
        folder = root / "tokenizers" / name
        config = read_json(folder / "config.json")
        assert config["kind"] == name and config["net"]["block_out_channels"] == [8, 8, 8]
        assert config["parameters"] == sum(p.numel() for p in autoencoder.load(root, name, study).parameters())
        assert (folder / "metrics.jsonl").read_text().count("\n") == 2  # a line a step: 128 images of batch 64
        rfid = read_json(folder / "rfid.json")
        assert rfid["split"] == "heldout"
        assert rfid["count"] == read_json(root / "data" / "manifest.json")["splits"]["heldout"]["count"]
        assert rfid["metrics"]["rfid"]["value"] > rfid["metrics"]["floor"]["value"] >= 0.0
        assert rfid["metrics"]["rfid"]["n"] == rfid["count"]
        assert ("codebook_usage" in rfid["metrics"]) == (name == "vq")
        train = rfid["train"]  # the floor is of the same images as the statistics: nothing is lost
        assert train["split"] == "train" and train["count"] == train["metrics"]["psnr"]["n"]
        assert train["count"] == read_json(root / "data" / "manifest.json")["splits"]["train"]["count"]
        assert abs(train["metrics"]["floor"]["value"]) < 1e-6 < train["metrics"]["rfid"]["value"]
    usage = rfid["metrics"]["codebook_usage"]["value"]
    assert 0.0 < usage <= 1.0 and 1.0 <= rfid["metrics"]["perplexity"]["value"] <= 16 * usage + 1e-9


def test_kl_interface(made: tuple[Study, Path]) -> None:
    study, root = made
    tokenizer = autoencoder.load(root, "kl", study)
    assert tokenizer.kind == "kl" and not tokenizer.training
    moments = tokenizer.encode(torch.zeros(2, 3, 16, 16))
    assert moments.shape == (2, 8, 4, 4)
    assert tokenizer.decode_latents(moments[:, :4]).shape == (2, 3, 16, 16)


def test_vq_interface(made: tuple[Study, Path]) -> None:
    study, root = made
    tokenizer = autoencoder.load(root, "vq", study)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    ids = tokenizer.encode(images)
    assert ids.shape == (2, 16) and ids.dtype == torch.int64 and ids.min() >= 0 and ids.max() < 16
    # decoding ids is decoding what the quantiser chose
    torch.testing.assert_close(tokenizer.decode_ids(ids), tokenizer.net(images).sample)
    # raster order: id k belongs to row k // 4, column k % 4
    latents = tokenizer.net.encode(images).latents.permute(0, 2, 3, 1)  # (B, h, w, C)
    nearest = torch.cdist(latents.reshape(-1, 4), tokenizer.net.quantize.embedding.weight).argmin(1)
    assert (ids == nearest.view(2, 16)).all()


def test_same_study_same_weights(made: tuple[Study, Path], tmp_path: Path) -> None:
    study, root = made
    images = training.open_split(study, root, "train")
    states = []
    for number in range(2):
        torch.manual_seed(0)
        tokenizer = build(study.tokenizers["vq"], 16)
        torch.manual_seed(number)  # the global generator plays no part
        training.fit(tokenizer, study.tokenizers["vq"], images, study, tmp_path / "log.jsonl", torch.device("cpu"))
        states.append(tokenizer.state_dict())
    stored = autoencoder.load(root, "vq", study).state_dict()
    for key, value in states[0].items():
        assert (value == states[1][key]).all() and (value == stored[key]).all(), key


def test_complete_work_is_left_alone_and_a_new_question_measures_again(made: tuple[Study, Path]) -> None:
    study, root = made
    folder = root / "tokenizers" / "kl"
    weights, rfid = folder / "model.safetensors", folder / "rfid.json"
    before = weights.stat().st_mtime_ns, rfid.stat().st_mtime_ns
    training.train(study, root, "kl")
    reconstruction.rfid(study, root, "kl")
    assert (weights.stat().st_mtime_ns, rfid.stat().st_mtime_ns) == before
    more = pipeline.study(metrics={**pipeline.VALUES["metrics"], "bootstrap": 12})
    reconstruction.rfid(more, root, "kl")
    assert weights.stat().st_mtime_ns == before[0]
    assert read_json(rfid)["metrics"]["rfid"]["bootstrap"] == 12


def test_held_out_images_are_rebuilt_and_compared_with_others(made: tuple[Study, Path], tmp_path: Path) -> None:
    study = pipeline.study(metrics={**pipeline.VALUES["metrics"], "real": "heldout"})
    root = Path(shutil.copytree(made[1], tmp_path / "pipeline"))
    pipeline.real_side(study, root)
    reconstruction.rfid(study, root, "kl")
    found, before = (read_json(folder / "tokenizers" / "kl" / "rfid.json") for folder in (root, made[1]))
    assert found["reference"]["name"] == "the reference part of the held-out images"
    assert found["split"] == "heldout-floor" and abs(found["count"] - before["count"] / 4) <= 10
    assert found["train"]["count"] == before["train"]["count"]
    assert found["train"]["metrics"]["floor"]["value"] > 1e-3, "the train split is no longer what is compared with"


def test_what_the_first_scales_give(
    made: tuple[Study, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    section = pipeline.TOKENIZER | {"kind": "msvq", "codebook_size": 16, "scales": [1, 2, 4]}
    study = pipeline.study(tokenizers=pipeline.VALUES["tokenizers"] | {"msvq": section})
    root = Path(shutil.copytree(made[1], tmp_path / "pipeline"))
    training.train(study, root, "msvq")
    capsys.readouterr()
    reconstruction.rfid(study, root, "msvq")
    report = layout.rfid(root, "msvq")
    assert "(first 2 of 3 scales)" in capsys.readouterr().out
    record = read(report, RfidRecord)
    assert [part.scales for part in record.by_scale] == [1, 2, 3]
    assert record.by_scale[2].metrics == {key: record.metrics[key] for key in ("rfid", "psnr", "agreement")}
    heldout = open_split(study, root, "heldout")
    batch = heldout.batch(np.arange(len(heldout)))
    tokenizer = autoencoder.load(root, "msvq", study)
    with torch.no_grad():
        sums = tokenizer.net.quantize.sums(tokenizer.encode(to_float(batch)))
        rebuilt = [to_uint8(tokenizer.decode_codes(total)) for total in sums]
    for part, images in zip(record.by_scale, rebuilt, strict=True):
        error = (images.double() - batch.double()).square().mean((1, 2, 3))
        assert part.metrics["psnr"].value == pytest.approx(float((10 * (255**2 / error).log10()).mean()), rel=1e-6)
        assert part.metrics["rfid"].n == record.count
    assert len({part.metrics["rfid"].value for part in record.by_scale}) == 3
    # a file from before it was measured is read, and measured again where the command runs
    write(report, record.model_copy(update={"by_scale": ()}))
    reconstruction.rfid(study, root, "msvq")
    assert read(report, RfidRecord).by_scale == record.by_scale
    assert read(layout.rfid(made[1], "kl"), RfidRecord).by_scale == ()


def test_no_more_of_the_train_split_than_the_study_says(made: tuple[Study, Path]) -> None:
    study, root = made
    assert study.metrics.rebuilt == 50_000 and rfid_key(study) == metrics_key(study)
    study = study.model_copy(update={"metrics": study.metrics.model_copy(update={"rebuilt": 600})})
    assert rfid_key(study) != metrics_key(study)
    tokenizer, device = autoencoder.load(root, "kl", study), torch.device("cpu")
    judge = extractors.load("classifier", study, root, device)
    there = real_images.real(study, root, "classifier", images=False)
    found = reconstruction.measure(tokenizer, judge, there, study, root, "train", device)
    assert found.count == found.metrics["rfid"].n == 600
    assert found.metrics["floor"].value > 1e-5  # of those 600 against all


def test_an_unfinished_training_starts_again(made: tuple[Study, Path]) -> None:
    study, root = made
    folder = root / "tokenizers" / "vq"
    digest = sha256(folder / "model.safetensors")
    (folder / "config.json").unlink()  # as if killed between the weights and the record
    with pytest.raises(ValueError, match=r"config\.json: missing"):
        autoencoder.load(root, "vq", study)
    training.train(study, root, "vq")
    assert sha256(folder / "model.safetensors") == digest


def test_refusals(made: tuple[Study, Path], tmp_path: Path) -> None:
    study, root = made
    other = pipeline.study(seed=3)
    with pytest.raises(ValueError, match=r"trained by another recipe"):
        autoencoder.load(root, "kl", other)
    with pytest.raises(ValueError, match=r"grouped/model\.safetensors: missing; run `mar tokenizer` first"):
        reconstruction.rfid(study, root, "grouped")
    empty = pipeline.root(tmp_path, study)
    with pytest.raises(ValueError, match=r"data/manifest\.json: missing"):
        training.train(study, empty, "kl")
    shutil.copytree(root / "tokenizers" / "kl", empty / "tokenizers" / "kl", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"features/classifier/train/manifest\.json: missing"):
        reconstruction.rfid(study, empty, "kl")


MSVQ = {**pipeline.VALUES["tokenizers"]["vq"], "kind": "msvq", "scales": [1, 2, 4]}


@pytest.mark.parametrize("kind", ["kl", "vq", "msvq"])
def test_training_learns(kind: str, tmp_path: Path) -> None:
    """A few steps on black and white images bring the loss down; the mean brightness is what they have to learn."""
    values = {**pipeline.VALUES["tokenizers"], "msvq": MSVQ}[kind]
    study = pipeline.study(tokenizers={kind: {**values, "images": 1280, "learning_rate": 5e-3}}, variants={})
    pixels = np.random.default_rng(0).integers(2, size=(64, 1, 1, 1), dtype=np.uint8) * 255
    images = ImageSet([0] * 64, ["a"], lambda rows: pixels[rows].repeat(16, 1).repeat(16, 2).repeat(3, 3))
    torch.manual_seed(0)
    tokenizer = build(study.tokenizers[kind], 16)
    log = tmp_path / "log.jsonl"
    training.fit(tokenizer, study.tokenizers[kind], images, study, log, torch.device("cpu"))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[-1]["reconstruction"] < 0.8 * lines[0]["reconstruction"]
    assert lines[-1]["images"] == 1280 and lines[-1]["learning_rate"] < 0.1 * lines[0]["learning_rate"]


def test_unused_codes_find_a_new_place() -> None:
    torch.manual_seed(0)
    tokenizer = build(pipeline.study().tokenizers["vq"], 16)
    codebook = training.Codebook(tokenizer)
    codes = tokenizer.net.quantize.embedding.weight
    batch = torch.rand(8, 3, 16, 16) * 2 - 1
    codebook.used[:5] = True
    kept, moved = codes[:5].clone(), codes[5:].clone()
    codebook.renew(batch, torch.Generator().manual_seed(0))
    assert (codes[:5] == kept).all() and not (codes[5:] == moved).any()
    latents = tokenizer.net.encode(batch).latents.permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.cdist(codes[5:], latents).min(1).values.max() < 1e-2  # each lies on a latent
    assert not codebook.used.any()
    codebook.forward(batch)
    assert codebook.used.any()


def test_unused_codes_of_scales_find_a_new_place() -> None:
    torch.manual_seed(0)
    tokenizer = build(pipeline.study(tokenizers={"msvq": MSVQ}, variants={}).tokenizers["msvq"], 16)
    codebook, codes = training.Codebook(tokenizer), tokenizer.net.quantize.embedding.weight
    batch = torch.rand(8, 3, 16, 16) * 2 - 1
    places = tokenizer.net.quantize.residuals(tokenizer.net.encode(batch).latents)
    codebook.used[:5] = True
    kept = codes[:5].clone()
    codebook.renew(batch, torch.Generator().manual_seed(0))
    assert (codes[:5] == kept).all() and not codebook.used.any()
    assert torch.cdist(codes[5:], places, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max() < 1e-5
    codebook.forward(batch)
    assert codebook.used.any()


def test_no_finite_loss_stops(tmp_path: Path) -> None:
    study = pipeline.study()
    tokenizer = build(study.tokenizers["kl"], 16)
    torch.nn.init.constant_(tokenizer.net.decoder.conv_out.bias, float("nan"))
    images = ImageSet([0] * 4, ["a"], lambda rows: np.zeros((len(rows), 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"log\.jsonl: loss nan"):
        training.fit(tokenizer, study.tokenizers["kl"], images, study, tmp_path / "log.jsonl", torch.device("cpu"))


def test_norm_groups() -> None:
    assert norm_groups((128, 256, 512)) == 32  # LDM
    assert norm_groups((8, 16, 32, 64)) == 2
    assert norm_groups((32, 64)) == 8
    assert norm_groups((6, 12)) == 1
