"""Sample sets that others drew: the images of every source in the order of the study's own, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judged
import numpy as np
import pipeline
import pytest
from PIL import Image

from mar.crosscheck.export_adm import export
from mar.data.prepare import prepare
from mar.features import features, given, image_sets
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.mistakes import MistakesError
from mar.study.study import Study

LABELS = np.arange(judged.COUNT) % 10


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study = pipeline.study()
    root = pipeline.root(tmp_path_factory.mktemp("given"), study)
    prepare(study, root)
    return study, root


@pytest.fixture(scope="module")
def root(prepared: tuple[Study, Path]) -> Path:
    return prepared[1]


@pytest.fixture(scope="module")
def rows(prepared: tuple[Study, Path]) -> np.ndarray:
    return judged.images(*prepared)


def study_of(file: Path, **over: Any) -> Study:
    return pipeline.study(given={"theirs": {"file": str(file), **over}})


def saved(path: Path, rows: np.ndarray, labels: Any = LABELS, **more: Any) -> Path:
    np.savez(path, arr_0=rows, arr_1=labels, **more)
    return path


def ordered(path: Path, rows: np.ndarray, order: np.ndarray) -> Path:
    """As `mar export-adm` writes it, in this order."""
    return saved(path, rows, order=order, order_seed=0)


def opened(file: Path, root: Path, **over: Any) -> image_sets.Images:
    return given.opened(study_of(file, **over), root, "theirs")


def all_of(images: image_sets.Images) -> np.ndarray:
    return np.concatenate(list(images.pieces()))


def folder_of(path: Path, rows: np.ndarray, named: Callable[[int], str]) -> Path:
    for i, row in enumerate(rows):
        file = path / named(i)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row).save(file)
    return path


def test_an_npz_in_pieces_as_large_as_the_chunks_of_the_study(tmp_path: Path, root: Path, rows: np.ndarray) -> None:
    file = saved(tmp_path / "theirs.npz", rows)
    images = opened(file, root, sha256=sha256(file))
    assert (images.kind, images.role, images.count) == ("npz", "generated", 60)
    assert (images.source, images.sha256) == (str(file), sha256(file))
    assert images.labels is not None and (images.labels == LABELS).all()
    assert [len(piece) for piece in images.pieces()] == [30, 30] and (all_of(images) == rows).all()
    np.savez(tmp_path / "bare.npz", arr_0=rows)
    assert opened(tmp_path / "bare.npz", root).labels is None


@pytest.mark.parametrize("step", [1, 2])
def test_an_exported_set_is_read_in_the_order_in_which_it_was_drawn(
    tmp_path: Path, root: Path, rows: np.ndarray, step: int
) -> None:
    source = image_sets.of_chunks(judged.write_samples(root, rows))
    export(source, tmp_path / "theirs.npz")
    images = opened(tmp_path / "theirs.npz", root)
    shuffled = image_sets.open_set(tmp_path / "theirs.npz")
    assert not (all_of(shuffled) == rows).all(), "the file itself is in another order"
    assert images.labels is not None and (images.labels == LABELS).all()
    for first in range(step):
        for piece, own in zip(images.pieces(first, step), source.pieces(first, step), strict=True):
            assert (piece == own).all()
    with np.load(tmp_path / "theirs.npz") as arrays:  # compressed again, it is another file, read as it stands
        np.savez_compressed(tmp_path / "packed.npz", **{key: arrays[key] for key in arrays})
    packed = opened(tmp_path / "packed.npz", root)
    assert (all_of(packed) == all_of(shuffled)).all()
    assert packed.labels is not None and shuffled.labels is not None and (packed.labels == shuffled.labels).all()


def test_folders(tmp_path: Path, root: Path, rows: np.ndarray) -> None:
    drawn = opened(judged.write_samples(root, rows), root)
    assert drawn.kind == "samples" and drawn.labels is not None and (drawn.labels == LABELS).all()
    assert (all_of(drawn) == rows).all()
    flat = opened(folder_of(tmp_path / "flat", rows, lambda i: f"{i:03d}.png"), root)
    assert flat.kind == "folder" and flat.labels is None and (all_of(flat) == rows).all()
    classes = opened(folder_of(tmp_path / "classes", rows, lambda i: f"{9 - i % 10}/{i:03d}.png"), root)
    assert classes.labels is not None and (classes.labels == np.repeat(np.arange(10), 6)).all()
    shards = opened(folder_of(tmp_path / "shards", rows, lambda i: f"shard-{i // 20}/{i:03d}.png"), root)
    assert shards.labels is None, "subfolders that are no classes of the study"


def test_classes_of_a_folder_have_the_numbers_of_the_study(tmp_path: Path, root: Path, rows: np.ndarray) -> None:
    """Some of the classes: the third subfolder is not class 2."""
    images = opened(folder_of(tmp_path / "some", rows, lambda i: f"{(3, 5, 7)[i % 3]}/{i:03d}.png"), root)
    assert images.labels is not None and (images.labels == np.repeat([3, 5, 7], 20)).all()


@pytest.mark.parametrize(
    ("make", "found", "accepted"),
    [
        (lambda path, rows: saved(path, rows[:59], LABELS[:59]), "holds 59 images of 16x16", "60 of 16x16, as "),
        (lambda path, rows: saved(path, rows[:, 1:]), "holds 60 images of 16x15", "as metrics.samples and "),
        (lambda path, rows: saved(path, rows.astype(np.float32)), "arr_0 is float32", "uint8 (N, H, W, 3)"),
        (lambda path, rows: np.savez(path, images=rows), "found images", "images as arr_0"),
        (lambda path, rows: saved(path, rows, LABELS[:9]), "arr_1 is int64 (9,)", "whole numbers (60,)"),
        (lambda path, rows: saved(path, rows, LABELS / 2), "arr_1 is float64 (60,)", "whole numbers (60,)"),
        (lambda path, rows: saved(path, rows, LABELS + 1), "classes 1 to 10", "0 to 9, the study's, or none"),
        (lambda path, rows: saved(path, rows, LABELS - 1), "classes -1 to 8", "0 to 9, the study's, or none"),
        (lambda path, rows: saved(path, rows, LABELS.astype(object)), "arr_1 holds Python objects", "numbers"),
        (lambda path, rows: saved(path, rows, mu=np.zeros(2048)), "holds real images", "images that a model drew"),
        (lambda path, rows: ordered(path, rows, LABELS), "order is int64 (60,)", "0 to 59, each once"),
        (lambda path, rows: ordered(path, rows, LABELS[:9]), "order is int64 (9,)", "0 to 59, each once"),
        (lambda path, rows: path.write_bytes(b"PK"), "no valid .npz", ""),
        (lambda path, rows: None, "missing", "a folder of `mar sample`, a folder of images, an .npz with arr_0"),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, root: Path, rows: np.ndarray, make: Callable[[Path, np.ndarray], Any], found: str, accepted: str
) -> None:
    file = tmp_path / "theirs.npz"
    make(file, rows)
    with pytest.raises(ValueError, match="theirs") as error:
        opened(file, root)
    message = str(error.value)
    assert str(file) in message and found in message and accepted in message, message


def test_objects_are_not_unpickled(tmp_path: Path, root: Path, rows: np.ndarray) -> None:
    class Opens:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "opened"),)

    np.savez(tmp_path / "theirs.npz", arr_0=rows, extra=np.array([Opens()], dtype=object))
    with pytest.raises(ValueError, match="extra holds Python objects, which are not unpickled here"):
        opened(tmp_path / "theirs.npz", root)
    assert not (tmp_path / "opened").exists()


def test_another_checksum_than_the_study_says(tmp_path: Path, root: Path, rows: np.ndarray) -> None:
    file = saved(tmp_path / "theirs.npz", rows)
    with pytest.raises(
        ValueError, match=rf"sha256 {sha256(file)}; accepted: {'0' * 64}, as given\.theirs\.sha256 says"
    ):
        opened(file, root, sha256="0" * 64)


def test_a_cut_off_member_is_refused_when_the_order_is_restored(tmp_path: Path, root: Path, rows: np.ndarray) -> None:
    """The header of arr_0 promises more images than the member holds."""
    import io
    import zipfile

    text = io.BytesIO()
    np.lib.format.write_array_header_1_0(text, {"descr": "|u1", "fortran_order": False, "shape": rows.shape})
    order = io.BytesIO()
    np.save(order, np.arange(60)[::-1])
    with zipfile.ZipFile(tmp_path / "theirs.npz", "w") as archive:
        archive.writestr("arr_0.npy", text.getvalue() + rows[:59].tobytes())
        for name in ("order", "order_seed"):
            archive.writestr(f"{name}.npy", order.getvalue())
    with pytest.raises(ValueError, match="arr_0 is cut off"):
        opened(tmp_path / "theirs.npz", root)


def test_before_anything_runs_all_are_checked_but_those_that_were_judged(tmp_path: Path, rows: np.ndarray) -> None:
    files = {"a": tmp_path / "a.npz", "b": tmp_path / "b.npz", "c": saved(tmp_path / "c.npz", rows)}
    study = pipeline.study(given={name: {"file": str(file)} for name, file in files.items()})
    with pytest.raises(MistakesError) as error:
        given.check(study, tmp_path)
    assert [mistake.place for mistake in error.value.mistakes] == [("given", name, "file") for name in "ab"]
    for name in "ab":
        report = layout.metrics(tmp_path, layout.given_set(name))
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text("{}")
    given.check(study, tmp_path)  # judged, and then removed to make room
    saved(files["a"], rows[:20], LABELS[:20])
    with pytest.raises(MistakesError, match=r"given\.a\.file .*a\.npz: holds 20 images"):
        given.check(study, tmp_path)


def test_the_note_of_a_file_changes_when_the_file_does(tmp_path: Path, rows: np.ndarray) -> None:
    file, folder = saved(tmp_path / "a.npz", rows), folder_of(tmp_path / "f", rows[:3], lambda i: f"{i}.png")
    study = pipeline.study(given={"a": {"file": str(file)}, "f": {"file": str(folder)}})

    def notes() -> list[str]:
        given.note_states(study, tmp_path)
        return [layout.given(tmp_path, name).read_text() for name in ("a", "f")]

    first, stamp = notes(), os.stat(file)
    assert notes() == first and first[0].splitlines()[0] == str(file)
    changed = layout.given(tmp_path, "a").stat().st_mtime_ns
    assert notes() == first and layout.given(tmp_path, "a").stat().st_mtime_ns == changed
    saved(file, 255 - rows)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns - 10**9))  # of equal size, and older
    second = notes()
    assert second[0] != first[0] and second[1] == first[1]
    Image.fromarray(rows[5]).save(folder / "1.png")
    third = notes()
    assert third[1] != second[1] and third[0] == second[0]
    file.unlink()
    assert notes() == third, "what was judged of a file that is gone stays"


def test_names_of_sets(prepared: tuple[Study, Path], tmp_path: Path, rows: np.ndarray) -> None:
    study = study_of(saved(tmp_path / "theirs.npz", rows))
    images = features.open_images(study, prepared[1], "given/theirs")
    assert images is not None and images.count == 60
    with pytest.raises(ValueError, match=r"--set given: found 'other'; accepted: theirs"):
        features.open_images(study, prepared[1], "given/other")
