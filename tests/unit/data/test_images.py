"""Images: the split of the digits, folders of a user, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pipeline
import pytest
import torch
from PIL import Image

from mar.data import imagenet
from mar.data.images import open_split, shuffled, to_float, to_uint8
from mar.data.prepare import prepare
from mar.runtime.files import read_json, sha256
from mar.study.study import Study


def folder_study(path: Path, **over: object) -> Study:
    few = {"samples": 60, "chunk": 30, "bootstrap": 10, "neighbours": 1}
    data = {"kind": "imagefolder", "path": str(path), "image_size": 16, "holdout": 0.25, **over}
    return pipeline.study(data=data, metrics=few)


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (20, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes of eight images."""
    base = tmp_path / "photos"
    for name in ("cat", "ant"):
        for i in range(8):
            picture(base / name / f"{i}.png", seed=i + len(name) * 100)
    return base


def test_digits(tmp_path: Path) -> None:
    study = pipeline.study()
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    manifest = read_json(root / "data" / "manifest.json")
    assert manifest["classes"] == [str(i) for i in range(10)]
    assert manifest["splits"]["train"]["count"] + manifest["splits"]["heldout"]["count"] == 1797
    train, heldout = open_split(study, root, "train"), open_split(study, root, "heldout")
    assert np.bincount(train.labels).tolist() == manifest["splits"]["train"]["per_class"]
    for label in range(10):  # stratified: the same share of each class
        share = (heldout.labels == label).sum() / ((train.labels == label).sum() + (heldout.labels == label).sum())
        assert share == pytest.approx(0.2, abs=0.004)
    batch = heldout.batch([0, 3])
    assert batch.shape == (2, 3, 16, 16) and batch.dtype == torch.uint8
    assert (batch[:, 0] == batch[:, 1]).all() and (batch[:, 0] == batch[:, 2]).all()
    assert batch.max() > 200  # 0..16 was stretched to 0..255
    everything = torch.cat([train.batch(range(len(train))), heldout.batch(range(len(heldout)))])
    assert len(torch.unique(everything.flatten(1), dim=0)) > 1700  # no image is in both splits


def test_the_split_depends_on_nothing_but_the_data(tmp_path: Path) -> None:
    digests = []
    for number, study in enumerate((pipeline.study(), pipeline.study(), pipeline.study(seed=7))):
        root = pipeline.root(tmp_path / str(number), study)
        prepare(study, root)
        digests.append([sha256(root / "data" / file) for file in ("manifest.json", "digits.npz")])
    assert digests[0] == digests[1] == digests[2]


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_an_empty_split_is_refused(tmp_path: Path, share: float) -> None:
    study = pipeline.study(data={"kind": "digits", "image_size": 8, "holdout": share})
    with pytest.raises(ValueError, match=r"data\.holdout"):
        prepare(study, pipeline.root(tmp_path, study))


def test_folder(tree: Path, tmp_path: Path) -> None:
    study = folder_study(tree)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    manifest = read_json(root / "data" / "manifest.json")
    assert manifest["classes"] == ["ant", "cat"]
    assert manifest["splits"]["train"] == {"count": 12, "per_class": [6, 6]}
    assert manifest["splits"]["heldout"] == {"count": 4, "per_class": [2, 2]}
    assert manifest["skipped"] == []
    files = read_json(root / "data" / "files.json")
    assert not {f[0] for f in files["train"]} & {f[0] for f in files["heldout"]}
    images = open_split(study, root, "train")
    assert images.batch(torch.arange(5)).shape == (5, 3, 16, 16)
    assert images.labels.dtype == np.int64


