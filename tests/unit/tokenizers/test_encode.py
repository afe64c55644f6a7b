"""Encoding: what is stored, going on after a stop, and damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pipeline
import pytest
import torch
from PIL import Image

from mar.data.images import open_split, to_float
from mar.data.latents import sample_posterior
from mar.data.prepare import prepare
from mar.data.tokens import TokenSet
from mar.models.multiscale import load_quantizer
from mar.runtime.files import read_json, sha256
from mar.study.study import Study
from mar.tokenizers import autoencoder, encode
from mar.tokenizers import train as training


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """A folder of images with mirror views, and two tokenizers."""
    base = tmp_path_factory.mktemp("encode")
    rng = np.random.default_rng(0)
    for name in ("ant", "cat"):
        (base / "photos" / name).mkdir(parents=True)
        for i in range(15):
            image = Image.fromarray(rng.integers(256, size=(16, 16, 3), dtype=np.uint8))
            image.save(base / "photos" / name / f"{i:02d}.png")
    data = {"kind": "imagefolder", "path": str(base / "photos"), "image_size": 16, "flip": True, "holdout": 0.2}
    msvq = pipeline.VALUES["tokenizers"]["vq"] | {"kind": "msvq", "scales": [1, 2, 4]}
    study = pipeline.study(data=data, tokenizers=pipeline.VALUES["tokenizers"] | {"msvq": msvq})
    root = pipeline.root(base, study)
    prepare(study, root)
    for name in ("grouped", "vq", "msvq"):
        training.train(study, root, name)
    return study, root


@pytest.fixture
def root(made: tuple[Study, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy without tokens; 10 images a shard."""
    monkeypatch.setattr(encode, "SHARD", 10)
    monkeypatch.setattr(encode, "BATCH", 4)
    for part in ("data", "tokenizers"):
        shutil.copytree(made[1] / part, tmp_path / part)
    return tmp_path


def test_moments(made: tuple[Study, Path], root: Path) -> None:
    study, _ = made
    encode.encode(study, root, "grouped")
    tokens = TokenSet.open(root / "tokens" / "grouped" / "train")
    manifest = tokens.manifest
    assert [shard.count for shard in manifest.shards] == [10, 10, 4]
    expected = {"kind": "moments", "count": 24, "classes": 2, "class_names": ("ant", "cat"), "views": 2, "grid": 2}
    expected |= {"tokens": 4, "group": 2, "token_dim": 16}
    assert {key: getattr(manifest, key) for key in expected} == expected
    assert manifest.tokenizer == sha256(root / "tokenizers" / "grouped" / "model.safetensors")
    assert manifest.data == sha256(root / "data" / "manifest.json")
    images = open_split(study, root, "train")
    assert (tokens.labels.numpy() == images.labels).all()
    tokenizer, chosen = autoencoder.load(root, "grouped", study), torch.tensor([0, 11, 23])
    pixels = to_float(images.batch(chosen))
    for view, batch in enumerate((pixels, pixels.flip(3))):
        with torch.no_grad():
            moments = tokenizer.encode(batch)
        stored = tokens.batch(chosen, torch.full((3,), view))
        assert stored.shape == (3, 8, 4, 4)
        torch.testing.assert_close(stored, moments, atol=1e-5, rtol=1e-5)
    heldout = TokenSet.open(root / "tokens" / "grouped" / "heldout")
    assert len(heldout) == 6 and heldout.manifest.scale == manifest.scale


def test_scale_is_one_over_std_of_sampled_latents(made: tuple[Study, Path], root: Path) -> None:
    study, _ = made
    encode.encode(study, root, "grouped")
    tokens = TokenSet.open(root / "tokens" / "grouped" / "train")
    rows = torch.arange(len(tokens))
    moments = torch.cat([tokens.batch(rows, torch.full_like(rows, view)) for view in (0, 1)])
    latents = sample_posterior(moments, torch.randn(moments.chunk(2, 1)[0].shape))
    assert tokens.manifest.scale == pytest.approx(1.0 / latents.std().item(), rel=0.05)


