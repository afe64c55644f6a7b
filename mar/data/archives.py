"""Images in archives: zip and tar of folders, WebDataset shards, Parquet files of Hugging Face.

An archive is listed, and its images are read at their places in it; no member is written to a file of its own, and no
name in it is ever a path on this machine. What has no places that can be read alone, a compressed tar or a Parquet
file, is unpacked once into one file of the study (`UNPACKED`). Names, links and sizes that only a hostile archive has
are refused with the whole archive.

It imports neither torch nor numpy at the top: the workflow lists images when it is read.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mar.data.image_files import HELD_OUT, IGNORED, SUFFIXES, Scan, halves_of
from mar.runtime.text import one_line
from mar.study.records import Entry, Place

DRIVE = re.compile("[A-Za-z]:")  # of a name in Windows
LARGEST = 1 << 28  # most bytes of one image file
ROOM = 1 << 30  # an archive may unpack to so many bytes, or to RATIO times its own, whichever is more
RATIO = 100
UNPACKED = -1  # number of the archive of an image that lies in the study's own file
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # first bytes of a zip, and of an empty one
OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b\x08": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7z": lzma.open,
}  # by the first bytes of a file
# Endings of images without a name, by their first bytes; of others Pillow says what they are.
STARTS = {b"\xff\xd8": ".jpg", b"RIFF": ".webp", b"GIF8": ".gif", b"BM": ".bmp", b"II*": ".tif", b"MM": ".tif"}
LABELS = ("label", "labels", "class", "cls", "target")  # names of the column of classes in a Parquet file
ACCEPTED = (
    "a folder of <class>/<image>, a zip or tar of one, WebDataset shards (.tar with <key>.jpg and <key>.cls), "
    "Parquet files with a column of images and one of labels, or a folder of those"
)


@dataclass(frozen=True)
class _Member:
    """A file in an archive."""

    name: str
    size: int
    place: Place


Rows = dict[str, list[tuple[str, str, _Member]]]  # of each half: path, name of the class, where it lies
R = TypeVar("R")


def files_of(base: Path) -> list[Path] | None:
    """The archive files that `base` stands for: itself, or all Parquet or tar files below it; None for image files.

    Raises:
        ValueError: a folder has both Parquet and tar files.
    """
    if base.is_file():
        return [base]
    found: dict[str, list[Path]] = {"Parquet": [], "tar": []}
    for parent, folders, names in os.walk(base):
        folders[:] = sorted(name for name in folders if _shown(name))
        for name in sorted(filter(_shown, names)):
            if name.lower().endswith(SUFFIXES):
                return None
            if name.lower().endswith(".parquet"):
                found["Parquet"].append(Path(parent, name))
            elif name.lower().endswith(TARS):
                found["tar"].append(Path(parent, name))
    if found["Parquet"] and found["tar"]:
        raise ValueError(f"data.path {base}: has Parquet files and tar files; accepted: {ACCEPTED}")
    return found["Parquet"] or found["tar"] or None


def scan(base: Path, archives: Sequence[Path]) -> Scan:
    """The images in archives.

    Args:
        base: data.path of the study.
        archives: what `files_of` found there.

    Raises:
        ValueError: an archive cannot be read, is hostile, or holds no images with classes.
    """
    names = tuple(str(path.relative_to(base)) if path != base else "" for path in archives)
    with _refusing(base):
        if archives[0].suffix.lower() == ".parquet":
            return _scan_parquet(archives, names)
        if _first(archives[0]).startswith(ZIP):
            return _scan_tree(list(_zip_members(archives[0])), names, None)
        members: list[list[_Member]] = []
        labels: dict[str, str] = {}
        length = 0  # of the study's own file
        for number, path in enumerate(archives):
            found, unpacked = _tar_members(path, number, length, labels)
            members.append(found)
            length += unpacked
        packed = [path for path in archives if _opener(path) is not None]
        unpack = (lambda out: _unpack_tars(packed, out)) if packed else None
        if labels:
            return _scan_samples(archives, members, labels, names, unpack)
        if len(archives) > 1:
            raise ValueError(f"{len(archives)} tar files without <key>.cls; accepted: one tar, or WebDataset shards")
        return _scan_tree(members[0], names, unpack)


@contextlib.contextmanager
def _refusing(base: Path) -> Iterator[None]:
    """Turn what the readers of archives raise into one message that names data.path."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"data.path {base}: {one_line(str(error))}") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        raise ValueError(
            f"data.path {base}: cannot be read ({type(error).__name__}: {one_line(str(error))}); accepted: {ACCEPTED}"
        ) from None
    except OSError as error:
        if error.errno:
            raise
        raise ValueError(f"data.path {base}: cannot be read ({one_line(str(error))}); accepted: {ACCEPTED}") from None


