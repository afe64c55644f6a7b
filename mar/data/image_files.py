"""Image files of a user: which files of a folder are images, how one becomes RGB, and names that are not plain text.

Archives of them are in `mar/data/archives.py`, and both together in `mar/data/sources.py`.

It imports neither torch nor numpy at the top: the workflow lists image files when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mar.runtime.text import one_line
from mar.study.records import Entry, Place

if TYPE_CHECKING:
    from PIL import Image

# Endings of image file names, in small letters, for every command that reads a folder of images.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
BACKGROUND = (255, 255, 255, 255)  # under transparent pixels: white
# What `decode` does to an image that is not RGB of 8 bits.
ALPHA = "transparent, put on white"
DEEP = "of 16 bits or floating point, scaled to 8 bits"
OTHER = "grey, of a palette or CMYK, as RGB"
HELD_OUT = ("val", "valid", "validation", "test")  # folders beside train/, of which the first one is held out
IGNORED = ("__MACOSX",)  # folders that macOS adds to an archive


@dataclass(frozen=True)
class Scan:
    """The images that a source holds, before any is decoded.

    Attributes:
        found: for each half, `train` and perhaps `val`: `classes`, their names, and `files`, a list of entries (path,
            class, bytes). What is no image file is in the list too, so that `mar prepare` names it.
        said: what is left out, for the user.
        archives: names of the archive files below data.path; empty where that is itself one.
        places: where each path of an entry lies in them; none for a folder of files.
        unpack: writes the study's own file, where places are in it.
    """

    found: dict[str, Any]
    said: str = ""
    archives: tuple[str, ...] = ()
    places: dict[str, Place] = field(default_factory=dict)
    unpack: Callable[[BinaryIO], None] | None = None


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


def scan(base: Path) -> Scan:
    """The files of base/<class>, or of base/train/<class> and base/val/<class>; hidden classes and files are left out.

    Raises:
        ValueError: there is no such folder, or it has no class folders.
    """
    if not base.is_dir():
        raise ValueError(
            f"data.path {base}: no such folder; accepted: a folder of <class>/<image>, or of train/ and val/, or an "
            "archive of that"
        )
    tops = {entry.name for entry in os.scandir(base) if entry.is_dir() and _is_class(entry.name)}
    try:
        halves, said = halves_of(tops)
    except ValueError as error:
        raise ValueError(f"data.path {base}: {error}") from None
    found = {half: _scan_classes(base, folder) for half, folder in (halves or {"train": ""}).items()}
    return Scan(found, said)


def halves_of(tops: set[str]) -> tuple[dict[str, str], str]:
    """The folder of each half, `train` and perhaps `val`, among those at the top of a tree, and what is left out.

    Without train/ there are no halves, and the folders are classes.

    Raises:
        ValueError: there is val/ and no train/.
    """
    if "train" not in tops:
        if "val" in tops:
            raise ValueError("has val/ but no train/")
        return {}, ""
    held = next((name for name in HELD_OUT if name in tops), None)
    halves = {"train": "train"} | ({"val": held} if held else {})
    left = ", ".join(f"{one_line(name)}/" for name in sorted(tops - set(halves.values())))
    return halves, left and f"{left} left out: the images are those of {' and '.join(halves.values())}/"


def class_folders(base: Path) -> list[str]:
    """Names of the class folders of base/, or of base/train/, in the order of their labels; none are looked into."""
    tops = {entry.name for entry in os.scandir(base) if entry.is_dir() and _is_class(entry.name)}
    top = base / halves_of(tops)[0].get("train", "")
    return sorted(entry.name for entry in os.scandir(top) if entry.is_dir() and _is_class(entry.name))


def _is_class(name: str) -> bool:
    return not name.startswith(".") and name not in IGNORED


def _scan_classes(base: Path, half: str) -> dict[str, Any]:
    top = base / half
    classes = sorted(e.name for e in os.scandir(top) if e.is_dir() and _is_class(e.name))
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
    """Checksum of the names, classes and sizes of all files in `Scan.found`."""
    entries = [(half, *entry) for half in sorted(found) for entry in found[half]["files"]]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


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
    return why_no_image_name(str(path))


def why_no_image_name(path: str) -> str | None:
    """Why a file cannot be an image by its name, or None."""
    suffix = os.path.splitext(path)[1].lower()
    return None if suffix in SUFFIXES else f"no image by its name; accepted: {', '.join(SUFFIXES)}"


def decode(file: str | Path | BinaryIO) -> Image.Image:
    """An image file as RGB with 8 bits per channel; more bits are scaled down, never clipped; transparency is white.

    Grey values of 16 bits are divided by 257, those of floating point in [0, 1] are multiplied by 255. Pillow's own
    conversion would clip both at 255 and 1. (It reads 16-bit colour as 8-bit by itself.) It would also drop the alpha
    channel, and show what is under a transparent background, which is mostly black.

    Raises:
        ValueError: floating-point values outside [0, 1], or integers of 32 bits, whose range no format states.
        Exception: whatever Pillow raises for a damaged file: OSError, SyntaxError, ValueError, struct.error and more.
    """
    return decode_and_say(file)[0]


def open_image(path: Path) -> Image.Image:
    """The image in a file of a user, as `decode` gives it.

    Raises:
        ValueError: it is missing or damaged, or no image; names the file.
    """
    try:
        return decode(path)
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error and more
        raise ValueError(one_line(f"{path}: cannot be read as an image ({error}); accepted: an image file")) from None


def decode_and_say(file: str | Path | BinaryIO) -> tuple[Image.Image, str]:
    """An image file as `decode` gives it, and what was done to it, one of DONE; empty for RGB of 8 bits."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as image:
        if image.mode == "F":
            values = np.asarray(image)
            low, high = float(values.min()), float(values.max())
            if not (low >= 0.0 and high <= 1.0):  # false for NaN too
                raise ValueError(f"floating-point values from {low:g} to {high:g}; accepted: 0 to 1")
            return _from_grey(values * 255.0), DEEP
        if image.mode.startswith("I"):
            if image.mode == "I" and image.format not in ("PNG", "PPM"):  # in these, Pillow's mode I holds 16 bits
                raise ValueError("integers of 32 bits; accepted: 8 or 16 bits per channel, or floating point in [0, 1]")
            return _from_grey(np.asarray(image, dtype=np.float64) / 257.0), DEEP
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", layer.size, BACKGROUND), layer).convert("RGB"), ALPHA
        return image.convert("RGB"), "" if image.mode == "RGB" else OTHER


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
