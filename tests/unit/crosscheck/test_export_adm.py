"""The export for ADM's evaluator: read back it is the same set in another order, and never a reference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mar.crosscheck.export_adm import export, shuffled
from mar.features import image_sets, references
from mar.runtime import npz
from mar.study.sections import Reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty images in three class folders, so sorted by class."""
    rng = np.random.default_rng(0)
    for i in range(30):
        path = tmp_path / "images" / f"class{i // 10}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def images_of(source: image_sets.Images) -> np.ndarray:
    return np.concatenate(list(source.pieces()))


def test_read_back_it_is_the_same_set_in_the_recorded_order(folder: Path, tmp_path: Path) -> None:
    source, out = image_sets.open_set(folder), tmp_path / "adm.npz"
    export(source, out)
    found = image_sets.open_set(out)
    with np.load(out) as arrays:  # as ADM's evaluator and numpy see it
        assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (30, 8, 8, 3)
        order, seed = arrays["order"], int(arrays["order_seed"])
        assert json.loads(str(arrays["source"])) == source.identity.model_dump()
    assert (order == shuffled(30, seed)).all() and sorted(order) == list(range(30))
    assert (images_of(found) == images_of(source)[order]).all()
    assert found.labels is not None and source.labels is not None
    assert (found.labels == source.labels[order]).all()
    assert (np.diff(found.labels) != 0).sum() > 10  # 2 in the source
    assert (found.role, found.kind, found.count) == ("generated", "npz", 30)
    assert not list(tmp_path.glob(".*"))


def test_equal_images_give_equal_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        export(image_sets.open_set(folder), tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_it_is_no_reference(folder: Path, tmp_path: Path) -> None:
    export(image_sets.open_set(folder), tmp_path / "adm.npz")
    with pytest.raises(ValueError, match="holds generated images"):
        references.load(Reference(file=str(tmp_path / "adm.npz"), unknown_hash=True))


def test_refusals(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--out .*adm\.zip: accepted: a name that ends in \.npz"):
        export(image_sets.open_set(folder), tmp_path / "adm.zip")
    np.savez(tmp_path / "real.npz", arr_0=np.zeros((4, 8, 8, 3), np.uint8), mu=np.zeros(2048))
    with pytest.raises(ValueError, match=r"real\.npz: holds real images; accepted: generated ones"):
        export(image_sets.open_set(tmp_path / "real.npz"), tmp_path / "adm.npz")
    Image.new("RGB", (9, 9), "red").save(folder / "class2" / "large.png")
    with pytest.raises(ValueError, match=r"large\.png: is \(9, 9, 3\)"):
        export(image_sets.open_set(folder), tmp_path / "adm.npz")
    assert not list(tmp_path.glob("*adm.npz*"))  # nothing half written stays


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """200 MB of images within 60 MB over what the modules take."""
    script = f"""
import resource, sys
from pathlib import Path
import numpy as np
from mar.crosscheck.export_adm import export
from mar.features.image_sets import Images
stream = lambda *_: (np.random.default_rng(i).integers(0, 256, (50, 128, 128, 3), dtype=np.uint8) for i in range(82))
images = Images("made up", "folder", "unknown", "0" * 64, 4100, None, None, 50, stream)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export(images, Path({str(tmp_path / "large.npz")!r}))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout.splitlines()[-1]) < 60.0
    assert npz.headers(tmp_path / "large.npz")["arr_0"][0] == (4100, 128, 128, 3)
