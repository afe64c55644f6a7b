"""References: what they hold, how they are known, and which files are no reference."""

import json
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from mar.data import published
from mar.data.published import COLUMNS
from mar.features import references
from mar.features.references import load
from mar.runtime import npz
from mar.runtime.files import sha256
from mar.study.sections import Reference as Asked

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def statistics():
    """Mean and covariance of the true widths, of which float32 ones are cast."""
    rng = np.random.default_rng(1)
    found = {}
    for mean, width in (("mu", 2048), ("mu_s", 2023)):
        spread = np.zeros((width, width), np.float32 if mean == "mu_s" else np.float64)
        spread[np.arange(width), np.arange(width)] = rng.uniform(0.1, 1, width)
        found |= {mean: rng.normal(size=width).astype(spread.dtype), mean.replace("mu", "sigma"): spread}
    return found


@pytest.fixture
def batch(tmp_path, statistics):
    """A file as the ADM suite's batch."""
    path = tmp_path / "batch.npz"
    np.savez(path, arr_0=IMAGES, arr_1=np.arange(11), **statistics)
    return path


def ask(path, **options):
    return load(Asked(file=str(path), **({"unknown_hash": True} | options)))


def test_a_batch_brings_statistics_and_images(batch, statistics):
    found = ask(batch)
    assert (found.path, found.sha256, found.count) == (batch, sha256(batch), 11)
    assert set(found.statistics) == {"mu", "sigma", "mu_s", "sigma_s"}
    for name, value in found.statistics.items():
        assert value.dtype == np.float64 and np.array_equal(value, statistics[name].astype(np.float64))
    parts = list(npz.stream(found.path, "arr_0", 4))
    assert [part.shape for part in parts] == [(4, 8, 8, 3), (4, 8, 8, 3), (3, 8, 8, 3)]
    assert np.array_equal(np.concatenate(parts), IMAGES)


def test_statistics_alone_and_images_alone(tmp_path, statistics):
    np.savez(tmp_path / "stats.npz", mu=statistics["mu"], sigma=statistics["sigma"])
    found = ask(tmp_path / "stats.npz")
    assert set(found.statistics) == {"mu", "sigma"} and found.count == 0
    with pytest.raises(ValueError, match=r"stats\.npz: has no arr_0; found mu, sigma"):
        next(npz.stream(found.path, "arr_0", 4))
    np.savez_compressed(tmp_path / "images.npz", arr_0=IMAGES)
    found = ask(tmp_path / "images.npz")
    assert (found.statistics, found.count) == ({}, 11)
    assert np.array_equal(next(npz.stream(found.path, "arr_0", 20)), IMAGES)


def test_a_folder_of_images_is_known_by_names_and_contents(tmp_path):
    folder = tmp_path / "real"
    for i, name in enumerate(("b/1.png", "a/2.JPG", ".hidden/3.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[i]).save(folder / name, "png")
    (folder / "notes.txt").write_text("no image")
    found = ask(folder)
    assert (found.count, found.statistics, len(found.sha256)) == (2, {}, 64)
    assert [path.name for path in references.images_in(folder)] == ["2.JPG", "1.png"]
    assert load(Asked(file=str(folder), sha256=found.sha256)).note == ""
    (folder / "b" / "1.png").rename(folder / "b" / "4.png")
    with pytest.raises(ValueError, match=f"real: sha256 [0-9a-f]{{64}}; accepted: {found.sha256}"):
        load(Asked(file=str(folder), sha256=found.sha256))
    with pytest.raises(ValueError, match=r"empty: holds no images; accepted: \.png, \.jpg"):
        (tmp_path / "empty").mkdir()
        ask(tmp_path / "empty")


def test_an_unknown_hash_needs_to_be_asked_for(batch):
    digest = sha256(batch)
    with pytest.raises(ValueError, match=rf"nothing says .* found {digest}\. Accepted: .*sha256.*unknown_hash: true"):
        load(Asked(file=str(batch)))
    assert ask(batch).note == f"reference {batch} of unknown hash"
    assert load(Asked(file=str(batch), sha256=digest)).note == ""
    with pytest.raises(ValueError, match=f"sha256 {digest}; accepted: {'0' * 64}"):
        ask(batch, sha256="0" * 64)


def test_names_of_the_table(batch, monkeypatch, tmp_path):
    folder, digest = tmp_path / "assets", sha256(batch)
    rows = [
        f"adm,reference,https://somewhere/adm.npz,{digest},,none,a page (URL and sha256),",
        "mar,reference,https://somewhere/mar.npz,,,none,a page (URL),",
        "vgg16,reference,https://somewhere/vgg16.pth,,,none,a page (URL),",
    ]
    (tmp_path / "assets.csv").write_text("\n".join([",".join(COLUMNS), *rows]))
    monkeypatch.setattr(published, "TABLE", tmp_path / "assets.csv")
    with pytest.raises(
        ValueError, match=r"downloads/adm.npz: missing, .*run `mar fetch adm`.*https://somewhere/adm.npz"
    ):
        load(Asked(file="adm"), folder)
    (folder / "downloads").mkdir(parents=True)
    for name in ("adm", "mar"):
        (folder / "downloads" / f"{name}.npz").write_bytes(batch.read_bytes())
    found = load(Asked(file="adm"), folder)
    assert (found.name, found.sha256, found.note, found.count) == ("adm", digest, "", 11)
    with pytest.raises(ValueError, match=f"metrics.reference.file mar: nothing says .* found {digest}"):
        load(Asked(file="mar"), folder)
    assert load(Asked(file="mar", unknown_hash=True), folder).note == "reference mar of unknown hash"
    for name in ("vgg16", "nothing"):
        with pytest.raises(
            ValueError, match=rf"file {name}: accepted: adm, mar \(config/assets.csv\), an .npz, or a fol"
        ):
            load(Asked(file=name), folder)
    (folder / "downloads" / "adm.npz").write_bytes(batch.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=f"adm.npz: sha256 .*; accepted: {digest}"):
        load(Asked(file="adm", unknown_hash=True), folder)


def test_generated_images_are_no_reference(tmp_path):
    np.savez(tmp_path / "export.npz", arr_0=IMAGES, role="generated")
    with pytest.raises(ValueError, match=r"export\.npz: holds generated images .*accepted as a reference: real ones"):
        ask(tmp_path / "export.npz")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "manifest.json").write_text(json.dumps({"checkpoint": "0", "count": 11}))
    Image.fromarray(IMAGES[0]).save(tmp_path / "samples" / "0.png")
    with pytest.raises(ValueError, match="samples: holds images that a study generated; accepted as a reference: real"):
        ask(tmp_path / "samples")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, r"mu is float64 \(64,\); accepted: floating point \(2048,\)"),
        ({"mu": np.zeros(2048)}, "has mu without sigma"),
        ({"mu": np.zeros(2048, np.int64), "sigma": np.eye(2048)}, "mu is int64"),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "mu holds numbers that are not finite"),
        ({"mu": np.zeros(2048), "sigma": np.tri(2048)}, "sigma is no covariance: not symmetric"),
        ({"mu": np.zeros(2048), "sigma": -np.eye(2048)}, "sigma is no covariance: .*not positive semi-definite"),
        (
            {"mu_s": np.zeros(2048), "sigma_s": np.eye(2048), "arr_0": IMAGES},
            r"mu_s .*accepted: floating point \(2023,\)",
        ),
        ({"arr_0": IMAGES.astype(np.float32)}, r"arr_0 is float32 .*accepted: images, uint8 \(N, H, W, 3\)"),
        ({"arr_0": IMAGES.transpose(0, 3, 1, 2).copy()}, r"arr_0 is uint8 \(11, 3, 8, 8\)"),
        ({"arr_0": IMAGES[:0]}, r"arr_0 is uint8 \(0, 8, 8, 3\)"),
        ({"features": np.zeros((4, 2048))}, "found features; accepted: mu and sigma, or images as arr_0"),
    ],
)
def test_what_is_no_reference(tmp_path, change, message):
    np.savez(tmp_path / "odd.npz", **change)
    with pytest.raises(ValueError, match=f"odd.npz: {message}"):
        ask(tmp_path / "odd.npz")


