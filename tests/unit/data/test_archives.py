"""Images in every form that people have them in: the same images give the same hashes, and hostile archives nothing."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pipeline
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from mar.data import archives, sources
from mar.data.images import open_split
from mar.data.prepare import prepare
from mar.runtime.files import read_json
from mar.study import layout
from mar.study.study import Study

Files = dict[str, bytes]
Reference = tuple[dict[str, object], np.ndarray]  # manifest and images of the folder
CLASSES = ["ant", "bee", "cat"]


def png(seed: int, size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def files() -> Files:
    """Eight images of each class; names sort otherwise as text than as numbers."""
    return {f"{name}/{i}.png": png(100 * label + i) for label, name in enumerate(CLASSES) for i in range(4, 12)}


def tree(path: Path, files: Files) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def zipped(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in reversed(files.items()):
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: Files, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in reversed(files.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(files: Files) -> Files:
    """Images and classes of WebDataset, keys with the names of the folder and numbers for classes."""
    pairs = {}
    for name, content in files.items():
        key = name.removesuffix(".png")
        pairs[f"{key}.png"], pairs[f"{key}.cls"] = content, f"{CLASSES.index(name.split('/')[0])}\n".encode()
        pairs[f"{key}.json"] = b"{}"
    return pairs


def sharded(path: Path, files: Files, mode: str, end: str) -> Path:
    pairs = list(samples(files).items())
    for i in range(2):
        tarred(path / f"photos-{i:06d}{end}", dict(pairs[i * len(pairs) // 2 : (i + 1) * len(pairs) // 2]), mode)
    return path


def rows(files: Files, named: bool = True) -> pa.Table:
    """What the library `datasets` writes: a struct of bytes and path, numbers, and the names of the classes."""
    images = [{"bytes": content, "path": Path(name).name if named else None} for name, content in files.items()]
    table = pa.table({"image": images, "label": [CLASSES.index(name.split("/")[0]) for name in files]})
    feature = {"image": {"_type": "Image"}, "label": {"names": CLASSES, "_type": "ClassLabel"}}
    return table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": feature}}).encode()})


def in_parquet(path: Path, files: Files, named: bool = True) -> Path:
    (path / "data").mkdir(parents=True)
    table = rows(files, named)
    for i, part in enumerate((table.slice(0, 10), table.slice(10))):
        parquet.write_table(part, path / "data" / f"train-{i:05d}-of-00002.parquet", row_group_size=4)
    return path


FORMS: dict[str, Callable[[Path, Files], Path]] = {
    "folder": lambda path, files: tree(path / "photos", files),
    "zip": lambda path, files: zipped(path / "photos.zip", files),
    "stored zip": lambda path, files: zipped(path / "photos.zip", files, zipfile.ZIP_STORED),
    "zip of a folder": lambda path, files: zipped(
        path / "photos.zip",
        {f"photos/{name}": content for name, content in files.items()}
        | {
            "photos/.hidden/1.png": b"",
            "README.md": b"#",
            "photos/list.csv": b"1,2",
            "__MACOSX/photos/ant/._4.png": b"junk",
            "photos/ant/.DS_Store": b"",
        },
    ),
    "tar": lambda path, files: tarred(path / "photos.tar", {f"./{name}": c for name, c in files.items()}),
    "tar.gz": lambda path, files: tarred(path / "photos.tar.gz", files, "w:gz"),
    "tar.xz": lambda path, files: tarred(path / "photos", {f"p/q/{name}": c for name, c in files.items()}, "w:xz"),
    "WebDataset": lambda path, files: sharded(path / "shards", files, "w", ".tar"),
    "WebDataset, packed": lambda path, files: sharded(path / "shards", files, "w:bz2", ".tar.bz2"),
    "Parquet": lambda path, files: in_parquet(path / "set", files),
}
NUMBERED = ("WebDataset", "WebDataset, packed")  # classes have numbers and no names


def own(path: Path, **over: object) -> Study:
    data = {"kind": "imagefolder", "path": str(path), "image_size": 8, "holdout": 0.25, **over}
    small = {
        name: {**section, "stride": 4} for name, section in pipeline.VALUES["tokenizers"].items() if name != "grouped"
    }  # type: ignore[attr-defined]
    return pipeline.study(data=data, tokenizers=small)


def prepared(path: Path, results: Path, **over: object) -> tuple[Study, Path]:
    study = own(path, **over)
    root = pipeline.root(results, study)
    prepare(study, root)
    return study, root


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, files: Files) -> Reference:
    """Manifest and images of the folder."""
    folder = tmp_path_factory.mktemp("reference")
    study, root = prepared(tree(folder / "photos", files), folder)
    images = open_split(study, root, "train")
    return read_json(layout.data_manifest(root)), images.arrays(range(len(images)))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_images_have_the_same_hashes(tmp_path: Path, files: Files, reference: Reference, form: str) -> None:
    study, root = prepared(FORMS[form](tmp_path, files), tmp_path / "results")
    manifest = read_json(layout.data_manifest(root))
    if form in NUMBERED:
        assert manifest["classes"] == ["0", "1", "2"]
        manifest["classes"] = CLASSES
    assert manifest == reference[0]
    images = open_split(study, root, "train")
    assert (images.arrays(range(len(images))) == reference[1]).all()
    assert (root / "data" / "preview.png").stat().st_size > 0
    prepare(study, root)
    present, changed = sources.changed_since(layout.data_manifest(root), Path(str(study.data.path)))
    assert (present, changed) == (manifest["listing"], False)
    extracted = {path.name for path in (tmp_path / "results").rglob("*") if path.suffix == ".png"}
    assert extracted == {"preview.png"}, "nothing is written but what the study reads"


def test_idx_files_of_the_same_pixels_have_the_same_hash(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey, labels = rng.integers(256, size=(24, 8, 8), dtype=np.uint8), np.repeat(np.arange(3, dtype=np.uint8), 8)
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, values in (("images-idx3", grey), ("labels-idx1", labels)):
        sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
        (folder / f"train-{name}-ubyte").write_bytes(bytes((0, 0, 8, values.ndim)) + sizes + values.tobytes())
    for i, (image, label) in enumerate(zip(grey, labels, strict=True)):
        (tmp_path / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "photos" / str(label) / f"{i:04d}.png")
    manifests = []
    for kind, path in (("idx", folder), ("imagefolder", tmp_path / "photos")):
        _, root = prepared(path, tmp_path / f"results-{kind}", kind=kind)
        manifests.append(read_json(layout.data_manifest(root)))
    for key in ("pixels", "classes", "splits"):
        assert manifests[0][key] == manifests[1][key]


def test_another_pixel_is_another_hash(tmp_path: Path, files: Files, reference: Reference) -> None:
    other = files | {"bee/5.png": png(1234)}
    _, root = prepared(zipped(tmp_path / "photos.zip", other), tmp_path / "results")
    manifest = read_json(layout.data_manifest(root))
    assert manifest["pixels"] != reference[0]["pixels"] and manifest["splits"] == reference[0]["splits"]
    moved = files | {"bee/5.png": files["ant/5.png"], "ant/5.png": files["bee/5.png"]}
    _, root = prepared(zipped(tmp_path / "moved.zip", moved), tmp_path / "other")
    assert read_json(layout.data_manifest(root))["pixels"] != reference[0]["pixels"], "the classes count too"


def test_rows_without_names_keep_their_order(tmp_path: Path, files: Files, reference: Reference) -> None:
    in_order = dict(sorted(files.items()))
    _, root = prepared(in_parquet(tmp_path / "set", in_order, named=False), tmp_path / "results")
    assert read_json(layout.data_manifest(root))["pixels"] == reference[0]["pixels"]


def halves(files: Files, held: str) -> Files:
    rest = {f"train/{name}": content for name, content in files.items() if not name.endswith("5.png")}
    return rest | {f"{held}/{name}": content for name, content in files.items() if name.endswith("5.png")}


@pytest.mark.parametrize("held", ["val", "valid", "validation", "test"])
@pytest.mark.parametrize("form", ["folder", "zip", "shards", "Parquet"])
def test_halves(tmp_path: Path, files: Files, capsys: pytest.CaptureFixture[str], held: str, form: str) -> None:
    divided = halves(files, held)
    if form == "folder":
        path = tree(tmp_path / "photos", divided | {"extra/x/1.png": b""})
    elif form == "zip":
        path = zipped(tmp_path / "photos.zip", divided | {"extra/x/1.png": b""})
    else:
        path = tmp_path / "set"
        for half in ("train", held, "extra"):
            part = {n.removeprefix(f"{half}/"): c for n, c in divided.items() if n.startswith(f"{half}/")} or files
            if form == "shards":
                part = {f"{half}/{name}": content for name, content in samples(part).items()}
                tarred(path / f"photos-{half}-000000.tar", part)
            else:
                path.mkdir(exist_ok=True)
                parquet.write_table(rows(part), path / f"{half}-00000-of-00001.parquet")
    _, root = prepared(path, tmp_path / "results")
    manifest = read_json(layout.data_manifest(root))
    assert {key: split["per_class"] for key, split in manifest["splits"].items()} == {
        "train": [7, 7, 7],
        "heldout": [1, 1, 1],
    }
    said = capsys.readouterr().out
    assert "extra" in said and "left out" in said


def test_train_alone_is_as_in_a_folder(tmp_path: Path, files: Files) -> None:
    alone = {f"train/{name}": content for name, content in files.items()}
    found = [sources.scan(tree(tmp_path / "photos", alone)).found]
    found += [sources.scan(zipped(tmp_path / "a.zip", alone)).found]
    found += [sources.scan(tarred(tmp_path / "a.tar", {f"x/{name}": c for name, c in alone.items()})).found]
    assert found[0] == found[1] == found[2]


def test_an_image_that_changed_is_not_read(tmp_path: Path, files: Files) -> None:
    base = tree(tmp_path / "photos", files)
    study, root = prepared(base, tmp_path / "results")
    first = read_json(root / "data" / "files.json")["train"][0]
    content = bytearray((base / first[0]).read_bytes())
    content[-20] ^= 1
    (base / first[0]).write_bytes(content)
    assert len(content) == first[2]
    with pytest.raises(ValueError, match=r"another image than `mar prepare` listed; delete .*manifest\.json"):
        open_split(study, root, "train").arrays([0])


def test_an_archive_is_listed_again_only_where_it_changed(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tarred(tmp_path / "photos.tar.gz", files, "w:gz")
    _, root = prepared(path, tmp_path / "results")
    manifest = layout.data_manifest(root)
    listed = sources.changed_since(manifest, path)
    monkeypatch.setattr(archives, "scan", lambda *_: pytest.fail("listed again"))
    assert sources.changed_since(manifest, path) == listed
    monkeypatch.undo()
    os.utime(path)
    assert sources.changed_since(manifest, path) == listed, "another time of change, the same images"
    tarred(path, files | {"ant/99.png": png(99)}, "w:gz")
    assert sources.changed_since(manifest, path)[1]


def test_one_line_says_what_is_done(tmp_path: Path, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    base = tree(tmp_path / "photos", files)
    half = np.zeros((8, 8, 4), np.uint8)
    half[:, 4:] = (200, 0, 0, 255)
    Image.fromarray(half).save(base / "ant" / "icon.png")
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(base / "ant" / "deep.png")
    Image.fromarray(np.full((3, 200, 3), 9, np.uint8)).save(base / "ant" / "long.png")
    Image.fromarray(np.full((1, 1), 9, np.uint8)).save(base / "ant" / "dot.png")
    (base / "ant" / "notes.txt").write_text("no image")
    study, root = prepared(base, tmp_path / "results")
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("of 28 images"))
    for part in (
        "24 larger than 8 pixels, scaled down",
        "2 smaller than 8 pixels, scaled up",
        "1 transparent, put on white",
        "1 of 16 bits or floating point, scaled to 8 bits",
        "1 more than twice as long as wide, more than half cut off",
        "1 grey, of a palette or CMYK, as RGB",
        "1 files skipped",
    ):
        assert part in line
    lists = read_json(root / "data" / "files.json")
    for split in ("train", "heldout"):
        names = [entry[0] for entry in lists[split]]
        if "ant/icon.png" in names:
            icon = open_split(study, root, split).arrays([names.index("ant/icon.png")])[0]
    assert (icon[:, :4] == 255).all() and (icon[:, 4:] == (200, 0, 0)).all()


def test_the_preview_shows_each_class(tmp_path: Path, files: Files) -> None:
    _, root = prepared(tree(tmp_path / "photos", files), tmp_path / "results")
    with Image.open(root / "data" / "preview.png") as sheet:
        pixels = np.asarray(sheet)
    assert sheet.size == (4 + 6 * 68, 3 * 82 + 14)
    for row in range(3):
        assert (
            pixels[82 * row + 14 : 82 * row + 78, 4:68].std() > 20 and (pixels[82 * row + 3 : 82 * row + 14] < 99).any()
        )


# Hostile and broken archives. Each maker writes one to a path and says what the message has.
def link(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "/etc/passwd", 0
    return info


def tar_of(path: Path, members: Iterable[tarfile.TarInfo]) -> None:
    with tarfile.open(path, "w") as archive:
        for info in members:
            archive.addfile(info, io.BytesIO(b"x" * info.size))


def zip_of(path: Path, name: str, mode: int = 0o644, content: bytes = b"x") -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, content)


def cut(path: Path, make: Callable[[Path], object], keep: float) -> None:
    make(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def misplaced(path: Path) -> None:
    """A zip whose listing has a place of an image behind its end."""
    zipped(path, ANTS)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 42 : at + 46] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(content)


def hard(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.LNKTYPE, "ant/1.png"
    return info


def device(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.CHRTYPE
    return info


ANTS = {f"ant/{i}.png": png(i) for i in range(6)}
HOSTILE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "absolute, zip": ("a.zip", lambda p: zip_of(p, "/etc/cron.d/x.png"), "leads out of the archive"),
    "upwards, zip": ("a.zip", lambda p: zip_of(p, "ant/../../x.png"), "leads out of the archive"),
    "backslash, zip": ("a.zip", lambda p: zip_of(p, "..\\..\\x.png"), "leads out of the archive"),
    "drive, zip": ("a.zip", lambda p: zip_of(p, "C:/x.png"), "leads out of the archive"),
    "no name, zip": ("a.zip", lambda p: zip_of(p, ""), "leads out of the archive"),
    "nowhere, zip": ("a.zip", lambda p: misplaced(p), "cannot be read|is not where the zip says"),
    "link, zip": ("a.zip", lambda p: zip_of(p, "ant/x.png", stat.S_IFLNK | 0o777, b"/etc/passwd"), "is a link"),
    "absolute, tar": ("a.tar", lambda p: tar_of(p, [tarfile.TarInfo("/x.png")]), "leads out of the archive"),
    "upwards, tar": ("a.tar", lambda p: tar_of(p, [tarfile.TarInfo("../x.png")]), "leads out of the archive"),
    "link, tar": ("a.tar", lambda p: tar_of(p, [link(tarfile.TarInfo("ant/x.png"))]), "is a link, a device or sparse"),
    "hard link, tar": ("a.tar", lambda p: tar_of(p, [hard("ant/x.png")]), "is a link, a device or sparse"),
    "device, tar": ("a.tar", lambda p: tar_of(p, [device("ant/x.png")]), "is a link, a device or sparse"),
    "twice, tar": ("a.tar", lambda p: tar_of(p, [tarfile.TarInfo("ant/x.png")] * 2), "is there twice"),
    "cut, zip": ("a.zip", lambda p: cut(p, lambda q: zipped(q, ANTS), 0.8), "cannot be read"),
    "cut, tar": ("a.tar", lambda p: cut(p, lambda q: tarred(q, ANTS), 0.35), "cannot be read"),
    "cut, tar.gz": ("a.tgz", lambda p: cut(p, lambda q: tarred(q, ANTS, "w:gz"), 0.5), "cannot be read"),
    "no archive": ("a.zip", lambda p: p.write_bytes(b"hello" * 500), "cannot be read .*; accepted: a folder"),
    "empty": ("a.zip", lambda p: p.write_bytes(b""), "accepted: a folder of <class>/<image>"),
    "flat": ("a.zip", lambda p: zipped(p, {"1.png": png(0)}), "has no class folders"),
    "val alone": ("a.zip", lambda p: zipped(p, {"val/ant/1.png": b"", "x/y/1.png": b""}), "no train/"),
    "no class": ("a.tar", lambda p: tarred(p, {"1.png": png(0), "2.png": png(1), "2.cls": b"0"}), "'1' has no 1.cls"),
    "empty class": ("a.tar", lambda p: tarred(p, {"1.png": png(0), "1.cls": b" "}), "holds no class"),
    "no Parquet": ("a.parquet", lambda p: p.write_bytes(b"PAR1" * 9), "no whole Parquet file"),
    "no labels": ("a.parquet", lambda p: parquet.write_table(rows(ANTS).drop(["label"]), p), "0 columns of labels"),
    "label": (
        "a.parquet",
        lambda p: parquet.write_table(
            rows(ANTS).set_column(1, "label", [[-1] * 6]).replace_schema_metadata(rows(ANTS).schema.metadata), p
        ),
        "label -1, and classes .*'ant'",
    ),
    "image elsewhere": (
        "a.parquet",
        lambda p: parquet.write_table(pa.table({"image": [{"bytes": None, "path": "/etc/passwd"}], "label": [0]}), p),
        "columns of images|an image without bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_and_broken_archives_are_refused(tmp_path: Path, case: str) -> None:
    name, make, message = HOSTILE[case]
    make(tmp_path / name)
    study = own(tmp_path / name)
    root = pipeline.root(tmp_path / "results", study)
    with pytest.raises(ValueError, match=message) as caught:
        prepare(study, root)
    assert str(caught.value).startswith(f"data.path {tmp_path / name}: ")
    left = {path.name for path in (root / "data").iterdir()} - {".lock"}
    assert not left, "nothing of it was written"


@pytest.mark.parametrize("name, mode", [("a.tar.gz", "w:gz"), ("a.tar.xz", "w:xz")])
def test_a_bomb_is_refused_before_it_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    monkeypatch.setattr(archives, "ROOM", 1 << 20)
    path = tarred(tmp_path / name, {"ant/1.png": b"\0" * (30 << 20), "ant/2.png": b""}, mode)
    assert path.stat().st_size * archives.RATIO < 30 << 20
    taken = []
    read = archives._Bounded.read
    monkeypatch.setattr(archives._Bounded, "read", lambda self, size=-1: taken.append(self.tell()) or read(self, size))
    with pytest.raises(ValueError, match=r"unpacks to more than [0-9,]+ bytes"):
        sources.scan(path)
    assert max(taken) <= max(archives.ROOM, archives.RATIO * path.stat().st_size)


def test_zip_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", {f"ant/{i}.png": b"\0" * (1 << 20) for i in range(4)})
    monkeypatch.setattr(archives, "ROOM", 3 << 20)
    with pytest.raises(ValueError, match="unpacks to more than"):
        sources.scan(path)
    monkeypatch.setattr(archives, "LARGEST", 1000)
    with pytest.raises(ValueError, match="1,048,576 bytes; accepted: at most 1,000 for an image"):
        sources.scan(path)


def test_a_member_that_unpacks_to_more_than_it_says_is_skipped(tmp_path: Path) -> None:
    """A zip whose listing lies about the size of one image: it is read up to that size and no further."""
    path = zipped(tmp_path / "a.zip", ANTS | {"ant/zeros.png": b"\0" * (1 << 20)})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"ant/zeros.png") - 46  # its entry in the central directory
    assert content[at : at + 4] == b"PK\x01\x02"
    content[at + 24 : at + 28] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    _, root = prepared(path, tmp_path / "results")
    (skipped,) = read_json(layout.data_manifest(root))["skipped"]
    assert skipped["file"] == "ant/zeros.png" and "101 bytes" in skipped["reason"]


def test_encrypted_and_oddly_packed_zips_are_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ANTS, zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="is packed by method 14; accepted: stored, deflated"):
        sources.scan(path)
    path = zipped(tmp_path / "b.zip", ANTS)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is encrypted; accepted: a zip without a password"):
        sources.scan(path)


def test_without_pyarrow_the_message_says_what_to_install(
    tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parquet(tmp_path / "set", files)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r"read by pyarrow, which is not installed: pip install pyarrow"):
        sources.scan(tmp_path / "set")