def test_ids(made: tuple[Study, Path], root: Path) -> None:
    study, _ = made
    encode.encode(study, root, "vq")
    tokens = TokenSet.open(root / "tokens" / "vq" / "train")
    assert tokens.manifest.kind == "ids" and tokens.manifest.codebook_size == 16
    assert not tokens.manifest.scale
    with torch.no_grad():
        ids = autoencoder.load(root, "vq", study).encode(to_float(open_split(study, root, "train").batch([13])))
    assert (tokens.batch(torch.tensor([13]), torch.tensor([0])) == ids).all()


def test_ids_of_scales_and_what_makes_their_inputs(made: tuple[Study, Path], root: Path) -> None:
    study, _ = made
    encode.encode(study, root, "msvq")
    folder = root / "tokens" / "msvq" / "train"
    tokens, tokenizer = TokenSet.open(folder), autoencoder.load(root, "msvq", study)
    expected = {"kind": "ids", "tokens": 21, "grid": 4, "scales": (1, 2, 4), "code_width": 4, "codebook_size": 16}
    assert {key: getattr(tokens.manifest, key) for key in expected} == expected and not tokens.manifest.scale
    with torch.no_grad():
        ids = tokenizer.encode(to_float(open_split(study, root, "train").batch([13])).flip(3))
        assert (tokens.batch(torch.tensor([13]), torch.tensor([1])) == ids).all()
        # beside the ids lies the quantiser of the tokenizer, bit for bit
        quantizer = load_quantizer(folder, tokens.manifest)
        assert quantizer is not None
        assert (quantizer.next_input(ids) == tokenizer.net.quantize.next_input(ids)).all()
    assert not any(p.requires_grad for p in quantizer.parameters())
    # damage is found out, and mended by the same command
    digest = sha256(folder / "quantizer.safetensors")
    (folder / "quantizer.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"quantizer\.safetensors: missing or differs from its checksum"):
        TokenSet.open(folder)
    encode.encode(study, root, "msvq")
    assert TokenSet.open(folder).sha256 == tokens.sha256 and sha256(folder / "quantizer.safetensors") == digest


def test_worker_processes_change_nothing(made: tuple[Study, Path], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = made
    encode.encode(study, root, "vq")
    manifests = [root / "tokens" / "vq" / split / "manifest.json" for split in ("train", "heldout")]
    alone = [sha256(manifest) for manifest in manifests]
    shutil.rmtree(root / "tokens")
    monkeypatch.setattr(encode, "WORKER_IMAGES", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    asked: list[int] = []
    read_ahead = encode.read_ahead

    def spy(read: Any, batches: list[range], workers: int) -> Iterator[np.ndarray]:
        asked.append(workers)
        return read_ahead(read, batches, workers)

    monkeypatch.setattr(encode, "read_ahead", spy)
    encode.encode(study, root, "vq")
    assert asked == [2, 1]  # as many as there are threads, and images to share
    assert [sha256(manifest) for manifest in manifests] == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_vanished_is_named_whoever_reads_it(
    made: tuple[Study, Path], root: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    images = open_split(made[0], root, "train")
    read = images._read

    def gone(rows: np.ndarray) -> np.ndarray:
        if 5 in rows:
            raise ValueError("ant/05.png: cannot be read any more")
        return read(rows)

    monkeypatch.setattr(images, "_read", gone)
    batches = encode.read_ahead(images.arrays, [range(4), range(4, 8)], workers)
    assert (next(batches) == images.arrays(range(4))).all()
    with pytest.raises(ValueError, match=r"^ant/05\.png: cannot be read any more$"):
        next(batches)


def test_goes_on_at_the_first_missing_shard(
    made: tuple[Study, Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = made
    encode.encode(study, root, "vq")
    folder = root / "tokens" / "vq" / "train"
    whole = sha256(folder / "manifest.json")
    (folder / "manifest.json").unlink()
    (folder / "shard-00001.npy").unlink()
    kept = (folder / "shard-00000.npy").stat().st_mtime_ns
    encode.encode(study, root, "vq")
    assert sha256(folder / "manifest.json") == whole  # the same bytes as without the stop
    assert (folder / "shard-00000.npy").stat().st_mtime_ns == kept
    monkeypatch.setattr(autoencoder, "load", None)  # complete: the tokenizer is not even loaded
    encode.encode(study, root, "vq")


def test_a_damaged_shard_is_named_and_made_again(
    made: tuple[Study, Path], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, _ = made
    encode.encode(study, root, "vq")
    folder = root / "tokens" / "vq" / "heldout"
    whole = sha256(folder / "manifest.json")
    shard = folder / "shard-00000.npy"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    encode.encode(study, root, "vq")
    assert "shard-00000.npy: differs from its checksum" in capsys.readouterr().out
    assert sha256(folder / "manifest.json") == whole
    TokenSet.open(folder)
    (folder / "manifest.json").unlink()
    shard.write_bytes(bytes(data[:-8]))
    encode.encode(study, root, "vq")
    assert "shard-00000.npy: truncated" in capsys.readouterr().out
    assert sha256(folder / "manifest.json") == whole


def test_another_tokenizer_moves_the_tokens_aside(made: tuple[Study, Path], root: Path) -> None:
    study, _ = made
    encode.encode(study, root, "vq")
    weights = root / "tokenizers" / "vq" / "model.safetensors"
    stored = autoencoder.load(root, "vq", study)
    with torch.no_grad():
        stored.net.quantize.embedding.weight.mul_(2.0)
    from safetensors.torch import save_file

    save_file(stored.net.state_dict(), weights)
    encode.encode(study, root, "vq")
    assert read_json(root / "tokens" / "vq" / "train" / "manifest.json")["tokenizer"] == sha256(weights)
    assert len(list((root / "tokens" / "vq").glob("train.old-*"))) == 1


def test_refusals(made: tuple[Study, Path], root: Path) -> None:
    study, _ = made
    with pytest.raises(ValueError, match=r"kl/model\.safetensors: missing; run `mar tokenizer` first"):
        encode.encode(study, root, "kl")


def files(root: Path, name: str) -> dict[str, str]:
    """Checksums of all that a stage left, but for locks."""
    return {
        path.relative_to(root).as_posix(): sha256(path)
        for path in (root / "tokens" / name).rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("name", ["grouped", "vq"])
def test_the_result_does_not_depend_on_the_split(made: tuple[Study, Path], root: Path, name: str) -> None:
    study, _ = made
    encode.encode(study, root, name)
    alone = files(root, name)
    assert len(alone) == 3 + 1 + 2 * 3  # shards of both splits; labels, recipe and manifest of each
    for count in (2, 3, 7):  # seven are more than there are files
        shutil.rmtree(root / "tokens")
        for shard in reversed(range(count)):  # whoever ends last writes the manifests
            assert not (root / "tokens" / name / "train" / "manifest.json").exists()
            encode.encode(study, root, name, (shard, count))
        assert files(root, name) == alone


def test_a_lost_share_is_encoded_again_alone(made: tuple[Study, Path], root: Path) -> None:
    study, _ = made
    for shard in (0, 1):
        encode.encode(study, root, "grouped", (shard, 2))
    whole, folder = files(root, "grouped"), root / "tokens" / "grouped"
    (folder / "train" / "manifest.json").unlink()
    (folder / "heldout" / "manifest.json").unlink()
    (folder / "train" / "shard-00001.npy").unlink()  # of shard 1, as the held-out file
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("shard-*.npy")}
    encode.encode(study, root, "grouped", (0, 2))
    assert not (folder / "train" / "manifest.json").exists(), "nothing of it is this shard's"
    assert not (folder / "heldout" / "manifest.json").exists(), "its scale is that of the train split"
    encode.encode(study, root, "grouped", (1, 2))
    assert files(root, "grouped") == whole
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
