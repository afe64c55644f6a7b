"""Files that are whole or absent after a crash: atomic writes, checksums, and typed records as JSON."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

if TYPE_CHECKING:  # most stages write files without numpy
    import numpy as np

HOST = socket.gethostname().replace(".", "-")
TEMPORARY = re.compile(r"^\..+\.(?P<host>[^.]+)\.(?P<process>\d+)\.tmp$")  # name of a file that `atomic` writes
DAY = 24 * 3600  # seconds
UMASK = os.umask(0o022)
os.umask(UMASK)  # there is no other way to read it
written: set[Path] = set()  # what `atomic` has written in this process

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]  # in the folder of its record


class Part(BaseModel):
    """A part of a record. It never changes after reading, and no type is converted: "1" is no number, nor is NaN."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Record(Part):
    """What one stage writes and another reads.

    A key that is added to a record later has a default, so that older files stay readable. Unknown keys, which a newer
    version may have written, are ignored. `format` becomes 2 when an old reader would misread a new file.

    Attributes:
        place: the end of the path of its file, as a regular expression; a group is the key of the same name. A file
            there whose keys say something else was copied from another place, and is refused.
    """

    place: ClassVar[str] = ""
    format: Literal[1] = 1


class Manifest(Record):
    """A record whose checksum names it in the results after it.

    One that a later version makes again has to have the same bytes, so format 1 is not written.
    """


R = TypeVar("R", bound=BaseModel)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed, on failure removed.

    Raises:
        OSError: the file cannot be written; the error names `path`. It says that the disk is full also where torch or
            numpy raised an error that does not.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)  # safetensors makes files that a group cannot read
        os.replace(temporary, path)
        written.add(path)
    except Exception as error:
        if path.parent.exists() and os.statvfs(path.parent).f_bavail == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        if not (isinstance(error, OSError) and error.errno):
            error = _why_not(temporary) or error
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _why_not(path: Path) -> OSError | None:
    """Why nothing more can be written to a file, as at a quota or a limit; None if something can, or it is not there.

    torch and numpy tell that a file was not written, and not why.
    """
    if not path.exists():
        return None
    try:
        with open(path, "ab", buffering=0) as file:
            file.write(bytes(1 << 16))
            file.write(bytes(1 << 16))  # the first may have been written in part
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def remove_abandoned(folder: Path, pattern: str = "**/.*.tmp") -> None:
    """Remove the temporary files that `atomic` left in a folder when its process was killed.

    A file of this machine is removed when its process is gone; one of another machine, whose processes are not known
    here, when nothing was written to it for a day.

    Args:
        folder: the folder.
        pattern: which of its files, as `Path.glob` takes it.
    """
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # the process that wrote it has just renamed it
            if abandoned(path):
                path.unlink()
                print(f"{path}: left by a process that was killed; removed", flush=True)


def abandoned(path: Path) -> bool:
    """Whether a file is one that `atomic` left when its process was killed, as `remove_abandoned` tells.

    Raises:
        FileNotFoundError: it is gone.
    """
    name = TEMPORARY.match(path.name)
    if not name:
        return False
    if name["host"] == HOST:
        return not _alive(int(name["process"]))
    return time.time() - path.stat().st_mtime > DAY


def _alive(process: int) -> bool:
    """Whether a process of this machine runs, under any user."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write text atomically, as UTF-8 in any locale; what a killed process left of the file is removed."""
    path = Path(path)
    remove_abandoned(path.parent, f".{glob.escape(path.name)}.*.tmp")
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_if_changed(path: str | Path, text: str) -> None:
    """Write text atomically, unless the file has the same text already: then its modification time stays."""
    path = Path(path)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def a_file(path: str | Path) -> Path:
    """The path, which is a file, or leads to one, or is not there: reading a pipe or a device might never end.

    Raises:
        ValueError: there is something else.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: found a {'folder' if path.is_dir() else 'pipe or device'}; accepted: a file")
    return path


def read_text(path: str | Path) -> str:
    """Read a text file as UTF-8 in any locale.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file, or no UTF-8; the message names it.
    """
    try:
        return a_file(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is no UTF-8 ({error.reason}); accepted: UTF-8 text") from None


def read_json(path: str | Path) -> Any:
    """Read JSON.

    Raises:
        ValueError: the file is missing or is no JSON; the message names it.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; the stage that writes it has not run") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no valid JSON ({error}); delete it and run the same command again") from None


