"""idx files: what is read, what is refused, and where Fashion-MNIST is looked for."""

from __future__ import annotations

import gzip
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pipeline
import pytest

from mar.data import idx, published
from mar.data.images import open_split
from mar.data.prepare import prepare

TRAIN, TEST = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)


def packed(values: np.ndarray) -> bytes:
    """An array as an idx file."""
    return bytes((0, 0, 8, values.ndim)) + b"".join(n.to_bytes(4) for n in values.shape) + values.tobytes()


def write(folder: Path, names: tuple[str, str], n: int, prefix: str = "", zipped: bool = True) -> np.ndarray:
    """Images of n classes-in-turn and their labels; returns the images."""
    images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    folder.mkdir(exist_ok=True)
    for name, values in zip(names, (images, (np.arange(n) % 10).astype(np.uint8)), strict=True):
        content = packed(values)
        path = folder / f"{prefix}{name}{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return images


@pytest.mark.parametrize("zipped", [True, False])
def test_images_and_labels_come_back(tmp_path: Path, zipped: bool) -> None:
    train, test = write(tmp_path, TRAIN, 30, zipped=zipped), write(tmp_path, TEST, 20, zipped=zipped)
    found = idx.load(tmp_path)
    assert (found["train"].images == train).all() and (found["heldout"].images == test).all()
    assert found["train"].labels.tolist() == [i % 10 for i in range(30)]


def test_the_checksum_is_of_the_content_and_not_of_the_packing(tmp_path: Path) -> None:
    write(tmp_path / "a", TRAIN, 30, zipped=True)
    write(tmp_path / "b", TRAIN, 30, zipped=False)
    write(tmp_path / "c", TRAIN, 31)
    a, b, c = (idx.load(tmp_path / name)["train"].sha256 for name in "abc")
    assert a == b != c


def test_names_of_relatives(tmp_path: Path) -> None:
    write(tmp_path, TRAIN, 26, prefix="emnist-letters-")
    write(tmp_path, ("test-images-idx3-ubyte", "test-labels-idx1-ubyte"), 5, prefix="emnist-letters-")
    assert {name: len(split.labels) for name, split in idx.load(tmp_path).items()} == {"train": 26, "heldout": 5}
    (tmp_path / "emnist-letters-test-images-idx3-ubyte.gz").unlink()
    (tmp_path / "emnist-letters-test-labels-idx1-ubyte.gz").unlink()
    assert set(idx.load(tmp_path)) == {"train"}, "a set without a test set: a share of it is held out"


