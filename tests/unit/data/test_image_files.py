"""Image files of a user: deep grey values, what is no file, odd names, and trees that change after `mar prepare`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pipeline
import pytest
from PIL import Image

from mar.data import image_files, sources
from mar.data.images import open_split
from mar.data.prepare import prepare
from mar.features import image_sets, references
from mar.runtime.files import read_json
from mar.study.study import Study

RAMP = np.linspace(0, 65535, 1600).reshape(40, 40)
EXPECTED = np.rint(RAMP / 257).astype(np.uint8)  # (40, 40), all 256 levels


def folder_study(path: Path) -> Study:
    return pipeline.study(data={"kind": "imagefolder", "path": str(path), "image_size": 16, "holdout": 0.25})


def picture(path: Path | bytes, seed: int = 0) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pixels = np.random.default_rng(seed).integers(256, size=(20, 20, 3), dtype=np.uint8)
    with open(path, "wb") as file:
        Image.fromarray(pixels).save(file, "PNG")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes of four images."""
    for name in ("ant", "cat"):
        for i in range(4):
            picture(tmp_path / "photos" / name / f"{i}.png", seed=i)
    return tmp_path / "photos"


def save_ramps(folder: Path) -> list[Path]:
    """The ramp in each format that holds more than 8 bits of grey."""
    deep = RAMP.astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep).save(folder / "deep.tif")
    (folder / "deep.pgm").write_bytes(b"P5 40 40 65535\n" + deep.astype(">u2").tobytes())
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(folder / "float.tiff")
    return [folder / name for name in ("deep.png", "deep.tif", "deep.pgm", "float.tiff")]