def read(path: str | Path, record: type[R]) -> R:
    """Read a record.

    Raises:
        ValueError: the file is missing, is not such a record, or is one of another place; the message names file, key,
            what was found and what is accepted.
    """
    try:
        content = a_file(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(
            f"{path}: missing; the stage that writes it has not run; accepted: a {record.__name__}"
        ) from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}; accepted: a {record.__name__}") from None
    found = parse(path, content, record)
    if isinstance(found, Record):
        _check_place(path, found)
    return found


def _check_place(path: str | Path, record: Record) -> None:
    """Refuse a record that was copied from the place of another variant, seed or setting."""
    place = re.search(f"(^|/){record.place}$", Path(path).as_posix()) if record.place else None
    for key, accepted in place.groupdict().items() if place else ():
        if str(found := getattr(record, key)) != accepted:
            raise ValueError(
                f"{path}: {key}: found {found!r}; accepted: {accepted}, as its path says; delete it, as it belongs "
                "to another place, and run the same command again"
            )


def parse(where: str | Path, text: str | bytes, record: type[R]) -> R:
    """Parse a record.

    Args:
        where: what the message begins with, as the path of the file.
        text: JSON, of a whole file or a part of one.
        record: its type.

    Raises:
        ValueError: the text is not such a record.
    """
    try:
        return record.model_validate_json(text)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        found = f"; found {str(first['input'])[:80]!r}"
        if first["type"] in ("missing", "json_invalid", "value_error"):  # nothing was found, or the message tells what
            found = ""
        more = f" (and {len(others)} more)" * bool(others)
        raise ValueError(
            f"{where}: {key + ': ' if key else ''}{message}{found}{more}; accepted: a {record.__name__} as this "
            "project writes it; delete the file and run the same command again"
        ) from None


def write(path: str | Path, record: BaseModel) -> None:
    """Write a record atomically: its format, and the keys that were given, in the order in which they are declared."""
    values = record.model_dump(mode="json", exclude_unset=True)
    if isinstance(record, Record) and not isinstance(record, Manifest):
        values = {"format": record.format} | values
    write_json(path, values)


def link(source: str | Path, path: str | Path) -> None:
    """Make `path` a hard link to a file that never changes, or a copy of it where the file system has no links."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hex.

    Raises:
        ValueError: it is a pipe or a device, whose bytes might never end.
    """
    with open(a_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_array(path: Path, again: str, mapped: bool = False) -> np.ndarray:
    """Load an .npy file; Python objects in it are not unpickled.

    Args:
        path: the file.
        again: how a user gets the file made again, the end of the message.
        mapped: map the file instead of reading it: its numbers are read when they are used.

    Raises:
        ValueError: the file is missing, cut off, no .npy file, or holds Python objects.
    """
    import numpy as np

    try:
        with open(a_file(path), "rb") as file:
            np.lib.format.read_magic(file)  # np.load would accept a zip file too
        array: np.ndarray = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: missing; {again}") from None
    except (ValueError, OSError, EOFError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: truncated or no .npy file of numbers ({error or 'too large'}); {again}") from None
    return array


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file under exactly this name: `np.save` with a path would append `.npy`."""
    import numpy as np

    with open(path, "wb") as file:
        np.save(file, array)


def whole(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether `path` is a complete .npy file of this dtype whose first dimensions are `shape`; damage is printed."""
    if not path.exists():
        return False
    try:
        array = load_array(path, "making it again", mapped=True)
    except ValueError as error:
        print(error, flush=True)
        return False
    return bool(array.shape[: len(shape)] == shape and array.dtype == dtype)
