"""idx files, the format of MNIST and its relatives: read, known by the checksum of their content, found where they lie.

Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747; MIT) is the set that a study gets without a path: 60,000
photographs to train on and 10,000 held out, 28 x 28 grey values, ten classes.
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

FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# SHA-256 of the four files of Fashion-MNIST when they are unpacked: packers differ, the content does not.
FASHION_SHA256 = {
    "train-images": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
PACKAGE = "dataset-fashion-mnist"  # Debian's, in its main archive since 2020
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where the package puts its files
KINDS = {"images": ("idx3", 3), "labels": ("idx1", 1)}  # name in the file name, and dimensions
LARGEST = 1 << 32  # bytes of an unpacked file; MNIST's largest relative, EMNIST by class, has 0.55e9


@dataclass(frozen=True)
class Labelled:
    """Images of one split: grey values uint8 (N, h, w), labels uint8 (N,), and the checksum of both files' content."""

    images: np.ndarray
    labels: np.ndarray
    sha256: str


def read(path: Path, dimensions: int) -> tuple[np.ndarray, str]:
    """An idx file of bytes, packed by gzip or not, as an array, and the SHA-256 of its unpacked content.

    The format: two zero bytes, the type (8: bytes), the number of dimensions, each size as four bytes with the highest
    first, then the values.

    Raises:
        ValueError: it cannot be read, is no idx file of bytes with so many dimensions, or has more or fewer values than
            its sizes say.
    """
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read ({error}); accepted: an idx file, or one packed by gzip") from None
    start = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < start:
        raise ValueError(
            f"{path}: begins with {content[:4].hex()}; accepted: an idx file of bytes with {dimensions} dimensions, "
            f"{bytes((0, 0, 8, dimensions)).hex()}"
        )
    sizes = [int.from_bytes(content[i : i + 4]) for i in range(4, start, 4)]
    if len(content) - start != math.prod(sizes):
        raise ValueError(
            f"{path}: holds {len(content) - start} values after sizes {sizes}; accepted: {math.prod(sizes)}"
        )
    values = np.frombuffer(content, np.uint8, offset=start).reshape(sizes)
    return values, hashlib.sha256(content).hexdigest()


def load(folder: Path) -> dict[str, Labelled]:
    """The splits in a folder of idx files under their usual names: train, and heldout where there is a test set.

    A prefix is accepted, as in emnist-letters-train-images-idx3-ubyte.gz; the test set is called t10k or test.

    Raises:
        ValueError: a file is missing, there twice or damaged, or images and labels differ in number.
    """
    if not folder.is_dir():
        raise ValueError(
            f"data.path {folder}: no such folder; accepted: a folder with train-images-idx3-ubyte[.gz] ..."
        )
    found = {"train": _split(folder, ("train",)), "heldout": _split(folder, ("t10k", "test"))}
    if found["train"] is None:
        raise ValueError(f"data.path {folder}: found no *train-images-idx3-ubyte[.gz]; accepted: it and its labels")
    return {name: split for name, split in found.items() if split is not None}


def _split(folder: Path, names: tuple[str, ...]) -> Labelled | None:
    """One split by the names that its files may have; None where it has none."""
    files: dict[str, Path] = {}
    for kind, (idx, _) in KINDS.items():
        there = sorted(p for n in names for end in ("", ".gz") for p in folder.glob(f"*{n}-{kind}-{idx}-ubyte{end}"))
        if len(there) > 1:
            raise ValueError(f"data.path {folder}: found {', '.join(p.name for p in there)}; accepted: one of them")
        if there:
            files[kind] = there[0]
    if not files:
        return None
    if missing := [kind for kind in KINDS if kind not in files]:
        raise ValueError(f"data.path {folder}: {next(iter(files.values())).name} is there without its {missing[0]}")
    (images, a), (labels, b) = (read(files[kind], dimensions) for kind, (_, dimensions) in KINDS.items())
    if len(images) != len(labels):
        raise ValueError(
            f"{files['labels']}: {len(labels)} labels; accepted: {len(images)}, as {files['images'].name} has images"
        )
    return Labelled(images, labels, hashlib.sha256((a + b).encode()).hexdigest())


def fashion_mnist(path: Path | None, assets: Path) -> dict[str, Labelled]:
    """Fashion-MNIST from the first place that has it: `path`, Debian's package, the published files.

    Debian's package is taken where it is installed, else fetched with apt-get and unpacked, for which nobody needs to
    be root; then the published files are fetched.

    Args:
        path: of the study, or None.
        assets: results/assets, under which what is fetched is kept.

    Raises:
        ValueError: it is nowhere, or its content is not the published one.
    """
    kept = assets / "downloads" / "fashion-mnist"
    if path is not None:
        return _checked(path)
    for folder in (DEBIAN, kept):
        if folder.is_dir() and any(folder.iterdir()):
            return _checked(folder)
    try:
        _fetch_package(kept)
    except ValueError as error:
        try:
            for name in FASHION_SHA256:
                asset = published.find(f"fashion-mnist-{name}", published.TABLE)
                file = published.fetch(asset, assets)
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, kept / f"{name}-{KINDS[name.split('-')[1]][0]}-ubyte.gz")
        except ValueError as other:
            shutil.rmtree(kept, ignore_errors=True)
            raise ValueError(
                f"Fashion-MNIST is not on this machine and cannot be fetched: {error}; {other}. Accepted: Debian's "
                f"package {PACKAGE}, or the four published files in a folder that data.path names"
            ) from None
    return _checked(kept)


def _checked(folder: Path) -> dict[str, Labelled]:
    """Fashion-MNIST in a folder, if it is that."""
    splits = load(folder)
    wanted = {
        "train": hashlib.sha256((FASHION_SHA256["train-images"] + FASHION_SHA256["train-labels"]).encode()).hexdigest(),
        "heldout": hashlib.sha256((FASHION_SHA256["t10k-images"] + FASHION_SHA256["t10k-labels"]).encode()).hexdigest(),
    }
    for name, digest in wanted.items():
        if name not in splits or splits[name].sha256 != digest:
            what = "is missing" if name not in splits else "is another set"
            raise ValueError(
                f"{folder}: its {name} split {what}; accepted: Fashion-MNIST as published (kind: idx takes any other)"
            )
    return splits


def _fetch_package(folder: Path) -> None:
    """Fetch Debian's package and unpack its files into a folder; raises ValueError where that is not possible."""
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
