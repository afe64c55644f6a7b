"""Published files by name: addresses, checksums and licences (config/assets.csv), and how they are downloaded.

The table has a checksum only where somebody published one. For any other file, its checksum at the first download is
locked in results/assets/lock.json, and a later file of that name has to be the same. This module imports no torch,
because the workflow reads the table when it is parsed.
"""

from __future__ import annotations

import csv
import io
import os
import re
import time
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from mar.runtime.files import atomic, read, read_text, sha256, write
from mar.runtime.folders import lock
from mar.runtime.progress import Progress
from mar.study import layout
from mar.study.records import LockedFile, LockedFiles, without_password

TABLE = layout.shipped("assets.csv")
FOLDER = layout.ASSETS
COLUMNS = ("name", "format", "url", "sha256", "size", "licence", "source", "note")
NAME = r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}"  # of an asset, a format or an import: parts of paths and command lines
BLOCK = 1 << 20  # bytes read at a time
TIMEOUT = 60.0  # seconds without an answer after which a download fails
# To a client of this name, Dropbox sends the file itself instead of a page about it.
AGENT = "Wget/1.16 (mar)"


@dataclass(frozen=True)
class Asset:
    """One row of the table; `sha256` is empty and `size` (bytes) None where nobody published them."""

    name: str
    format: str
    url: str
    sha256: str
    size: int | None
    licence: str
    source: str
    note: str

    def path(self, folder: Path) -> Path:
        """Place of the file under the folder of assets, whether it is downloaded or put there by hand."""
        return layout.downloads(folder) / f"{self.name}{PurePosixPath(urlsplit(self.url).path).suffix}"


def table(file: Path) -> dict[str, Asset]:
    """The rows of config/assets.csv by name.

    Raises:
        ValueError: the file or a column is missing, a row is malformed, or a name is there twice.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(file)))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{file}: found columns {reader.fieldnames}; accepted: {', '.join(COLUMNS)}")
        rows = list(reader)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}; accepted: a table of published files") from None
    except csv.Error as error:
        raise ValueError(f"{file}: {error}; accepted: a table with the columns {', '.join(COLUMNS)}") from None
    assets: dict[str, Asset] = {}
    for number, row in enumerate(rows, start=2):
        where = f"{file}:{number}"
        if None in row or None in row.values():
            raise ValueError(f"{where}: found {len(row)} columns; accepted: {len(COLUMNS)}")
        if row["name"] in assets:
            raise ValueError(f"{where}: name {row['name']!r} is there twice; accepted: once")
        digest = row["sha256"]
        if digest and (len(digest) != 64 or not set(digest) <= set("0123456789abcdef")):
            raise ValueError(f"{where}: sha256 {digest!r}; accepted: 64 hex digits, or nothing")
        if row["size"] and not re.fullmatch("[0-9]{1,18}", row["size"]):
            raise ValueError(f"{where}: size {row['size']!r}; accepted: a number of bytes, or nothing")
        for key in ("name", "format"):  # both stand in names of files and on command lines
            if not re.fullmatch(NAME, row[key]):
                raise ValueError(f"{where}: {key} {row[key]!r}; accepted: letters, digits and _ . + -, at most 100")
        if not _is_address(row["url"]):
            raise ValueError(
                f"{where}: url {without_password(row['url'])!r}; accepted: http://host/file or https://host/file"
            )
        size = row.pop("size")
        assets[row["name"]] = Asset(size=int(size) if size else None, **row)
    return assets


def _is_address(url: str) -> bool:
    """Whether an address is of a file that a server of the web may have."""
    try:
        parts = urlsplit(url)
        suffix = PurePosixPath(parts.path).suffix
        return bool(
            parts.scheme in ("http", "https")
            and parts.hostname
            and parts.username is None
            and (parts.port is None or parts.port > 0)
            and re.fullmatch(r"[!-~]+", url)
            and re.fullmatch(r"(\.[A-Za-z0-9]{1,20})?", suffix)
        )
    except ValueError:  # no host or port
        return False


def find(name: str, file: Path) -> Asset:
    """The asset of that name.

    Raises:
        ValueError: the table has none.
    """
    assets = table(file)
    if name not in assets:
        raise ValueError(f"{file}: found no asset {name!r}; accepted: {', '.join(assets)}")
    return assets[name]


def only(format: str, name: str, file: Path) -> Asset:
    """The asset of that name, or if the name is empty the only one of that format.

    Raises:
        ValueError: it has another format, or the name is empty and there is not exactly one of the format.
    """
    assets = table(file)
    of_format = [asset for asset in assets.values() if asset.format == format]
    if not name and len(of_format) == 1:
        return of_format[0]
    if not name:
        names = ", ".join(asset.name for asset in of_format) or "none of that format in the table"
        raise ValueError(f"format {format} without FILE: --as is needed; accepted: {names}")
    asset = find(name, file)
    if asset.format != format:
        raise ValueError(f"{file}: {name} is of format {asset.format}; found {format}; accepted: {asset.format}")
    return asset


def fetch(asset: Asset, folder: Path) -> Path:
    """The file of an asset under `folder`, downloaded unless it exists, and checked in either case.

    Raises:
        ValueError: there is no network, or size or checksum differ from the table or the lock.
    """
    path = asset.path(folder)
    with lock(path.parent):
        if path.exists():
            print(f"{path}: there already", flush=True)
            _check(asset, path, folder)
            return path
        print(f"{without_password(asset.url)}\n  to {path}; licence: {asset.licence}", flush=True)
        with atomic(path) as temporary:
            _download(asset, path, temporary)
            _check(asset, temporary, folder, path)
    print(f"{path}: complete", flush=True)
    return path


def places(asset: Asset, folder: Path) -> list[Path]:
    """Where a file may be: under `folder`, then in torch's cache, whose place is found as torch.hub finds it."""
    cache = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    name = PurePosixPath(urlsplit(asset.url).path).name
    return [asset.path(folder), Path(cache).expanduser() / "hub" / "checkpoints" / name]


