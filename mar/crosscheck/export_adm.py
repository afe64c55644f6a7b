"""`mar export-adm`: a set of generated images as the .npz that the evaluator of the ADM suite reads.

ADM's Inception score takes consecutive splits of 5,000 images in file order, so that a file sorted by class scores
about 62 where the same images shuffled score 298 (openai/guided-diffusion#165). The images are therefore written in a
random order, drawn from a seed that is written into the file.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from mar.features.image_sets import Images, sha256_of_labels
from mar.runtime.files import atomic, sha256
from mar.runtime.progress import Progress

SEED = 0  # seed of the order of images in the file


def export(images: Images, out: Path, seed: int = SEED) -> None:
    """Write a set of generated images for ADM's evaluator; memory does not grow with their number.

    Members of the file:
        arr_0: the images, uint8 (N, H, W, 3).
        arr_1: the classes that the images were asked to show, int64 (N,), where they are known.
        arr_1_sha256: checksum of arr_1, where a record proves these classes, as in a sample set of `mar sample`.
        order: which image of the source stands at each place, int64 (N,).
        order_seed: the seed of the order.
        source: what the images were made from, as JSON with its checksum.
        role: "generated", by which the file is refused as a reference.

    Raises:
        ValueError: the images are real ones, differ in size, or `out` does not end in .npz.
    """
    if out.suffix != ".npz":
        raise ValueError(f"--out {out}: accepted: a name that ends in .npz")
    if images.role == "real":
        raise ValueError(f"{images.source}: holds real images; accepted: generated ones, which ADM's evaluator judges")
    order = shuffled(images.count, seed)
    with atomic(out) as temporary, _scratch(out) as pixels:
        shape = _scatter(images, order, pixels)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            with _member(archive, "arr_0") as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                pixels.seek(0)
                shutil.copyfileobj(pixels, member, 1 << 20)
            members: dict[str, Any] = {"order": order, "order_seed": seed, "source": images.identity.model_dump_json()}
            if images.labels is not None:
                members["arr_1"] = images.labels[order]
                if images.labels_checked:
                    members["arr_1_sha256"] = sha256_of_labels(images.labels[order])
            for name, value in (members | {"role": "generated"}).items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(member, np.asarray(value), allow_pickle=False)
    print(f"{out}: {shape[0]} images of {shape[1]} x {shape[2]} from {images.source}", flush=True)
    print(f"  in an order drawn from seed {seed} (members order, order_seed); sha256 {sha256(out)}", flush=True)


def shuffled(count: int, seed: int) -> np.ndarray:
    """Which image of the source stands at each place of the file, int64 (N,)."""
    return np.random.default_rng(seed).permutation(count)


def _scatter(images: Images, order: np.ndarray, pixels: IO[bytes]) -> tuple[int, ...]:
    """Write every image to its place in an unbuffered file; returns the shape of all images, (N, H, W, 3)."""
    places = np.empty_like(order)
    places[order] = np.arange(len(order))
    shape: tuple[int, ...] = ()
    done, progress = 0, Progress("export", len(order))
    for rows in images.pieces():
        shape = rows.shape[1:]
        for row in rows:
            pixels.seek(int(places[done]) * row.nbytes)
            pixels.write(row.tobytes())
            done += 1
        progress.update(len(rows))
    return (len(order), *shape)


@contextmanager
def _scratch(out: Path) -> Iterator[IO[bytes]]:
    """Yield a temporary file for the pixels beside `out`, which disappears however the command ends."""
    path = out.with_name(f".{out.name}.pixels.tmp")
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w+b", buffering=0) as file:
        path.unlink()  # the open file stays until it is closed, or its process dies
        yield file


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
    """Open a member under the name that np.savez gives it; its date is fixed, so that equal arrays give equal bytes."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        yield member