IMAGES = TRAIN[0] + ".gz"
BAD = {
    "cut off": (lambda b: b[: len(b) // 2], "cannot be read"),
    "no gzip and no idx": (lambda b: b"hello world, this is text", "begins with 68656c6c; accepted"),
    "of floats": (lambda b: gzip.compress(b"\0\0\x0d\3" + gzip.decompress(b)[4:]), "begins with 00000d03; accepted"),
    "labels in its place": (lambda b: gzip.compress(packed(np.zeros(30, np.uint8))), "begins with 00000801; accepted"),
    "a value too few": (
        lambda b: gzip.compress(gzip.decompress(b)[:-1]),
        r"holds 23519 values after sizes \[30, 28, 28\]",
    ),
    "a value too many": (lambda b: gzip.compress(gzip.decompress(b) + b"x"), "holds more than 23520 values"),
    "empty": (lambda b: b"", "begins with ; accepted"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_file_is_named(tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    write(tmp_path, TRAIN, 30)
    (tmp_path / IMAGES).write_bytes(change((tmp_path / IMAGES).read_bytes()))
    with pytest.raises(ValueError, match=rf"{IMAGES}.*{message}"):
        idx.load(tmp_path)


def test_what_is_missing_or_there_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no such folder; accepted: a folder with train-images"):
        idx.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"found no \*train-images-idx3-ubyte"):
        idx.load(tmp_path)
    write(tmp_path, TRAIN, 30)
    shutil.copy(tmp_path / IMAGES, tmp_path / f"other-{IMAGES}")
    with pytest.raises(ValueError, match=r"found other-train-images.*, train-images.*; accepted: one of them"):
        idx.load(tmp_path)
    (tmp_path / f"other-{IMAGES}").unlink()
    (tmp_path / f"{TRAIN[1]}.gz").unlink()
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte.gz is there without its labels"):
        idx.load(tmp_path)
    (tmp_path / f"{TRAIN[1]}.gz").write_bytes(gzip.compress(packed(np.zeros(29, np.uint8))))
    with pytest.raises(ValueError, match=r"train-labels.*: 29 labels; accepted: 30"):
        idx.load(tmp_path)


@pytest.fixture
def fabricated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose files count as Fashion-MNIST here, and a machine that has it nowhere else."""
    place = tmp_path / "there"
    write(place, TRAIN, 30)
    write(place, TEST, 20)
    for name in idx.FASHION_SHA256:
        kind = name.split("-")[1]
        digest = idx.read(place / f"{name}-{idx.KINDS[kind][0]}-ubyte.gz", idx.KINDS[kind][1])[1]
        monkeypatch.setitem(idx.FASHION_SHA256, name, digest)
    monkeypatch.setattr(idx, "DEBIAN", tmp_path / "not-installed")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    return place


def test_a_path_comes_first_and_must_be_that_set(fabricated: Path, tmp_path: Path) -> None:
    assert set(idx.fashion_mnist(fabricated, tmp_path / "assets")) == {"train", "heldout"}
    write(fabricated, TEST, 21)
    with pytest.raises(ValueError, match=r"its heldout split is another set; accepted: Fashion-MNIST as published"):
        idx.fashion_mnist(fabricated, tmp_path / "assets")


def test_then_the_installed_package(fabricated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "DEBIAN", fabricated)
    assert len(idx.fashion_mnist(None, tmp_path / "assets")["train"].labels) == 30


def test_then_the_package_fetched_without_root(
    fabricated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def run(command: list[str], cwd: str, **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command[:2])
        if command[0] == "apt-get":
            Path(cwd, f"{idx.PACKAGE}_1_all.deb").touch()
        else:
            shutil.copytree(fabricated, Path(cwd, "x", *idx.DEBIAN.parts[1:]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        assert len(idx.fashion_mnist(None, tmp_path / "assets")["heldout"].labels) == 20
    assert calls == [["apt-get", "download"], ["dpkg-deb", "-x"]], "the second time it is there"


def test_then_the_published_files(fabricated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(asset: published.Asset, folder: Path) -> Path:
        name = asset.name.removeprefix("fashion-mnist-")
        return fabricated / f"{name}-{idx.KINDS[name.split('-')[1]][0]}-ubyte.gz"

    monkeypatch.setattr(published, "fetch", fetch)
    assert len(idx.fashion_mnist(None, tmp_path / "assets")["train"].labels) == 30


def test_nowhere_says_every_place(fabricated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(asset: published.Asset, folder: Path) -> Path:
        raise ValueError(f"{asset.url}: cannot be fetched (no network)")

    monkeypatch.setattr(published, "fetch", fetch)
    with pytest.raises(
        ValueError, match=r"no apt-get here; .*no network.*Accepted: Debian's package dataset-fashion-mnist"
    ):
        idx.fashion_mnist(None, tmp_path / "assets")
    assert not (tmp_path / "assets" / "downloads" / "fashion-mnist").exists()


def test_prepared_images_have_black_borders_and_are_not_resized(fabricated: Path, tmp_path: Path) -> None:
    data = {"kind": "fashion-mnist", "path": str(fabricated), "image_size": 40, "flip": True}
    study = pipeline.study(data=data)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    held = open_split(study, root, "heldout")
    raw = idx.load(fabricated)["heldout"]
    images = held.arrays(range(20))
    assert images.shape == (20, 40, 40, 3) and held.classes == list(idx.FASHION)
    assert (images[:, 6:34, 6:34] == raw.images[..., None]).all()
    assert not images[:, :6].any() and not images[:, 34:].any() and not images[:, :, 34:].any()
    assert held.labels.tolist() == raw.labels.tolist()
    before = (root / "data" / "manifest.json").stat().st_mtime_ns
    prepare(study, root)
    assert (root / "data" / "manifest.json").stat().st_mtime_ns == before, "complete: not written again"


def test_a_set_without_a_test_set_holds_a_share_out(tmp_path: Path) -> None:
    write(tmp_path / "there", TRAIN, 50)
    study = pipeline.study(data={"kind": "idx", "path": str(tmp_path / "there"), "image_size": 32, "holdout": 0.2})
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    train, held = (open_split(study, root, split) for split in ("train", "heldout"))
    assert (len(train), len(held)) == (40, 10) and sorted(held.labels.tolist()) == list(range(10))
    assert train.classes == [str(i) for i in range(10)]


def test_larger_images_than_the_study_are_refused(fabricated: Path, tmp_path: Path) -> None:
    study = pipeline.study(data={"kind": "fashion-mnist", "path": str(fabricated), "image_size": 24})
    with pytest.raises(ValueError, match=r"image_size 24: the images are 28 x 28.*accepted: 28 or more"):
        prepare(study, pipeline.root(tmp_path, study))
