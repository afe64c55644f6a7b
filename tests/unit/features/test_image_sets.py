"""Sets of images to judge: the same images from every source, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judged
import numpy as np
import pipeline
import pytest
from PIL import Image

from mar.data.images import open_split
from mar.data.prepare import prepare
from mar.features import image_sets
from mar.runtime.files import read_json, sha256, write
from mar.sampling.sampler import chunk_labels
from mar.study.records import ImportedFile, Origin
from mar.study.study import Study


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study = pipeline.study()
    root = pipeline.root(tmp_path_factory.mktemp("sets"), study)
    prepare(study, root)
    return study, root


@pytest.fixture
def rows(prepared: tuple[Study, Path]) -> np.ndarray:
    return judged.images(*prepared)


@pytest.fixture
def samples(prepared: tuple[Study, Path], rows: np.ndarray) -> Path:
    return judged.write_samples(prepared[1], rows)


def opened(prepared: tuple[Study, Path], **over: Any) -> image_sets.Images:
    study = pipeline.study(metrics={**pipeline.VALUES["metrics"], **over}) if over else prepared[0]
    return image_sets.of_samples(study, prepared[1], "mar", 0, "plain")


def all_of(images: image_sets.Images) -> np.ndarray:
    return np.concatenate([batch.permute(0, 2, 3, 1).numpy() for batch in images.batches(7)])


def test_a_sample_set(prepared: tuple[Study, Path], samples: Path, rows: np.ndarray) -> None:
    images = opened(prepared)
    assert (images.kind, images.role, images.count) == ("samples", "generated", 60)
    assert images.sha256 == sha256(samples / "manifest.json")
    assert images.labels is not None
    assert (images.labels == np.concatenate([chunk_labels(i, 30, 10).numpy() for i in (0, 1)])).all()
    assert (all_of(images) == rows).all()
    assert [len(piece) for piece in images.pieces()] == [30, 30]
    assert (np.concatenate(list(images.pieces(1))) == rows[30:]).all()
    assert all(batch.shape[1:] == (3, 16, 16) and len(batch) <= 7 for batch in images.batches(7))


def test_a_split(prepared: tuple[Study, Path]) -> None:
    study, root = prepared
    images, whole = image_sets.of_split(study, root, "heldout"), open_split(study, root, "heldout")
    assert (images.kind, images.role, images.count) == ("split", "real", len(whole))
    assert images.sha256 == sha256(root / "data" / "manifest.json")
    assert images.labels is not None and (images.labels == whole.labels).all()
    assert (all_of(images) == whole.arrays(range(len(whole)))).all()


def test_a_folder_of_files(tmp_path: Path, rows: np.ndarray) -> None:
    for i, row in enumerate(rows):
        path = tmp_path / "tree" / f"{i % 10}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row).save(path)
        flat = tmp_path / "flat" / f"{i:03d}.png"
        flat.parent.mkdir(exist_ok=True)
        Image.fromarray(row).save(flat)
    tree, flat_set = image_sets.open_set(tmp_path / "tree"), image_sets.open_set(tmp_path / "flat")
    order = np.argsort(np.arange(60) % 10, kind="stable")  # by name of class, then of file
    assert tree.names == [str(i) for i in range(10)] and tree.labels is not None
    assert (tree.labels == np.arange(60)[order] % 10).all() and (all_of(tree) == rows[order]).all()
    assert flat_set.labels is None and (all_of(flat_set) == rows).all()
    assert (tree.kind, tree.role) == ("folder", "unknown")  # nothing says who made them
    before = image_sets.open_set(tmp_path / "flat").sha256
    assert before == flat_set.sha256 != tree.sha256
    Image.fromarray(rows[1]).save(tmp_path / "flat" / "000.png")
    assert image_sets.open_set(tmp_path / "flat").sha256 != before


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz(tmp_path: Path, rows: np.ndarray, save: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sets, "PIECE", 25)
    path = tmp_path / "images.npz"
    save(path, arr_0=rows, arr_1=np.arange(60) % 10)
    images = image_sets.open_set(path)
    assert (images.kind, images.count, images.sha256) == ("npz", 60, sha256(path))
    assert images.labels is not None and (images.labels == np.arange(60) % 10).all()
    assert (all_of(images) == rows).all()
    assert [len(piece) for piece in images.pieces(1)] == [25, 10]


def test_images_one_by_one_are_the_same_set_as_a_chunk(tmp_path: Path, rows: np.ndarray, samples: Path) -> None:
    np.savez(tmp_path / "i.npz", arr_0=rows)
    assert (all_of(image_sets.open_set(tmp_path / "i.npz")) == all_of(image_sets.open_set(samples))).all()


def refused(prepared: tuple[Study, Path], message: str, **over: Any) -> None:
    with pytest.raises(ValueError, match=message):
        list(opened(prepared, **over).pieces())


def test_fewer_images_than_asked_for(prepared: tuple[Study, Path], rows: np.ndarray) -> None:
    judged.write_samples(prepared[1], rows)
    refused(prepared, r"manifest\.json: holds 60 images; accepted: metrics\.samples 90", samples=90)
    with pytest.raises(ValueError, match=r"plain: holds 60 images; accepted: at least the 61 asked for"):
        image_sets.at_least(opened(prepared), 61)
    judged.write_samples(prepared[1], rows[:45], count=60)
    refused(prepared, r"manifest\.json: count: found 60; accepted: 45, as its pieces hold together")


def test_other_size_or_type(prepared: tuple[Study, Path], rows: np.ndarray) -> None:
    judged.write_samples(prepared[1], rows[:, :8])
    refused(prepared, r"chunk-00000\.npy: holds uint8 \(30, 8, 16, 3\); accepted: uint8 \(30, 16, 16, 3\)")
    judged.write_samples(prepared[1], rows[:, ::2, ::2])
    refused(prepared, r"chunk-00000\.npy: holds uint8 \(30, 8, 8, 3\); accepted: uint8 \(30, 16, 16, 3\)")
    judged.write_samples(prepared[1], rows / np.float32(255))
    refused(prepared, r"chunk-00000\.npy: holds float32 \(30, 16, 16, 3\); accepted: uint8")


def test_labels_that_were_not_asked_for(prepared: tuple[Study, Path], samples: Path) -> None:
    path = samples / "labels.npy"
    labels = np.load(path)
    np.save(path, np.sort(labels))
    refused(prepared, r"labels\.npy: image 1 has class 0, 1 was asked for \(image i has class i mod 10\)")
    labels[[7, 8]] = labels[[8, 7]]
    np.save(path, labels)
    refused(prepared, r"labels\.npy: image 7 has class 8, 7 was asked for")
    np.save(path, labels[:-1])
    refused(prepared, r"labels\.npy: labels \(59,\); the manifest says 60 images")


def test_labels_that_differ_from_their_checksum(prepared: tuple[Study, Path], rows: np.ndarray) -> None:
    folder = judged.write_samples(prepared[1], rows, labels_sha256="0" * 64)
    refused(prepared, r"labels\.npy: differs from its checksum in the manifest")
    manifest = read_json(folder / "manifest.json") | {"labels_sha256": sha256(folder / "labels.npy")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert opened(prepared).count == 60


def test_constant_and_equal_images(prepared: tuple[Study, Path], rows: np.ndarray) -> None:
    black = rows.copy()
    black[[41, 44, 50]] = 0
    judged.write_samples(prepared[1], black)
    refused(prepared, r"plain: 3 of images 30 to 59 are of one value; the first is image 41, all 0: the run that made")
    judged.write_samples(prepared[1], np.full_like(rows, 7))
    refused(prepared, r"plain: 30 of images 0 to 29 are of one value; the first is image 0, all 7")
    judged.write_samples(prepared[1], np.repeat(rows[:1], 60, axis=0))
    refused(prepared, r"plain: images 0 to 29 are all equal")


def test_of_real_images_a_constant_one_is_one(tmp_path: Path, rows: np.ndarray) -> None:
    white = rows.copy()
    white[3] = 255
    np.savez(tmp_path / "r.npz", arr_0=white, mu=np.zeros(1))
    images = image_sets.open_set(tmp_path / "r.npz")
    assert images.role == "real" and len(all_of(images)) == 60


def test_stale_and_untrained_checkpoints(prepared: tuple[Study, Path], samples: Path) -> None:
    run = prepared[1] / "runs" / "mar" / "seed0" / "run.json"
    write(run, judged.RUN.model_copy(update={"checkpoint": 64 * "5"}))
    refused(prepared, r"manifest\.json: drawn from checkpoint c{12}, .*run\.json says 5{12}; run `mar sample`")
    write(run, judged.RUN.model_copy(update={"images": 0}))
    refused(prepared, r"run\.json: says 0 images of training; accepted: samples of a model that was trained")
    source = ImportedFile(file="f", sha256=64 * "f", size=1)
    origin = Origin(format="official-mar", source=source, asset=None, licence=None)
    write(run, judged.RUN.model_copy(update={"images": 0, "pretrained": origin}))
    assert opened(prepared).count == 60
    run.unlink()
    (run.parent / "ema.safetensors").write_bytes(b"weights of whoever")
    refused(prepared, r"run\.json: missing")
    (run.parent / "ema.safetensors").unlink()


def test_samples_of_another_tokenizer(prepared: tuple[Study, Path], samples: Path) -> None:
    weights = prepared[1] / "tokenizers" / "kl" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"new weights")
    refused(prepared, r"decoded by another tokenizer")
    weights.unlink()


def test_damaged_and_missing_chunks(prepared: tuple[Study, Path], samples: Path) -> None:
    chunk = samples / "chunk-00001.npy"
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    refused(prepared, r"chunk-00001\.npy: differs from its checksum in the manifest")
    chunk.write_bytes(data[:100])
    refused(prepared, r"chunk-00001\.npy: differs from its checksum in the manifest \(damaged or cut off\)")
    chunk.unlink()
    refused(prepared, r"chunk-00001\.npy: missing; run `mar sample` again")
    (samples / "manifest.json").unlink()
    refused(prepared, r"manifest\.json: missing")


def test_what_is_no_set(tmp_path: Path, rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="gone: missing; accepted: a folder of `mar sample`"):
        image_sets.open_set(tmp_path / "gone")
    Image.fromarray(rows[0]).save(tmp_path / "a.png")
    Image.fromarray(rows[1][:8]).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png: is \(8, 16, 3\), others are \(16, 16, 3\); accepted: one size"):
        all_of(image_sets.open_set(tmp_path))
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png: cannot be read as an image"):
        all_of(image_sets.open_set(tmp_path))
    for arrays, message in (
        ({"arr_0": rows.astype(float)}, r"arr_0 is float64 \(60, 16, 16, 3\); accepted: images, uint8"),
        ({"arr_0": rows, "arr_1": np.arange(59)}, r"arr_1 is int64 \(59,\); accepted: the classes of 60 images"),
        ({"mu": np.zeros(3)}, r"found mu; accepted: images as arr_0"),
    ):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(ValueError, match=message):
            image_sets.open_set(tmp_path / "x.npz")


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """Peak memory of reading 40 chunks of 5 MB each is that of a few of them."""
    part = np.random.default_rng(0).integers(256, size=(100, 128, 128, 3), dtype=np.uint8)
    chunks = []
    for i in range(40):
        np.save(tmp_path / f"chunk-{i:05d}.npy", part)
        chunks.append({"file": f"chunk-{i:05d}.npy", "count": 100, "sha256": ""})
    for entry in chunks:
        entry["sha256"] = sha256(tmp_path / entry["file"])
    np.save(tmp_path / "labels.npy", np.arange(4000) % 10)
    manifest = {"variant": "mar", "seed": 0, "setting": "plain", "count": 4000, "chunks": chunks}
    manifest |= {"checkpoint": "c" * 64, "tokenizer": "1" * 64, "sampling": {"steps": 1}, "seconds": 1.0}
    manifest |= {"provenance": judged.RUN.provenance.model_dump()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    code = (
        "import resource, sys; from pathlib import Path; from mar.features import image_sets\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "images = image_sets.open_set(Path(sys.argv[1])); pieces = images.pieces(); next(pieces); before = peak()\n"
        "assert sum(len(rows) for rows in pieces) == 3900\n"
        "assert 'torch' not in sys.modules\n"
        "print(peak() - before)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert int(found.stdout) < 40, found.stdout  # megabytes; all chunks have 196


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("chunk-00001.npy", np.array([{}] * 30), r"\.npy file of numbers \(Object arrays.*`mar sample` again"),
        (
            "chunk-00001.npy",
            np.zeros((30, 16, 16, 3)),
            r"holds float64 .*; accepted: uint8 \(30, 16, 16, 3\)",
        ),
        ("chunk-00001.npy", np.zeros((7, 16, 16, 3), np.uint8), r"holds uint8 \(7, 16, 16, 3\); accepted"),
        ("chunk-00001.npy", np.zeros(30, np.uint8), r"holds uint8 \(30,\); accepted"),
        ("labels.npy", np.array([{}] * 60), r"\.npy file of numbers \(Object arrays.*`mar sample` again"),
        ("labels.npy", np.full(60, np.nan), "labels are float64; accepted: whole numbers"),
        ("labels.npy", np.zeros((60, 2), int), r"labels \(60, 2\); the manifest says 60 images"),
    ],
)
def test_arrays_that_are_no_samples(
    prepared: tuple[Study, Path], samples: Path, name: str, array: np.ndarray, said: str
) -> None:
    """The checksums are right: whoever wrote them is to blame."""
    np.save(samples / name, array, allow_pickle=True)
    manifest = read_json(samples / "manifest.json")
    for chunk in manifest["chunks"]:
        chunk["sha256"] = sha256(samples / chunk["file"])
    (samples / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=rf"{name}: .*{said}"):
        all_of(opened(prepared))