def read_image(base: Path, archives: Sequence[str], unpacked: Path, place: Place, size: int) -> bytes:
    """The bytes of an image at its place.

    Args:
        base: data.path of the study.
        archives: names of the archive files below it.
        unpacked: the study's own file.
        place: where the image lies.
        size: bytes of the image.

    Raises:
        ValueError: there are other bytes than when the archive was listed.
        OSError: the archive cannot be read.
    """
    number, start, stored, deflated = place
    path = unpacked if number == UNPACKED else base / archives[number] if archives[number] else base
    with open(path, "rb") as file:
        content = os.pread(file.fileno(), stored, start)
    if deflated:
        content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    if len(content) != size:
        raise ValueError(f"{one_line(path)}: {len(content)} bytes at {start}, where an image had {size}")
    return content


def _check_name(name: str) -> None:
    """Refuse a name that leads out of the folder in which an archive would be unpacked."""
    if not name or name.startswith("/") or {"\\", "\0"} & set(name) or DRIVE.match(name) or ".." in name.split("/"):
        raise ValueError(f"member {name!r} leads out of the archive; accepted: names of files below it")


def _check_size(name: str, size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"member {name!r} has {size:,} bytes; accepted: at most {LARGEST:,} for an image")


def _check_total(path: Path, total: int) -> None:
    most = max(ROOM, RATIO * path.stat().st_size)
    if total > most:
        raise ValueError(f"unpacks to more than {most:,} bytes; accepted: {ROOM:,}, or {RATIO} times its own")


def _shown(name: str) -> bool:
    """Whether a member counts: neither hidden nor of a folder that other systems add."""
    return not any(part.startswith(".") or part in IGNORED for part in name.split("/"))


def _zip_members(path: Path) -> Iterator[_Member]:
    total, length, seen = 0, path.stat().st_size, set()
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for info in archive.infolist():
            name = info.filename
            _check_name(name)
            mode = info.external_attr >> 16
            if stat.S_ISLNK(mode):
                raise ValueError(f"member {name!r} is a link; accepted: files and folders")
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise ValueError(f"member {name!r} is encrypted; accepted: a zip without a password")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(
                    f"member {name!r} is packed by method {info.compress_type}; accepted: stored, deflated"
                )
            if name in seen:
                raise ValueError(f"member {name!r} is there twice; accepted: each once")
            seen.add(name)
            total += info.file_size
            if name.lower().endswith(SUFFIXES):  # other files are not read
                _check_size(name, info.file_size)
            _check_total(path, total)
            header = os.pread(file.fileno(), 30, info.header_offset) if 0 <= info.header_offset < length else b""
            if len(header) != 30 or header[:4] != b"PK\x03\x04":
                raise ValueError(f"member {name!r} is not where the zip says; accepted: a whole zip")
            start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
            if start + info.compress_size > length:
                raise ValueError(f"member {name!r} ends behind the archive; accepted: a whole zip")
            place = (0, start, info.compress_size, int(info.compress_type == zipfile.ZIP_DEFLATED))
            yield _Member(name, info.file_size, place)


def _opener(path: Path) -> Callable[..., Any] | None:
    """What decompresses a tar file, by its first bytes; None for one that is not compressed."""
    return OPENERS.get(_first(path)[:3])


def _first(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4)