def locate(name: str, file: Path, folder: Path) -> tuple[Path, str]:
    """A published file that must be on disk already, and its SHA-256, checked as after a download.

    Args:
        name: name of the asset in the table.
        file: the table.
        folder: folder of the assets, results/assets.

    Raises:
        ValueError: it is at neither of its places, or size or checksum differ from the table or the lock.
    """
    asset = find(name, file)
    for path in (searched := places(asset, folder)):
        if path.exists():
            return path, _check(asset, path, folder)
    raise ValueError(
        f"{searched[0]}: missing, and {searched[1]} too; run `mar fetch {name}` where there is a network, or put "
        f"{without_password(asset.url)} at either place"
    )


def _download(asset: Asset, path: Path, temporary: Path) -> None:
    by_hand = f"accepted: the file, fetched elsewhere and put at {path}, where it is checked in the same way"
    address = without_password(asset.url)
    request = urllib.request.Request(asset.url, headers={"User-Agent": AGENT})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, open(temporary, "wb") as file:
            if answer.headers.get_content_type() == "text/html":
                raise ValueError(f"{address}: answered with a web page instead of the file; {by_hand}")
            length = answer.headers.get("Content-Length") or ""
            if length and not re.fullmatch("[0-9]{1,18}", length):
                raise ValueError(f"{address}: answered with a length of {length[:80]!r} bytes; {by_hand}")
            total = int(length) if length else asset.size
            progress = Progress(f"fetch {asset.name}", total or 0, unit="bytes")
            last = time.monotonic()
            while block := answer.read(BLOCK):
                file.write(block)
                if asset.size and file.tell() > asset.size:
                    most = f"the {asset.size} bytes that config/assets.csv says"
                    raise ValueError(f"{address}: more than {most}; {by_hand}")
                if total:
                    progress.update(len(block))
                elif time.monotonic() - last > progress.every:
                    last = time.monotonic()
                    print(f"fetch {asset.name}: {file.tell()} bytes", flush=True)
            if length and file.tell() != int(length):
                raise ValueError(
                    f"{address}: ended after {file.tell()} of {length} bytes; run the command again, or {by_hand}"
                )
    except (OSError, HTTPException) as error:  # URLError and timeouts are OSErrors
        raise ValueError(f"{address}: cannot be fetched ({error}); {by_hand}") from None


def compare(file: Path, name: str, path: Path) -> None:
    """Refuse a local file that is imported under the name of a published one and is another file.

    Raises:
        ValueError: the table has a checksum for the name, and the file has another.
    """
    asset = table(path).get(name)
    if asset is None or not asset.sha256:
        return
    if (digest := sha256(file)) != asset.sha256:
        raise ValueError(
            f"{file}: sha256 {digest}; {name} in {path} has {asset.sha256}: another file; accepted: that one, or "
            "another name (--as)"
        )


def _check(asset: Asset, file: Path, folder: Path, path: Path | None = None) -> str:
    """Compare a file with the table or the lock; without a checksum in either, lock it. Returns the checksum.

    `path` is the final place of a file that is still at a temporary one.
    """
    path = path or file
    size = file.stat().st_size
    if asset.size is not None and size != asset.size:
        raise ValueError(f"{path}: {size} bytes; config/assets.csv says {asset.size}; delete it and fetch it again")
    digest, locks = sha256(file), folder / "lock.json"
    if asset.sha256:
        if digest != asset.sha256:
            raise ValueError(f"{path}: sha256 {digest}; accepted: {asset.sha256} (config/assets.csv: {asset.source})")
        return digest
    with lock(folder):
        known = read(locks, LockedFiles).root if locks.exists() else {}
        if asset.name not in known:
            locked = LockedFile(sha256=digest, size=size, url=asset.url)
            write(locks, LockedFiles({**known, asset.name: locked}))
            print(f"{path}: nobody published its sha256; {digest} is locked in {locks}", flush=True)
        elif known[asset.name].sha256 != digest:
            raise ValueError(
                f"{path}: sha256 {digest}; at the first fetch it was {known[asset.name].sha256} ({locks}). If the "
                f"authors replaced the file on purpose, remove {asset.name} from {locks}"
            )
    return digest


# Published networks whose features judge images: name of the extractor, and of its file in config/assets.csv.
LPIPS = ("vgg16", "lpips-vgg16")  # the two files of LPIPS
WEIGHTS = {"inception": "inception", "clean": "inception", "dinov2": "dinov2-vitl14"}