def test_an_npz_is_streamed_and_never_unpickled(tmp_path):
    large, part = np.zeros((500, 64, 64, 3), np.uint8), 10
    large += np.arange(500, dtype=np.uint8)[:, None, None, None]
    np.savez_compressed(tmp_path / "large.npz", arr_0=large)
    tracemalloc.start()
    for i, rows in enumerate(npz.stream(tmp_path / "large.npz", "arr_0", part)):
        assert np.array_equal(rows, large[part * i : part * (i + 1)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large.nbytes / 5
    np.savez(tmp_path / "objects.npz", arr_0=np.array([{}], dtype=object))
    np.savez(tmp_path / "columns.npz", arr_0=np.asfortranarray(IMAGES))
    for read in (npz.headers, lambda path: npz.read(path, "arr_0"), lambda path: list(npz.stream(path, "arr_0", 2))):
        with pytest.raises(ValueError, match=r"objects\.npz: arr_0 holds Python objects, which are not unpickled"):
            read(tmp_path / "objects.npz")
    with pytest.raises(ValueError, match=r"columns\.npz: arr_0 is stored column by column"):
        next(npz.stream(tmp_path / "columns.npz", "arr_0", 2))
    assert np.array_equal(npz.read(tmp_path / "columns.npz", "arr_0"), IMAGES)


def test_a_header_that_says_more_than_the_file_holds_is_not_believed(tmp_path):
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d, 8, 8, 3), }" % 10**18
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", header.ljust(127) + b"\n" + bytes(1000))
    for read in (npz.headers, lambda path: npz.read(path, "arr_0"), lambda path: list(npz.stream(path, "arr_0", 2))):
        with pytest.raises(
            ValueError, match=r"x\.npz: arr_0 is cut off: 1,000 bytes of data for \(1000000000000000000, "
        ):
            read(tmp_path / "x.npz")


def test_damaged_files_are_named(tmp_path, batch):
    (tmp_path / "cut.npz").write_bytes(batch.read_bytes()[:-1000])
    (tmp_path / "text.npz").write_text("<html>")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("mu.npy", "nothing")
    for name, message in (
        ("cut", "no valid .npz"),
        ("text", "no valid .npz"),
        ("empty", "holds no arrays"),
        ("other", "mu is no array: .*; accepted: numpy's format 1.0 or 2.0"),
    ):
        with pytest.raises(ValueError, match=f"{name}.npz: {message}"):
            ask(tmp_path / f"{name}.npz")
    data = bytearray(batch.read_bytes())
    place = data.find(IMAGES.tobytes()) + 100
    data[place] ^= 1
    (tmp_path / "flipped.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"flipped.npz: no valid .npz \(Bad CRC-32"):
        list(npz.stream(ask(tmp_path / "flipped.npz").path, "arr_0", 4))
