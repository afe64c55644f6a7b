"""Held-out images: their parts are disjoint and stratified and stay the same; images of the train split set aside."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pipeline
import pytest
from PIL import Image

from mar.data.heldout import rows_of
from mar.data.images import ImageSet, open_split
from mar.data.prepare import prepare
from mar.study.reading import StudyError
from mar.study.real_sets import FLOOR, PARTS, REFERENCE, VALIDATION

FIRST = [4, 5, 6, 7, 8, 9, 10, 11]  # of the floor's part of 80 images of four classes
SHARES = {REFERENCE: 0.5, FLOOR: 0.25, VALIDATION: 0.25}


def test_parts_are_disjoint_and_hold_their_share_of_each_class() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 1003)
    parts = {name: rows_of(labels, name) for name in PARTS}
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(1003))
    for name, rows in parts.items():
        assert np.array_equal(rows, np.unique(rows))
        counts, all_counts = np.bincount(labels[rows], minlength=7), np.bincount(labels, minlength=7)
        assert (abs(counts - SHARES[name] * all_counts) <= 1).all()


def test_parts_stay_the_same() -> None:
    labels = np.arange(80) % 4
    assert rows_of(labels, FLOOR)[:8].tolist() == FIRST
    more = np.concatenate([labels, np.full(20, 4)])  # another class moves no image of those before
    assert all(np.array_equal(rows_of(more, name)[rows_of(more, name) < 80], rows_of(labels, name)) for name in PARTS)


def test_a_class_with_too_few_images() -> None:
    with pytest.raises(ValueError, match=r"heldout-validation: class 1 has 3 held-out images; accepted: 4 or more"):
        rows_of(np.array([0, 0, 0, 0, 1, 1, 1]), VALIDATION)


def same(a: ImageSet, b: ImageSet, rows: np.ndarray) -> bool:
    """Whether `a` has exactly the images and labels of `b` at these rows."""
    return np.array_equal(a.arrays(range(len(a))), b.arrays(rows)) and np.array_equal(a.labels, b.labels[rows])


def test_parts_are_opened_as_sets_of_their_own(tmp_path: Path) -> None:
    study = pipeline.study()
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    heldout = open_split(study, root, "heldout")
    assert all(same(open_split(study, root, name), heldout, rows_of(heldout.labels, name)) for name in PARTS)
    with pytest.raises(ValueError, match="split 'floor'; accepted: train, heldout, heldout-reference"):
        open_split(study, root, "floor")


def test_images_of_the_train_split_are_set_aside(tmp_path: Path) -> None:
    plain = pipeline.study(study="plain")
    aside = pipeline.study(study="aside", data={"kind": "digits", "image_size": 16, "set_aside": 400})
    sets = {}
    for study in (plain, aside):
        root = pipeline.root(tmp_path, study)
        prepare(study, root)
        sets[study.study] = {s: open_split(study, root, s) for s in ("train", "heldout")}
    before, after = ({s: len(x) for s, x in sets[name].items()} for name in ("plain", "aside"))
    moved = after["heldout"] - before["heldout"]
    assert abs(moved - 400) <= 5 and before["train"] - after["train"] == moved
    counts = {name: np.bincount(sets[name]["train"].labels) for name in sets}
    assert np.allclose(counts["aside"] / counts["plain"], after["train"] / before["train"], atol=0.01)
    pixels = {s: {x.tobytes() for x in v.arrays(range(len(v)))} for s, v in sets["aside"].items()}
    assert len(pixels["train"] & pixels["heldout"]) <= 1, "digits may hold a picture twice"
    with pytest.raises(StudyError, match=r"data\.set_aside: found 0; accepted: above 0"):
        pipeline.study(data={"kind": "digits", "image_size": 16, "set_aside": 0})
    too_many = pipeline.study(study="many", data={"kind": "digits", "image_size": 16, "set_aside": 1438})
    with pytest.raises(ValueError, match=r"data\.set_aside 1438: found 1438 images in the train split, 1"):
        prepare(too_many, pipeline.root(tmp_path, too_many))


def test_a_folder_with_a_test_split(tmp_path: Path) -> None:
    """Files that are set aside join those of val/, and without the key all is as it was."""
    for split, count in (("train", 12), ("val", 4)):
        for label in "ab":
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                value = 100 * (split == "val") + 20 * (label == "b") + i
                Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(folder / f"{i:02d}.png")
    data = {"kind": "imagefolder", "path": str(tmp_path / "images"), "image_size": 16}
    study = pipeline.study(data=data | {"set_aside": 8})
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    train, heldout = open_split(study, root, "train"), open_split(study, root, "heldout")
    assert np.bincount(train.labels).tolist() == [8, 8] and np.bincount(heldout.labels).tolist() == [8, 8]
    assert {int(x.max()) for x in heldout.arrays(range(16))} >= {100, 101, 102, 103, 120, 121, 122, 123}
    shutil.rmtree(root)
    study = pipeline.study(data=data)
    prepare(study, pipeline.root(tmp_path, study))
    assert len(open_split(study, root, "train")) == 24