def test_bad_and_hidden_files_are_named_and_passed_over(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (tree / "cat" / "0.png").read_bytes()
    (tree / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tree / "cat" / "empty.jpg").write_bytes(b"")
    (tree / "ant" / "notes.txt").write_text("no image")
    (tree / "ant" / "gone.png").symlink_to(tree / "nowhere.png")
    (tree / "ant" / ".hidden.png").write_bytes(b"")
    picture(tree / ".cache" / "0.png")
    study = folder_study(tree)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    manifest = read_json(root / "data" / "manifest.json")
    skipped = ["ant/gone.png", "ant/notes.txt", "cat/cut.png", "cat/empty.jpg"]
    assert sorted(entry["file"] for entry in manifest["skipped"]) == skipped
    assert all(entry["reason"] for entry in manifest["skipped"])
    assert str(tmp_path) not in (root / "data" / "manifest.json").read_text()
    shown = capsys.readouterr().out
    assert "cut.png" in shown and "skipped 4" in shown
    assert manifest["splits"]["train"]["count"] == 12


def test_own_validation_split(tree: Path, tmp_path: Path) -> None:
    base = tmp_path / "halves"
    for name in ("ant", "cat"):
        picture(base / "train" / name / "deep" / "a.png")
        picture(base / "val" / name / "b.png", seed=1)
    study = folder_study(base)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    files = read_json(root / "data" / "files.json")
    assert [f[0] for f in files["train"]] == ["train/ant/deep/a.png", "train/cat/deep/a.png"]
    assert [f[0] for f in files["heldout"]] == ["val/ant/b.png", "val/cat/b.png"]


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_kind_in_imagenet(tmp_path: Path, mode: str) -> None:
    """Grey and CMYK files, and a PNG under the name of a JPEG, become RGB."""
    base = tmp_path / "imagenet"
    colour = {"RGB": (200, 40, 40), "L": 90, "CMYK": (0, 200, 200, 55)}[mode]
    for half in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            (base / half / name).mkdir(parents=True)
            Image.new(mode, (40, 30), colour).save(base / half / name / "a.JPEG", quality=95)
    Image.new("RGB", (40, 30), (200, 40, 40)).save(base / "train" / "n01440764" / "b.JPEG", format="PNG")
    study = folder_study(base)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    assert read_json(root / "data" / "manifest.json")["skipped"] == []
    train = open_split(study, root, "train")
    assert train.classes == ["n01440764", "n01443537"]
    pixels = train.batch(range(3)).double().mean(dim=(2, 3))  # (3, RGB)
    expected = {"RGB": (200, 40, 40), "L": (90, 90, 90), "CMYK": (200, 43, 43)}[mode]
    assert (pixels[[0, 2]] - torch.tensor(expected)).abs().max() < 3.0
    assert (pixels[1] - torch.tensor((200, 40, 40))).abs().max() == 0.0


def imagenet_listing(**short: int) -> dict[str, Any]:
    """What a scan of ImageNet-1k finds, with the train/ counts of some classes changed."""
    names = [f"n{i:08d}" for i in range(1000)]
    usual = [1300] * 895 + [1120] * 104 + [1187]
    counts = [short.get(name, count) for name, count in zip(names, usual, strict=True)]
    train = [entry for label, count in enumerate(counts) for entry in [("", label, 0)] * count]
    val = [entry for label in range(1000) for entry in [("", label, 0)] * 50]
    return {"train": {"classes": names, "files": train}, "val": {"classes": names, "files": val}}


def test_imagenet_is_counted() -> None:
    base = Path("/data/imagenet")
    whole = imagenet_listing()
    assert len(whole["train"]["files"]) == 1_281_167
    imagenet.check(base, whole)
    with pytest.raises(ValueError) as said:
        imagenet.check(base, imagenet_listing(n00000007=12))
    assert str(said.value) == (
        "data.path /data/imagenet with expect: imagenet: train/: found 1,000 classes and 1,279,879 images; accepted: "
        "1,000 and 1,281,167; not with 732 to 1300 images: n00000007 (12). Without expect any tree is taken as it is"
    )
    fewer = {"classes": whole["val"]["classes"][:999], "files": whole["val"]["files"][3:49950]}
    with pytest.raises(ValueError, match=r"val/: found 999 classes and 49,947 images.*50 images: n00000000 \(47\)\."):
        imagenet.check(base, {**whole, "val": fewer})
    named = {half: {**found, "classes": ["tench", *found["classes"][1:]]} for half, found in whole.items()}
    with pytest.raises(ValueError, match=r"train/: 1 folders are no WordNet ids \(n and 8 digits\): tench"):
        imagenet.check(base, named)


def test_expect_imagenet_is_asked_first(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = folder_study(tree, expect="imagenet")
    with pytest.raises(ValueError, match=r"photos with expect: imagenet: has no train/ and val/"):
        prepare(study, pipeline.root(tmp_path, study))
    (tree / "cat" / "0.png").write_bytes(b"")
    monkeypatch.setattr(imagenet, "check", lambda base, found: None)  # whole, but a file is damaged
    with pytest.raises(ValueError, match=r"expect: imagenet: 1 images cannot be read: cat/0\.png; get them anew"):
        prepare(study, pipeline.root(tmp_path, study))


def test_differing_classes_are_refused(tmp_path: Path) -> None:
    base = tmp_path / "halves"
    picture(base / "train" / "ant" / "a.png")
    picture(base / "val" / "bee" / "a.png")
    study = folder_study(base)
    with pytest.raises(ValueError, match=r"differ in these classes: ant, bee"):
        prepare(study, pipeline.root(tmp_path, study))


def test_a_class_without_images_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "bee").mkdir()
    (tree / "bee" / "readme.txt").write_text("none yet")
    study = folder_study(tree)
    with pytest.raises(ValueError, match=r"class 'bee' has no readable image .*; accepted: at least one in each class"):
        prepare(study, pipeline.root(tmp_path, study))


def test_a_class_of_one_image_is_refused(tree: Path, tmp_path: Path) -> None:
    picture(tree / "bee" / "only.png")
    study = folder_study(tree)
    with pytest.raises(ValueError, match=r"of the 1 images of class 'bee' 0 would be held out"):
        prepare(study, pipeline.root(tmp_path, study))


def test_missing_path_and_flat_folder_are_refused(tmp_path: Path) -> None:
    study = folder_study(tmp_path / "nowhere")  # a study may name a path of another machine: refused when it runs
    with pytest.raises(ValueError, match=r"nowhere: no such folder"):
        prepare(study, pipeline.root(tmp_path, study))
    picture(tmp_path / "flat" / "a.png")
    study = folder_study(tmp_path / "flat")
    with pytest.raises(ValueError, match=r"has no class folders"):
        prepare(study, pipeline.root(tmp_path, study))


def test_a_name_that_is_not_utf8_is_read(tree: Path, tmp_path: Path) -> None:
    study = folder_study(tree)
    root = pipeline.root(tmp_path, study)
    picture(tree / "ant" / "x.png", seed=98)
    os.rename(tree / "ant" / "x.png", os.fsencode(tree / "ant") + b"/caf\xe9.png")
    prepare(study, root)
    manifest = read_json(root / "data" / "manifest.json")
    assert sum(split["count"] for split in manifest["splits"].values()) == 17
    assert manifest["skipped"] == []


def test_prepare_again(tree: Path, tmp_path: Path) -> None:
    study = folder_study(tree)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    manifest = root / "data" / "manifest.json"
    before = sha256(manifest), manifest.stat().st_mtime_ns
    prepare(study, root)
    assert (sha256(manifest), manifest.stat().st_mtime_ns) == before  # complete: not written again
    moved = tmp_path / "elsewhere"
    tree.rename(moved)
    prepare(folder_study(moved), root)
    assert sha256(manifest) == before[0]  # the same images, wherever they lie
    picture(moved / "cat" / "new.png", seed=99)
    prepare(folder_study(moved), root)
    assert read_json(manifest)["splits"]["train"]["per_class"] == [6, 7]


def test_a_file_that_vanished_is_named(tree: Path, tmp_path: Path) -> None:
    study = folder_study(tree)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    images = open_split(study, root, "train")
    first = tree / read_json(root / "data" / "files.json")["train"][0][0]
    first.unlink()
    with pytest.raises(ValueError, match=rf"{first.name}: cannot be read any more"):
        images.batch([0])


def test_open_split_refuses_what_was_not_prepared(tmp_path: Path) -> None:
    study = pipeline.study()
    root = pipeline.root(tmp_path, study)
    with pytest.raises(ValueError, match=r"manifest\.json: missing"):
        open_split(study, root, "train")
    prepare(study, root)
    with pytest.raises(ValueError, match=r"split 'test'; accepted: train, heldout"):
        open_split(study, root, "test")
    other = pipeline.study(data={"kind": "digits", "image_size": 8})
    other = other.model_copy(update={"data": other.data.model_copy(update={"image_size": 24})})
    with pytest.raises(ValueError, match=r"another data section"):
        open_split(other, root, "train")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("kind", "imagefolder", "kind: found 'imagefolder'; accepted: digits"),
        ("image_size", 24, "image_size: found 24; accepted: "),
        ("classes", ["a", "b"], r"splits\.train: found .* of the first of 2 classes; accepted: "),
        (
            "splits",
            {"train": {"count": 2, "per_class": [2]}},
            r"splits\.train: found 2, \[2\] of the first of 10 classes",
        ),
    ],
)
def test_open_split_refuses_a_manifest_of_other_images(tmp_path: Path, key: str, value: Any, said: str) -> None:
    study = pipeline.study()
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    manifest = root / "data" / "manifest.json"
    manifest.write_text(json.dumps(read_json(manifest) | {key: value}))
    with pytest.raises(ValueError, match=rf"manifest\.json: {said}"):
        open_split(study, root, "train")


def test_images_that_were_changed_after_prepare_are_refused(tmp_path: Path) -> None:
    study = pipeline.study()
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    path = root / "data" / "digits.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["train_images"] = 255 - arrays["train_images"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"digits\.npz: differs from its checksum in arrays\.json; accepted: the file"):
        open_split(study, root, "train")
    (root / "data" / "arrays.json").unlink()  # as in a folder of an older version
    assert len(open_split(study, root, "train")) == 1438


def test_levels() -> None:
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert (to_uint8(to_float(grey)) == grey).all()
    assert to_float(grey).min() == -1.0 and to_float(grey).max() == 1.0
    assert to_uint8(torch.tensor([-2.0, 2.0, 0.0])).tolist() == [0, 255, 128]


def test_shuffled() -> None:
    batches = list(shuffled(5, 4, 18, torch.Generator().manual_seed(0)))
    assert [len(b) for b in batches] == [4, 4, 4, 4, 2]
    seen = torch.cat(batches).tolist()
    assert sorted(seen[:5]) == sorted(seen[5:10]) == list(range(5))  # whole permutations, one after the other
    again = torch.cat(list(shuffled(5, 4, 18, torch.Generator().manual_seed(0)))).tolist()
    assert seen == again