def _open_tar(path: Path) -> _Bounded:
    opener = _opener(path)
    most = None if opener is None else max(ROOM, RATIO * path.stat().st_size)
    return _Bounded(open(path, "rb") if opener is None else opener(path), most)


def _tar_members(path: Path, number: int, before: int, labels: dict[str, str]) -> tuple[list[_Member], int]:
    """The files of a tar, and how many bytes of the study's own file it takes: none if it is not compressed.

    Args:
        path: the tar.
        number: of the archive.
        before: bytes of the study's own file before this tar.
        labels: gets the content of each <key>.cls, by its key.
    """
    found: list[_Member] = []
    packed, last, seen = _opener(path) is not None, -1, set()
    with _open_tar(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            _check_name(info.name)
            if info.offset_data <= last or info.size < 0:
                raise ValueError(f"member {info.name!r} lies before the one before it; accepted: a whole tar")
            last = info.offset_data
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise ValueError(f"member {info.name!r} is a link, a device or sparse; accepted: files and folders")
            if info.name in seen:
                raise ValueError(f"member {info.name!r} is there twice; accepted: each once")
            seen.add(info.name)
            if info.name.lower().endswith(SUFFIXES):  # other files are not read
                _check_size(info.name, info.size)
            if info.name.endswith(".cls") and _shown(info.name.removeprefix("./")):
                content = archive.extractfile(info)
                text = content.read(201).decode("utf-8", "replace").strip() if content else ""
                if not text or len(text) > 200:
                    raise ValueError(f"member {info.name!r} holds no class; accepted: its name or number")
                labels[info.name.removesuffix(".cls")] = text
                continue
            start = before + info.offset_data if packed else info.offset_data
            found.append(_Member(info.name, info.size, (UNPACKED if packed else number, start, info.size, 0)))
        while stream.read(1 << 20):  # to the end, since all of it is unpacked
            pass
        return found, stream.tell() if packed else 0


class _Bounded(io.RawIOBase):
    """A stream that gives no more bytes than a number: what a bomb unpacks to is never held or written."""

    def __init__(self, stream: Any, most: int | None) -> None:
        self.stream, self.most = stream, most

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, all that the stream may have where none is said."""
        if self.most is not None:
            size = min(self.most + 1, size if size >= 0 else self.most + 1)
        content: bytes = self.stream.read(size)
        return self._checked(content)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place; in a compressed stream all before it is unpacked."""
        position: int = self.stream.seek(min(offset, self.most + 1) if self.most is not None else offset, whence)
        return self._checked(position)

    def tell(self) -> int:
        """The present place."""
        position: int = self.stream.tell()
        return position

    def close(self) -> None:
        """Close the stream too."""
        self.stream.close()
        super().close()

    def _checked(self, result: R) -> R:
        if self.most is not None and self.tell() > self.most:
            raise ValueError(f"unpacks to more than {self.most:,} bytes; accepted: {ROOM:,}, or {RATIO} times its own")
        return result


def _unpack_tars(paths: Sequence[Path], out: BinaryIO) -> None:
    for path in paths:
        with _open_tar(path) as stream:
            while block := stream.read(1 << 20):
                out.write(block)


def _scan_tree(members: list[_Member], names: tuple[str, ...], unpack: Callable[[BinaryIO], None] | None) -> Scan:
    """Images of <class>/<image>, or of train/ and val/, perhaps in one folder around all."""
    parts = {member.name: member.name.removeprefix("./").split("/") for member in members}
    images = [name for name, path in parts.items() if name.lower().endswith(SUFFIXES) and _shown("/".join(path))]
    around: list[str] = []  # folders around all images
    while images and parts[images[0]][len(around)] != "train":
        below = {parts[name][len(around)] for name in images}
        if len(below) > 1 or any(len(parts[name]) < len(around) + 3 for name in images):
            break
        around.append(below.pop())
    parts = {name: path[len(around) :] for name, path in parts.items() if path[: len(around)] == around}
    parts = {name: path for name, path in parts.items() if path and _shown("/".join(path))}
    shown = [member for member in members if member.name in parts]
    tops = {path[0] for path in parts.values() if len(path) > 2}
    halves, said = halves_of(tops)  # the folder of each half
    rows: Rows = {half: [] for half in halves or ("train",)}
    folders = {folder: half for half, folder in halves.items()}
    for member in shown:
        path = parts[member.name]
        half = folders.get(path[0]) if halves else "train"
        if half and len(path) > (2 if halves else 1):
            rows[half].append(("/".join(path), path[1 if halves else 0], member))
    if not rows["train"]:
        raise ValueError(f"has no class folders; accepted: {ACCEPTED}")
    classes = {half: sorted({name for _, name, _ in entries}) for half, entries in rows.items()}
    return _scan_rows(rows, classes, names, unpack, said)


def _scan_samples(
    archives: Sequence[Path],
    members: list[list[_Member]],
    labels: dict[str, str],
    names: tuple[str, ...],
    unpack: Callable[[BinaryIO], None] | None,
) -> Scan:
    """Samples of WebDataset: files of one key, which ends at the first dot of the last part of the name."""
    halves, said = _halves_of_shards(archives, names)
    rows: Rows = {half: [] for half in sorted(set(halves) - {""})}
    keys = set()
    for half, shard in zip(halves, members, strict=True):
        for member in shard:
            folder, _, last = member.name.rpartition("/")
            key, _, ending = last.partition(".")
            key = f"{folder}/{key}" if folder else key
            if f".{ending.lower()}" not in SUFFIXES or not _shown(member.name.removeprefix("./")) or not half:
                continue
            if key not in labels:
                raise ValueError(f"sample {key!r} has no {key}.cls; accepted: an image and a class for each key")
            if key in keys:
                raise ValueError(f"sample {key!r} is there twice, or has two images; accepted: each once")
            keys.add(key)
            rows[half].append((member.name.removeprefix("./"), labels[key], member))
    return _scan_rows(rows, dict.fromkeys(rows, _sorted(rows)), names, unpack, said)


def _sorted(rows: Rows) -> list[str]:
    """Names of the classes of both halves; numbers in their order."""
    known = {name for entries in rows.values() for _, name, _ in entries}
    numbers = all(re.fullmatch("[0-9]{1,18}", name) for name in known)
    return sorted(known, key=int) if numbers else sorted(known)


def _halves_of_shards(archives: Sequence[Path], names: Sequence[str]) -> tuple[list[str], str]:
    """The half of each shard by the words of its path: train, val, or empty where it is left out; and what is."""
    words = [set(re.findall("[a-z]+", (name or path.name).lower())) for path, name in zip(archives, names, strict=True)]
    held = next((name for name in HELD_OUT if any(name in own for own in words)), None)
    if held is None or not any("train" in own for own in words):
        return ["train"] * len(archives), ""
    halves = ["train" if "train" in own else "val" if held in own else "" for own in words]
    left = [path.name for path, half in zip(archives, halves, strict=True) if not half]
    return halves, f"{len(left)} shards left out, as {one_line(left[0])}: neither train nor {held}" if left else ""


def _scan_rows(
    rows: Rows,
    classes: dict[str, list[str]],
    names: tuple[str, ...],
    unpack: Callable[[BinaryIO], None] | None,
    said: str,
) -> Scan:
    """The result from (path, class, member) of each half and its classes; within a class in the order of a folder."""
    found: dict[str, Any] = {}
    places: dict[str, Place] = {}
    for half, entries in rows.items():
        label = {name: number for number, name in enumerate(classes[half])}
        files: list[Entry] = [(path, label[name], member.size) for path, name, member in entries]
        files.sort(key=lambda entry: (entry[1], _in_a_folder(entry[0])))
        found[half] = {"classes": [one_line(name) for name in classes[half]], "files": files}
        for path, _, member in entries:
            if path in places:
                raise ValueError(f"{path!r} is there twice; accepted: each once")
            places[path] = member.place
    return Scan(found, said, names, places, unpack)


def _in_a_folder(path: str) -> list[tuple[int, str]]:
    """Sorts paths as a folder is listed: its files by name, then its folders."""
    *folders, name = path.split("/")
    return [*((1, folder) for folder in folders), (0, name)]


def _scan_parquet(archives: Sequence[Path], names: tuple[str, ...]) -> Scan:
    """Rows of a label and an image, a struct of bytes and path or bytes alone, as written by the library `datasets`."""
    halves, said = _halves_of_shards(archives, names)
    rows: Rows = {half: [] for half in sorted(set(halves) - {""})}
    classes: list[str] | None = None
    start = number = 0
    for half, path in zip(halves, archives, strict=True):
        for image, name, label, known in _parquet_rows(path) if half else ():
            text = str(label)
            if known is not None and isinstance(label, int):
                if known != (classes or known) or not 0 <= label < len(known):
                    raise ValueError(f"{path.name}: label {label}, and classes {known[:5]} ...; accepted: one of them")
                classes, text = known, known[label]
            file = Path(name).name if name else f"{number:09d}"
            if not file.lower().endswith(SUFFIXES):
                file += next((end for start_of, end in STARTS.items() if image.startswith(start_of)), ".png")
            member = _Member(f"{text}/{file}", len(image), (UNPACKED, start, len(image), 0))
            rows[half].append((member.name, text, member))
            start, number = start + len(image), number + 1
    counted = Counter(path for entries in rows.values() for path, _, _ in entries)
    if any(count > 1 for count in counted.values()):  # the names tell no images apart, the numbers of the rows do
        total = 0
        for half, entries in rows.items():
            rows[half] = [
                (f"{name}/{total + i:09d}{Path(path).suffix}", name, m) for i, (path, name, m) in enumerate(entries)
            ]
            total += len(entries)

    def unpack(out: BinaryIO) -> None:
        for half, path in zip(halves, archives, strict=True):
            for image, *_ in _parquet_rows(path) if half else ():
                out.write(image)

    return _scan_rows(rows, dict.fromkeys(rows, classes or _sorted(rows)), names, unpack, said)


def _parquet_rows(path: Path) -> Iterator[tuple[bytes, str | None, int | str, list[str] | None]]:
    """Yield image, its name, its label and the names of all classes of each row of a Parquet file."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError("Parquet files are read by pyarrow, which is not installed: pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            schema = file.schema_arrow
            image, label = _columns(schema, path.name)
            known = _names_of_classes(schema, label)
            total = 0
            for batch in file.iter_batches(batch_size=256, columns=[image, label]):
                for cell, value in zip(batch.column(image), batch.column(label), strict=True):
                    content: Any = cell.as_py()
                    name = None
                    if isinstance(content, dict):
                        content, name = content.get("bytes"), content.get("path")
                    if not isinstance(content, bytes):
                        raise ValueError(f"{path.name}: an image without bytes; accepted: images in the file itself")
                    value = value.as_py()
                    if isinstance(value, bool) or not isinstance(value, int | str):
                        raise ValueError(f"{path.name}: label {value!r}; accepted: a number or a text")
                    total += len(content)
                    _check_size(f"{label} {value}", len(content))
                    _check_total(path, total)
                    yield content, name, value, known
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path.name}: no whole Parquet file ({str(error)[:200]})") from None


def _columns(schema: Any, where: str) -> tuple[str, str]:
    """Names of the columns of images and of labels."""
    import pyarrow.types as types

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    images = [name for name in schema.names if holds_images(schema.field(name).type)]
    labels = [name for name in LABELS if name in schema.names]
    for what, columns, accepted in (
        ("images", images, "one column of bytes, or of a struct with bytes and path"),
        ("labels", labels, f"one of {', '.join(LABELS)}"),
    ):
        if len(columns) != 1:
            found = f"{len(columns)} columns of {what} among {', '.join(map(one_line, schema.names))}"
            raise ValueError(f"{where}: {found}; accepted: {accepted}")
    return images[0], labels[0]


def _names_of_classes(schema: Any, label: str) -> list[str] | None:
    """The names that the library `datasets` stores for the numbers of a column; None where it stores none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    accepted = (
        isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    )
    return [name.replace("/", "_") for name in names] if accepted else None
