"""Reading an .npz member by member and part by part.

numpy decompresses a member as a whole; the images in ADM's reference batches take 2 GB.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from mar.runtime.files import a_file


def headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of each member, by its name without `.npy`; no data are read.

    Raises:
        ValueError: the file is no .npz, or a member would have to be unpickled.
    """
    members = {}
    with _archive(path) as archive:
        for entry in archive.namelist():
            if entry.endswith(".npy"):
                name = entry.removesuffix(".npy")
                with archive.open(entry) as member:
                    shape, dtype, _ = _header(path, name, member, archive.getinfo(entry).file_size)
                    members[name] = (shape, dtype)
    if not members:
        raise ValueError(f"{path}: holds no arrays; accepted: an .npz")
    return members


def read(path: Path, name: str) -> np.ndarray:
    """One member as a whole.

    Raises:
        ValueError: the file is damaged, or has no such member.
    """
    with _archive(path) as archive, _open(path, archive, name) as member:
        _header(path, name, member, archive.getinfo(f"{name}.npy").file_size)
        member.seek(0)
        try:
            return np.lib.format.read_array(member, allow_pickle=False)
        except (ValueError, OverflowError, MemoryError) as error:
            raise ValueError(f"{path}: {name} is cut off ({error or 'too large'}); accepted: a whole array") from None


def stream(path: Path, name: str, rows: int) -> Iterator[np.ndarray]:
    """Yield a member in parts of `rows` along its first axis; the last part may be shorter.

    Raises:
        ValueError: the file is damaged, has no such member, or the member is stored column by column.
    """
    with _archive(path) as archive, _open(path, archive, name) as member:
        shape, dtype, by_column = _header(path, name, member, archive.getinfo(f"{name}.npy").file_size)
        if by_column:
            raise ValueError(f"{path}: {name} is stored column by column; accepted: row by row (numpy's order C)")
        size = dtype.itemsize * int(np.prod(shape[1:]))  # bytes in each row
        for start in range(0, shape[0], rows):
            count = min(rows, shape[0] - start)
            data = member.read(count * size)
            if len(data) != count * size:
                raise ValueError(
                    f"{path}: {name} ends in its row {start + len(data) // size}; accepted: {shape[0]} rows"
                )
            yield np.frombuffer(bytearray(data), dtype).reshape(count, *shape[1:])  # a bytearray can be written to


def mapped(path: Path, name: str) -> np.ndarray | None:
    """One member on disk, read where it is used and in any order; None if it is compressed.

    Raises:
        ValueError: as `stream`.
    """
    with _archive(path) as archive, _open(path, archive, name) as member:
        shape, dtype, by_column = _header(path, name, member, archive.getinfo(f"{name}.npy").file_size)
        if by_column:
            raise ValueError(f"{path}: {name} is stored column by column; accepted: row by row (numpy's order C)")
        entry, header = archive.getinfo(f"{name}.npy"), member.tell()
    if entry.compress_type != zipfile.ZIP_STORED:
        return None
    with open(path, "rb") as file:
        file.seek(entry.header_offset)
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", file.read(30)[26:]))  # lengths of name and extra
    if start + entry.file_size > path.stat().st_size or entry.file_size < header + dtype.itemsize * math.prod(shape):
        raise ValueError(f"{path}: {name} is cut off")
    return np.memmap(path, dtype, "r", start + header, shape)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(a_file(path)) as archive:
            yield archive
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; accepted: an .npz") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError) as error:
        raise ValueError(f"{path}: no valid .npz ({error}); accepted: one as numpy writes it") from None


@contextmanager
def _open(path: Path, archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    if f"{name}.npy" not in archive.namelist():
        members = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist())
        raise ValueError(f"{path}: has no {name}; found {members or 'nothing'}; accepted: an .npz that has it")
    with archive.open(f"{name}.npy") as member:
        yield member


def _header(path: Path, name: str, member: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Shape, type, and whether the data are stored column by column; leaves `member` at the first byte of its data.

    `size` is the number of bytes of the member, which has to hold what its header says: else rows without end would be
    waited for.
    """
    try:
        version = np.lib.format.read_magic(member)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, by_column, dtype = read_header(member)
    except (KeyError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {name} is no array: {error}; accepted: numpy's format 1.0 or 2.0") from None
    if dtype.hasobject:
        raise ValueError(f"{path}: {name} holds Python objects, which are not unpickled here; accepted: numbers")
    if (found := size - member.tell()) < (wanted := dtype.itemsize * math.prod(shape)):
        raise ValueError(f"{path}: {name} is cut off: {found:,} bytes of data for {shape}; accepted: {wanted:,}")
    return shape, dtype, by_column and len(shape) > 1
