"""Where the images of a user are: a folder or archives, listed alike, watched for changes, read by one function.

It imports neither torch nor numpy at the top: the workflow lists images when it is read.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

from mar.data import archives, image_files
from mar.data.image_files import Scan
from mar.runtime.files import read as read_record
from mar.runtime.files import read_text
from mar.study import layout
from mar.study.records import DataManifest, FileLists


def scan(base: Path) -> Scan:
    """The images of data.path: a folder, an archive, or a folder of archives.

    Raises:
        ValueError: there is nothing, no images with classes, or a hostile archive.
    """
    found = archives.files_of(base)
    return archives.scan(base, found) if found else image_files.scan(base)


def stamp(base: Path) -> str:
    """Names, sizes and times of change of the archive files of data.path; empty for a folder of images."""
    found = archives.files_of(base) or []
    state = [[str(path.relative_to(base)), path.stat().st_size, path.stat().st_mtime_ns] for path in found]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest() if found else ""


def read(base: Path, folder: Path, lists: FileLists, split: str, number: int) -> bytes:
    """The bytes of an image, as `mar prepare` saw them.

    Args:
        base: data.path of the study.
        folder: folder of the list of images.
        lists: the list.
        split: "train" or "heldout".
        number: of the image in its split.

    Raises:
        ValueError: they are other bytes.
        OSError: the file cannot be read.
    """
    path, _, size = (lists.train if split == "train" else lists.heldout)[number]
    if lists.places:
        place = lists.places[split][number]
        content = archives.read_image(base, lists.archives, folder / layout.UNPACKED, place, size)
    else:
        content = (base / image_files.from_json(path)).read_bytes()
    if lists.crc and zlib.crc32(content) != lists.crc[split][number]:
        raise ValueError(f"another image than `mar prepare` listed; delete {folder / layout.MANIFEST}")
    return content


def changed_since(manifest: Path, base: Path) -> tuple[str, bool]:
    """What the preparation of a tree depends on beside the study, and whether images changed since `mar prepare`.

    The first is the checksum of the tree as it is now; empty for a tree that an older version prepared, whose workflow
    did not look, as long as nothing has changed, so that finished studies stay finished.

    The workflow asks each time it is read, so that images which are added, removed or changed in size are noticed. A
    file whose content changes and whose size does not is noticed when it is read, not here: that would take reading all
    images. Archives are listed again only where one has another size or time of change. Looking up
    the sizes of 100,000 files took 1 s on a local disk with two busy cores (0.5 s of CPU time), so 1.28 million take
    about 13 s there; on a network file system, as long as one request for each file takes.

    Where the tree is not there (another machine, or images removed after they were encoded), what was recorded counts.
    A tree that `scan` refuses has its message for a checksum: `mar prepare` then runs and raises it.
    """
    try:
        recorded = read_record(manifest, DataManifest).listing if manifest.exists() else ""
    except ValueError:  # damaged: `mar prepare` makes it again
        recorded = ""
    watched = not recorded or (manifest.parent / layout.LISTING).exists()
    if not base.exists():
        return recorded if watched else "", False
    try:
        present = _listing(base, manifest.parent / layout.LISTING)
    except ValueError as error:
        present = str(error)
    changed = bool(recorded) and present != recorded
    return present if watched or changed else "", changed


def classes_of(manifest: Path, base: Path) -> int | None:
    """Number of classes: those that `mar prepare` found, else those of a folder of images; None where not known."""
    try:
        if manifest.exists():
            return len(read_record(manifest, DataManifest).classes)
        return len(image_files.class_folders(base)) if base.is_dir() and not archives.files_of(base) else None
    except (OSError, ValueError):  # `mar prepare` says what is wrong
        return None


def _listing(base: Path, noted: Path) -> str:
    """Checksum of what `scan` finds, from the file that `mar prepare` noted it in where no archive has changed."""
    now = stamp(base)
    if now and noted.exists() and (lines := read_text(noted).splitlines())[1:] == [now]:
        return lines[0]
    return image_files.checksum(scan(base).found)