def test_more_than_eight_bits_are_scaled(tmp_path: Path) -> None:
    for path in save_ramps(tmp_path):
        pixels = np.asarray(image_files.decode(path)).astype(int)
        assert pixels.shape == (40, 40, 3), path
        assert np.abs(pixels - EXPECTED[..., None]).max() <= 1, path  # uint16 cuts off, so that rounding may differ
        assert len(np.unique(pixels)) == 256, path
    images = image_sets.open_set(tmp_path)  # the same function reads a folder of images
    (rows,) = images.pieces()
    assert np.abs(rows.astype(int) - EXPECTED[None, ..., None]).max() <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.linspace(0, 255, 400, dtype=np.float32), r"floating-point values from 0 to 255; accepted: 0 to 1"),
        (np.linspace(-1, 1, 400, dtype=np.float32), r"floating-point values from -1 to 1; accepted: 0 to 1"),
        (np.full(400, np.nan, dtype=np.float32), r"floating-point values from nan to nan; accepted: 0 to 1"),
        (np.arange(400, dtype=np.int32), r"integers of 32 bits; accepted: 8 or 16 bits"),
    ],
)
def test_values_of_unknown_range_are_passed_over_by_name(
    tree: Path, tmp_path: Path, values: np.ndarray, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(values.reshape(20, 20)).save(tree / "cat" / "odd.tif")
    root = pipeline.root(tmp_path, folder_study(tree))
    prepare(folder_study(tree), root)
    (entry,) = read_json(root / "data" / "manifest.json")["skipped"]
    assert entry["file"] == "cat/odd.tif"
    with pytest.raises(ValueError, match=message):
        raise ValueError(entry["reason"])
    assert "cat/odd.tif: ValueError: " in capsys.readouterr().out
    with pytest.raises(ValueError, match=rf"odd\.tif: cannot be read as an image \({message}"):
        list(image_sets.open_set(tree / "cat").pieces())


def test_what_is_no_file_is_named_and_never_opened(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tree / "cat" / "pipe.png")
    monkeypatch.chdir(tree / "cat")  # a socket's path may have 107 bytes only
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("socket.png")
    (tree / "cat" / "null.png").symlink_to("/dev/null")
    (tree / "cat" / "gone.png").symlink_to(tree / "nowhere")
    (tree / "cat" / "loop").symlink_to(tree / "cat")
    (tree / "cat" / "notes.txt").write_text("no image")
    study = folder_study(tree)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    listener.close()
    manifest = read_json(root / "data" / "manifest.json")
    reasons = {entry["file"].removeprefix("cat/"): entry["reason"] for entry in manifest["skipped"]}
    assert reasons["pipe.png"] == "a named pipe" and reasons["socket.png"] == "a socket"
    assert reasons["null.png"] == "a device" and reasons["gone.png"].startswith("a broken link")
    assert reasons["loop"].startswith("a link to a folder, which is not followed")
    assert reasons["notes.txt"] == f"no image by its name; accepted: {', '.join(image_files.SUFFIXES)}"
    assert len(reasons) == 6 and manifest["splits"]["train"]["count"] == 6
    capsys.readouterr()
    assert [path.name for path in references.images_in(tree / "cat")] == ["0.png", "1.png", "2.png", "3.png"]
    said = capsys.readouterr().out
    assert "pipe.png: a named pipe" in said and "loop: a link to a folder" in said and "notes.txt" not in said


def test_every_reader_has_the_same_suffixes(tmp_path: Path) -> None:
    for number, suffix in enumerate(image_files.SUFFIXES):
        for name in ("ant", "cat"):
            path = tmp_path / "photos" / name / f"{number}{suffix.upper()}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (number, 0, 0)).save(path)
    study = folder_study(tmp_path / "photos")
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    assert read_json(root / "data" / "manifest.json")["skipped"] == []
    assert len(references.images_in(tmp_path / "photos")) == 2 * len(image_files.SUFFIXES)


def test_names_that_are_no_text_work_and_are_printed_escaped(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cat, odd = os.fsencode(tree / "cat"), os.fsencode(tree) + b"/caf\xe9"
    for i, name in enumerate((b"\xff\xfe.png", b"two\nlines.png", b"\x1b[31mred.png", "grün.png".encode())):
        picture(cat + b"/" + name, seed=10 + i)
        picture(odd + b"/" + name, seed=20 + i)
    with open(cat + b"/bad\n\xff.png", "wb") as file:
        file.write(b"no image")
    study = folder_study(tree)
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    said = capsys.readouterr().out
    assert r"cat/bad\n\udcff.png: UnidentifiedImageError" in said and "\x1b" not in said
    manifest = read_json(root / "data" / "manifest.json")
    assert manifest["classes"] == ["ant", r"caf\udce9", "cat"]
    assert [entry["file"] for entry in manifest["skipped"]] == [r"cat/bad\n\udcff.png"]
    splits = [open_split(study, root, split) for split in ("train", "heldout")]
    assert sum(len(images.arrays(range(len(images)))) for images in splits) == 16
    os.remove(cat + b"/bad\n\xff.png")
    images = image_sets.open_set(tree)
    assert images.names == ["ant", r"caf\udce9", "cat"] and len(next(images.pieces())) == 16
    os.remove(odd + b"/two\nlines.png")
    with pytest.raises(ValueError, match=r"caf\\udce9/two\\nlines\.png: cannot be read as an image"):
        list(images.pieces())


def test_a_folder_that_cannot_be_read_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def denied(path: str) -> object:  # root may read every folder, so permissions would not show it
        if str(path).endswith("ant"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match=r"photos/ant: cannot be read: Permission denied"):
        image_files.scan(tree)


def test_a_tree_that_changed_after_prepare(tree: Path, tmp_path: Path) -> None:
    study = folder_study(tree)
    root = pipeline.root(tmp_path, study)
    manifest = root / "data" / "manifest.json"
    before, changed = sources.changed_since(manifest, tree)
    assert len(before) == 64 and not changed  # nothing was prepared that could have changed
    prepare(study, root)
    assert sources.changed_since(manifest, tree) == (before, False)
    (tree / "cat" / "0.png").write_bytes(b"another size")
    (present, changed) = sources.changed_since(manifest, tree)
    assert changed and present != before
    prepare(study, root)
    assert sources.changed_since(manifest, tree) == (present, False)
    picture(tree / "bee" / "0.png")
    assert sources.changed_since(manifest, tree)[1]
    assert sources.changed_since(manifest, tree / "elsewhere") == (present, False)
    (tree / "bee" / "0.png").unlink()
    (tree / "bee").rmdir()
    (root / "data" / "listing.txt").unlink()  # as an older version left it: finished studies stay finished
    assert sources.changed_since(manifest, tree) == ("", False)
    assert sources.changed_since(manifest, tree / "elsewhere") == ("", False)
    picture(tree / "bee" / "0.png")
    assert sources.changed_since(manifest, tree)[1]
    (tree / "train").mkdir()
    said, changed = sources.changed_since(manifest, tree)
    assert changed and "has no class folders" in said
