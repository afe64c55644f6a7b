"""Image files of a user: which files of a folder are images, how one becomes RGB, and names that are not plain text.

It imports neither torch nor numpy at the top: the workflow lists image files when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.runtime.files import read
from mar.runtime.text import one_line
from mar.study import layout
from mar.study.records import DataManifest, Entry

if TYPE_CHECKING:
    from PIL import Image

# Endings of image file names, in small letters, for every command that reads a folder of images.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")


def files_under(folder: str | Path) -> Iterator[str]:
    """Yield the paths of all files under a folder, by name within each folder, without hidden ones.

    A link to a folder inside it is not followed, so that no image is read twice; it is yielded like a file.

    Raises:
        ValueError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ValueError(f"{one_line(error.filename)}: cannot be read: {error.strerror}; accepted: a readable folder")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        yield from (os.path.join(parent, name) for name in sorted([*names, *links]) if not name.startswith("."))


def scan(base: Path) -> dict[str, Any]:
    """The files of base/<class>, or of base/train/<class> and base/val/<class>; hidden classes and files are left out.

    Returns:
        For each half, `train` and perhaps `val`: `classes`, their names in sorted order, and `files`, a list of entries
        (path under base, class, bytes). What is no image file is in the list too, so that `mar prepare` names it.

    Raises:
        ValueError: there is no such folder, or it has no class folders.
    """
    if not base.is_dir():
        raise ValueError(
            f"data.path {base}: no such folder; accepted: a folder of <class>/<image>, or of train/ and val/"
        )
    halves = [name for name in ("train", "val") if (base / name).is_dir()]
    if halves == ["val"]:
        raise ValueError(f"data.path {base}: has val/ but no train/")
    return {half: _scan_classes(base, half) for half in halves} or {"train": _scan_classes(base, "")}


def _scan_classes(base: Path, half: str) -> dict[str, Any]:
    top = base / half
    classes = sorted(e.name for e in os.scandir(top) if e.is_dir() and not e.name.startswith("."))
    if not classes:
        raise ValueError(f"data.path {top}: has no class folders; accepted: <class>/<image>")
    files: list[Entry] = []
    for label, name in enumerate(classes):
        folder, inside = str(top / name), os.path.join(half, name)
        for path in files_under(folder):
            try:
                info = os.stat(path)
                size = info.st_size if stat.S_ISREG(info.st_mode) else 0
            except OSError:  # a broken link
                size = 0
            files.append((inside + path[len(folder) :], label, size))
    return {"classes": [one_line(name) for name in classes], "files": files}


def checksum(found: dict[str, Any]) -> str:
    """Checksum of the names, classes and sizes of all files that `scan` found."""
    entries = [(half, *entry) for half in sorted(found) for entry in found[half]["files"]]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def changed_since(manifest: Path, base: Path) -> tuple[str, bool]:
    """What the preparation of a tree depends on beside the study, and whether images changed since `mar prepare`.

    The first is the checksum of the tree as it is now; empty for a tree that an older version prepared, whose workflow
    did not look, as long as nothing has changed, so that finished studies stay finished.

    The workflow asks each time it is read, so that images which are added, removed or changed in size are noticed. A
    file whose content changes and whose size does not is not noticed: that would take reading all images. Looking up
    the sizes of 100,000 files took 1 s on a local disk with two busy cores (0.5 s of CPU time), so 1.28 million take
    about 13 s there; on a network file system, as long as one request for each file takes.

    Where the tree is not there (another machine, or images removed after they were encoded), what was recorded counts.
    A tree that `scan` refuses has its message for a checksum: `mar prepare` then runs and raises it.
    """
    try:
        recorded = read(manifest, DataManifest).listing if manifest.exists() else ""
    except ValueError:  # damaged: `mar prepare` makes it again
        recorded = ""
    watched = not recorded or (manifest.parent / layout.LISTING).exists()
    if not base.is_dir():
        return recorded if watched else "", False
    try:
        present = checksum(scan(base))
    except ValueError as error:
        present = str(error)
    changed = bool(recorded) and present != recorded
    return present if watched or changed else "", changed


def why_no_image(path: str | Path) -> str | None:
    """Why a path cannot be an image file, or None; the file is not opened, since opening a pipe would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"a broken link ({error.strerror})" if os.path.islink(path) else str(error.strerror)
    if stat.S_ISDIR(mode):
        return "a link to a folder, which is not followed; accepted: the folder itself, or links to files"
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
        return next((kind for test, kind in kinds if test(mode)), "a device")
    suffix = os.path.splitext(path)[1].lower()
    return None if suffix in SUFFIXES else f"no image by its name; accepted: {', '.join(SUFFIXES)}"


def decode(path: str | Path) -> Image.Image:
    """An image file as RGB with 8 bits per channel; more bits are scaled down, never clipped.

    Grey values of 16 bits are divided by 257, those of floating point in [0, 1] are multiplied by 255. Pillow's own
    conversion would clip both at 255 and 1. (It reads 16-bit colour as 8-bit by itself.)

    Raises:
        ValueError: floating-point values outside [0, 1], or integers of 32 bits, whose range no format states.
        Exception: whatever Pillow raises for a damaged file: OSError, SyntaxError, ValueError, struct.error and more.
    """
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        if image.mode == "F":
            values = np.asarray(image)
            low, high = float(values.min()), float(values.max())
            if not (low >= 0.0 and high <= 1.0):  # false for NaN too
                raise ValueError(f"floating-point values from {low:g} to {high:g}; accepted: 0 to 1")
            return _from_grey(values * 255.0)
        if image.mode.startswith("I"):
            if image.mode == "I" and image.format not in ("PNG", "PPM"):  # in these, Pillow's mode I holds 16 bits
                raise ValueError("integers of 32 bits; accepted: 8 or 16 bits per channel, or floating point in [0, 1]")
            return _from_grey(np.asarray(image, dtype=np.float64) / 257.0)
        return image.convert("RGB")


def _from_grey(values: object) -> Image.Image:
    """An RGB image from grey values (H, W) in [0, 255], rounded to the nearest."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")  # type: ignore[call-overload]


def to_json(path: str) -> str:
    """A path as text for JSON; one that is no UTF-8 becomes a NUL, which no path holds, and its bytes in hex."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "\0" + os.fsencode(path).hex()
    return path


def from_json(text: str) -> str:
    """The path that `to_json` wrote."""
    return os.fsdecode(bytes.fromhex(text[1:])) if text.startswith("\0") else text
