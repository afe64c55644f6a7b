"""idx files, the format of MNIST and its relatives: how they are found, read and identified by checksum.

Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747; MIT) needs no path in the study: 60,000 photographs to
train on and 10,000 held out, 28 x 28 grey values, ten classes.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import shutil
import subprocess
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mar.data import published
from mar.runtime.files import a_file

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# SHA-256 of the content of the four files of Fashion-MNIST; gzip of the same content differs between packers.
FASHION_SHA256 = {
    "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"  # Debian's, in its main archive since 2020
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # folder in which the package installs its files
KINDS = {"images": ("idx3", 3), "labels": ("idx1", 1)}  # part of the file name, number of dimensions
LARGEST = 1 << 32  # most bytes of an unpacked file; the largest relative of MNIST, EMNIST by class, has 0.55e9


@dataclass(frozen=True)
class Labelled:
    """One split.

    Attributes:
        images: grey values, uint8 (N, h, w).
        labels: classes, uint8 (N,).
        sha256: checksum of the content of both files.
    """

    images: np.ndarray
    labels: np.ndarray
    sha256: str


def read(path: Path, dimensions: int) -> tuple[np.ndarray, str]:
    """The values of an idx file of bytes, plain or gzipped, and the SHA-256 of its unpacked content.

    The format: two zero bytes, the type (8 for bytes), the number of dimensions, each size as four big-endian bytes,
    then the values.

    Args:
        path: the file.
        dimensions: number of dimensions that it must have.

    Raises:
        ValueError: the file cannot be read, is no idx file of bytes with so many dimensions, or has more or fewer
            values than its sizes say.
    """
    try:
        with open(a_file(path), "rb") as plain:
            gzipped = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if gzipped else open(path, "rb") as file:
            content = file.read(start := 4 + 4 * dimensions)
            sizes = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
            content += file.read(min(math.prod(sizes), LARGEST) + 1)  # a packed file may be far larger than it looks
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); accepted: an idx file, or one packed by gzip") from None
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < start:
        raise ValueError(
            f"{path}: begins with {content[:4].hex()}; accepted: an idx file of bytes with {dimensions} dimensions, "
            f"{bytes((0, 0, 8, dimensions)).hex()}"
        )
    if len(content) - start != math.prod(sizes):
        found = f"more than {math.prod(sizes)}" if len(content) - start > math.prod(sizes) else len(content) - start
        raise ValueError(f"{path}: holds {found} values after sizes {sizes}; accepted: {math.prod(sizes)}")
    values = np.frombuffer(content, np.uint8, offset=start).reshape(sizes)
    return values, hashlib.sha256(content).hexdigest()


def load(folder: Path) -> dict[str, Labelled]:
    """The splits in a folder of idx files with their usual names: train, and heldout if there is a test set.

    A prefix is accepted, as in emnist-letters-train-images-idx3-ubyte.gz; the test set is called t10k or test.

    Raises:
        ValueError: a file is missing, damaged, or present under two names, or the numbers of images and labels differ.
    """
    if not folder.is_dir():
        raise ValueError(
            f"data.path {folder}: no such folder; accepted: a folder with train-images-idx3-ubyte[.gz] ..."
        )
    splits = {"train": _split(folder, ("train",)), "heldout": _split(folder, ("t10k", "test"))}
    if splits["train"] is None:
        raise ValueError(f"data.path {folder}: found no *train-images-idx3-ubyte[.gz]; accepted: it and its labels")
    return {name: split for name, split in splits.items() if split is not None}


def _split(folder: Path, names: tuple[str, ...]) -> Labelled | None:
    """The split whose files have one of these names, or None if there are no such files."""
    files: dict[str, Path] = {}
    for kind, (idx, _) in KINDS.items():
        paths = sorted(p for n in names for end in ("", ".gz") for p in folder.glob(f"*{n}-{kind}-{idx}-ubyte{end}"))
        if len(paths) > 1:
            raise ValueError(f"data.path {folder}: found {', '.join(p.name for p in paths)}; accepted: one of them")
        if paths:
            files[kind] = paths[0]
    if not files:
        return None
    if missing := [kind for kind in KINDS if kind not in files]:
        raise ValueError(f"data.path {folder}: {next(iter(files.values())).name} is there without its {missing[0]}")
    (images, images_sha256), (labels, labels_sha256) = (
        read(files[kind], dimensions) for kind, (_, dimensions) in KINDS.items()
    )
    if len(images) != len(labels):
        raise ValueError(
            f"{files['labels']}: {len(labels)} labels; accepted: {len(images)}, as {files['images'].name} has images"
        )
    return Labelled(images, labels, hashlib.sha256((images_sha256 + labels_sha256).encode()).hexdigest())


def fashion_mnist(path: Path | None, assets: Path) -> dict[str, Labelled]:
    """Fashion-MNIST from the first source that has it.

    The sources are `path`; Debian's package where it is installed; files that were downloaded before; Debian's package,
    downloaded with apt-get and unpacked without root rights; the published files, downloaded.

    Args:
        path: data.path of the study, or None.
        assets: results/assets, where downloads are stored.

    Raises:
        ValueError: no source has it, or its content is not the published one.
    """
    downloaded = assets / "downloads" / "fashion-mnist"
    if path is not None:
        return _checked(path)
    for folder in (DEBIAN, downloaded):
        if folder.is_dir() and any(folder.iterdir()):
            return _checked(folder)
    try:
        _fetch_package(downloaded)
    except ValueError as error:
        try:
            for name in FASHION_SHA256:
                asset = published.find(f"fashion-mnist-{name}", published.TABLE)
                file = published.fetch(asset, assets)
                downloaded.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, downloaded / f"{name}-{KINDS[name.split('-')[1]][0]}-ubyte.gz")
        except ValueError as other:
            shutil.rmtree(downloaded, ignore_errors=True)
            raise ValueError(
                f"Fashion-MNIST is not on this machine and cannot be fetched: {error}; {other}. Accepted: Debian's "
                f"package {PACKAGE}, or the four published files in a folder that data.path names"
            ) from None
    return _checked(downloaded)


def _checked(folder: Path) -> dict[str, Labelled]:
    """The splits in a folder; raises ValueError unless they are Fashion-MNIST as published."""
    splits = load(folder)
    published_sha256 = {
        "train": hashlib.sha256((FASHION_SHA256["train-images"] + FASHION_SHA256["train-labels"]).encode()).hexdigest(),
        "heldout": hashlib.sha256((FASHION_SHA256["t10k-images"] + FASHION_SHA256["t10k-labels"]).encode()).hexdigest(),
    }
    for name, digest in published_sha256.items():
        if name not in splits or splits[name].sha256 != digest:
            fault = "is missing" if name not in splits else "is another set"
            raise ValueError(
                f"{folder}: its {name} split {fault}; accepted: Fashion-MNIST as published (kind: idx takes any other)"
            )
    return splits


def _fetch_package(folder: Path) -> None:
    """Download Debian's package and unpack its files into a folder; raises ValueError where that is impossible."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise ValueError("no apt-get here")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetched = subprocess.run(["apt-get", "download", PACKAGE], cwd=scratch, capture_output=True, text=True)
        packages = list(Path(scratch).glob(f"{PACKAGE}_*.deb"))
        if fetched.returncode or not packages:
            last = (fetched.stderr.strip().splitlines() or ["apt-get download found nothing"])[-1]
            raise ValueError(f"apt-get download {PACKAGE}: {last}")
        subprocess.run(["dpkg-deb", "-x", packages[0].name, "x"], cwd=scratch, check=True)
        unpacked = Path(scratch, "x", *DEBIAN.parts[1:])
        shutil.move(unpacked, folder)
    print(f"{folder}: from Debian's {packages[0].name}", flush=True)
