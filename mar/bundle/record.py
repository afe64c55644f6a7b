"""bundle.json: every file of a bundle with its size and checksum, and a checksum of all that.

The file is written in one way only, so that its bytes follow from what it says: a bit that is flipped anywhere in a
bundle, in this file too, is found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, NonNegativeInt

from mar.runtime.files import Part, Record, Sha256, a_file, parse, read_json, sha256, write_text
from mar.study import layout

BUNDLE = "bundle.json"
OWN = re.compile(r"[A-Za-z_][\w./-]*:[A-Za-z_]\w*")  # a class of a file or module
NAMES = re.compile(r"[^/\\\x00-\x1f]+(/[^/\\\x00-\x1f]+)*")


def _below(path: str) -> str:
    if not NAMES.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(f"found {path!r}; accepted: the path of a file in the bundle")
    return path


Below = Annotated[str, AfterValidator(_below)]  # path below the bundle, which leads nowhere else


class Held(Part):
    """A file of a bundle: its path, what kind of file it is (`mar.bundle.contents.KINDS`), size and checksum."""

    file: Below
    kind: str
    size: NonNegativeInt
    sha256: Sha256


class Cut(Part):
    """Files that the study has and the bundle has not: of which set or kind, how many, their bytes, and why."""

    what: str
    files: NonNegativeInt
    size: NonNegativeInt
    why: str


class Joined(Part):
    """A bundle that this one was joined from: its digest, and when it was made."""

    digest: Sha256
    time: str


class BundleRecord(Record):
    """bundle.json.

    Attributes:
        study: name of the study, and of its folders in `results/` and `figures/`.
        title: title of the study.
        time: when the bundle was made, local time with its offset.
        versions: of mar and its commit, Python and the libraries that compute and draw; checksum of claims and paper.
        sets: patterns of the names of sets of images that have their features here; none for all.
        cut: what the study has and the bundle has not.
        missing: files that the study asks for and that nobody has made yet.
        joined: the bundles that it was joined from.
        files: every other file.
        digest: checksum of all of this.
    """

    study: Below
    title: str
    time: str
    versions: dict[str, str]
    sets: tuple[str, ...] = ()
    cut: tuple[Cut, ...] = ()
    missing: tuple[str, ...] = ()
    joined: tuple[Joined, ...] = ()
    files: tuple[Held, ...]
    digest: Sha256

    def kinds(self) -> dict[str, tuple[int, int]]:
        """Number of files and bytes of each kind."""
        found: dict[str, tuple[int, int]] = {}
        for held in self.files:
            count, size = found.get(held.kind, (0, 0))
            found[held.kind] = (count + 1, size + held.size)
        return found


def sealed(record: BundleRecord) -> BundleRecord:
    """The record with the digest of what it says."""
    return record.model_copy(update={"digest": _digest(record)})


def write(folder: Path, record: BundleRecord) -> None:
    """Write bundle.json."""
    write_text(folder / BUNDLE, _text(record))


def _text(record: BundleRecord) -> str:
    return json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=True) + "\n"


def _digest(record: BundleRecord) -> str:
    values = record.model_dump(mode="json", exclude={"digest"})
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read(folder: Path) -> BundleRecord:
    """The record of a bundle, checked to be whole.

    Raises:
        ValueError: the folder is no bundle, or bundle.json is damaged.
    """
    path = folder / BUNDLE
    if path.is_symlink() or not path.exists():
        raise ValueError(f"{folder}: has no {BUNDLE}; accepted: a folder that `mar bundle` wrote")
    text = a_file(path).read_bytes()
    try:
        record = parse(path, text, BundleRecord)
    except ValueError as error:
        raise ValueError(f"{path}: damaged: {error}".split("; accepted:")[0]) from None
    if _text(record).encode() != text or _digest(record) != record.digest:
        raise ValueError(f"{path}: damaged: its digest is not that of what it says; accepted: the file as it was made")
    return record


def damage(folder: Path, record: BundleRecord) -> Iterator[tuple[str, str]]:
    """Every file of a bundle that is not as it was made, and what is wrong with it."""
    expected = {held.file: held for held in record.files}
    names = sorted(path.relative_to(folder).as_posix() for path in _walk(folder))
    yield from ((name, "bundle.json does not name it") for name in names if name not in {BUNDLE, *expected})
    for name, held in expected.items():
        path = folder / name
        if path.is_symlink() or (path.exists() and not path.is_file()):
            yield name, "a link, folder or device, which is no file of a bundle"
        elif not path.exists():
            yield name, "missing"
        elif (size := path.stat().st_size) != held.size:
            yield name, f"has {size} bytes, bundle.json says {held.size}"
        elif sha256(path) != held.sha256:
            yield name, "differs from its checksum in bundle.json"


def own_kinds(folder: Path, record: BundleRecord) -> list[str]:
    """What the study of a bundle says that stands for code of its own, as `my_head.py:Head` or `package.module:Head`.

    To read such a study would import that code, and nothing in a bundle is executed: so whoever reads one asks here
    first.
    """
    root = layout.RESULTS / record.study
    code = f"{layout.own_code(root).as_posix()}/"
    found = {held.file for held in record.files if held.file.startswith(code)}
    return sorted(found | set(_kinds(read_json(folder / layout.study(root)))))


def _kinds(values: Any) -> Iterator[str]:
    """Texts in a study, but titles and labels, that name a class of a module."""
    if isinstance(values, str) and OWN.fullmatch(values):
        yield values
    elif isinstance(values, list):
        for value in values:
            yield from _kinds(value)
    elif isinstance(values, dict):
        for key, value in values.items():
            if key not in ("title", "label"):
                yield from _kinds(value)


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder and all links, without following these."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        yield from (here / name for name in files)
        yield from (here / name for name in folders if (here / name).is_symlink())
