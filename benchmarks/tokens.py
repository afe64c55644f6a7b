"""Random access to cached moments: token shards against one .npz an image, as the published caching code writes them.

An image is the moments (32, 16, 16) of a latent of 16x16x16 and of its mirror image, float32: 64 KB. A batch is 64
random images, each in one of its two views. There are 100,000 in shards and 5,000 as .npz files, which more of them
would not make faster. Cold: files are synced and dropped from the page cache (POSIX_FADV_DONTNEED) and each image is
read once; names and places of files stay known to the system, which helps .npz files. Page cache: all is in memory, but
this process sees each image for the first time. Again: as in every epoch after the first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.paired import paired
from benchmarks.tables import Pairs, Parts, Ratio, Row, Table
from mar.data.tokens import TokenSet
from mar.runtime.files import write
from mar.study.records import Piece, TokenManifest

IMAGES, SHARD, FILES = 100_000, 10_000, 5000
GROWTH = (1, 10)  # shards whose memory is compared
BATCH = 64
SHAPE = (2, 32, 16, 16)  # views, 2 C, h, w
MEMORY = """
import sys, torch; from pathlib import Path; from mar.data.tokens import TokenSet
tokens = TokenSet.open(sys.argv[1], verify=False)
for rows in torch.arange(len(tokens)).split(64): tokens.batch(rows, rows % 2)
print(*(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Rss")))
"""


def report() -> Parts:
    """Seconds of both, images a second, and the memory of a process that reads more and more data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "shards", IMAGES // SHARD)
        write_files(folder / "files")
        drop(folder)
        tokens, files = TokenSet.open(folder / "shards", verify=False), sorted((folder / "files").iterdir())
        before = read_from_disk()
        rows = [compare("cold", tokens, files, 384, 3)]
        read_megabytes = (read_from_disk() - before) / 1e6
        for path in folder.rglob("*.np[yz]"):
            path.read_bytes()
        rows.append(compare("page cache", tokens, files, 1280, 5))
        everything = torch.arange(IMAGES)
        for view in (0, 1):
            for some in everything.split(BATCH):
                tokens.batch(some, torch.full_like(some, view))
        rows.append(compare("page cache, again", tokens, files, 1280, 5))
        memory = [memory_of(folder / f"first{count}", folder / "shards", count) for count in GROWTH]
    held = Table(
        head=[
            "images",
            "on disk GB",
            "own memory of the process MB",
            "mapped pages MB, which the system may take back",
        ],
        form=[",.0f", ".2f", ".0f", ".0f"],
        rows=[
            [count * SHARD, count * SHARD * 65536 / 1e9, own, mapped]
            for count, (own, mapped) in zip(GROWTH, memory, strict=True)
        ],
    )
    return [Pairs(rows=rows), rates(rows), f"From the disk while cold: {read_megabytes:.0f} MB.", held]


def compare(state: str, tokens: TokenSet, files: list[Path], count: int, pairs: int) -> Row:
    """`count` images of either kind, other ones in every call."""
    ours, theirs = walk(len(tokens), count), walk(len(files), count)
    name = f"{count:,} images, {state}"
    return paired(name, lambda: read_files(files, next(theirs)), lambda: read(tokens, next(ours)), pairs)


def rates(rows: list[Row]) -> Table:
    """Images a second of the rows."""
    found = Table(
        head=["images a second", ".npz, CPU", "shards, CPU", ".npz, wall", "shards, wall"],
        form=["", *[",.0f"] * 4],
        rows=[],
    )
    for row in rows:
        count, state = row.name.split(" images, ", 1)
        seconds = (value for r in (Ratio.of(row.cpu), Ratio.of(row.wall)) for value in (r.baseline, r.ours))
        found.rows.append([state, *(int(count.replace(",", "")) / value for value in seconds)])
    return found


def memory_of(folder: Path, shards: Path, count: int) -> tuple[float, float]:
    """Megabytes of a process that has read every image of the first shards: its own, and of mapped files."""
    folder.mkdir()
    for path in sorted(shards.glob("shard-*"))[:count]:
        (folder / path.name).symlink_to(path)
    describe(folder, count)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, check=True, env=os.environ
    )
    own, mapped, _ = map(int, done.stdout.split())
    return own / 1e3, mapped / 1e3


def write_shards(folder: Path, count: int) -> None:
    """Token shards as `mar encode` writes them, of one block of random numbers again and again."""
    folder.mkdir()
    block = np.random.default_rng(0).standard_normal((1000, *SHAPE), dtype=np.float32)
    for number in range(count):
        out = np.lib.format.open_memmap(folder / f"shard-{number:05d}.npy", "w+", np.float32, (SHARD, *SHAPE))
        for start in range(0, SHARD, len(block)):
            out[start : start + len(block)] = block
    describe(folder, count)


def describe(folder: Path, count: int) -> None:
    """Labels and manifest of that many shards."""
    np.save(folder / "labels.npy", np.zeros(count * SHARD, np.int64))
    shards = (Piece(file=f"shard-{number:05d}.npy", count=SHARD, sha256="0" * 64) for number in range(count))
    manifest = TokenManifest(
        kind="moments",
        count=count * SHARD,
        classes=1,
        class_names=("a",),
        views=2,
        grid=16,
        tokens=256,
        group=1,
        tokenizer="0" * 64,
        data="0" * 64,
        token_dim=16,
        labels_sha256="0" * 64,
        shards=tuple(shards),
        scale=1.0,
    )
    write(folder / "manifest.json", manifest)


def write_files(folder: Path) -> None:
    """One .npz an image with its moments and those of its mirror image."""
    folder.mkdir()
    block = np.random.default_rng(1).standard_normal((100, *SHAPE), dtype=np.float32)
    for i in range(FILES):
        moments, mirrored = block[i % len(block)]
        np.savez(folder / f"{i:05d}.npz", moments=moments, moments_flip=mirrored)


def drop(folder: Path) -> None:
    """Leave nothing of these files in the page cache."""
    for path in folder.rglob("*.np[yz]"):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def walk(total: int, count: int) -> Iterator[np.ndarray]:
    """The next `count` of all images, shuffled; after the last the first again."""
    order, start = np.random.default_rng(2).permutation(total), 0
    while True:
        yield order.take(range(start, start + count), mode="wrap")
        start += count


def read(tokens: TokenSet, chosen: np.ndarray) -> None:
    """Images from shards in batches (64, 32, 16, 16), of either view."""
    for rows in torch.from_numpy(chosen).split(BATCH):
        tokens.batch(rows, rows % 2)


def read_files(files: list[Path], chosen: np.ndarray) -> None:
    """The same from .npz files, stacked as a loader stacks them."""
    for rows in torch.from_numpy(chosen).split(BATCH):
        torch.stack([read_file(files[i], bool(i % 2)) for i in rows.tolist()])


def read_file(path: Path, mirrored: bool) -> Tensor:
    """One view of one image."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["moments_flip" if mirrored else "moments"])


def read_from_disk() -> int:
    """Bytes that this process had read from a disk so far."""
    return int(Path("/proc/self/io").read_text(encoding="utf-8").split("\nread_bytes: ")[1].split()[0])
