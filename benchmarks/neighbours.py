"""What it costs to look for the nearest training image, against brute force in pixels and against drawing an image.

    python -m benchmarks.neighbours results/fashion/study.json [--draw mar-diffloss/seed0/mar-diff-4]

On the images of a study whose `prepare` has run: 500 held-out images are looked for among the training images by
`mar.features.neighbours` and by brute force (a matrix product of all pixels and the least distance), in turn, and the
answers must agree. Reading and projecting the training images, once a set, is timed apart. With the name of a set whose
training is finished, a chunk of it is drawn, so that the search can be set against what it judges.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import numpy as np
import torch

from benchmarks.paired import paired
from benchmarks.tables import Pairs
from mar.features import image_sets
from mar.features.features import name as set_name
from mar.features.neighbours import Searched
from mar.sampling.sampler import Sampler
from mar.study.reading import load
from mar.study.study import Study

COUNT, PAIRS = 500, 3


def brute(queries: torch.Tensor, images: torch.Tensor, squares: torch.Tensor) -> np.ndarray:
    """Index of the nearest of the images (M, D) to each query (N, D), given the squared lengths of the images (M,)."""
    found = []
    for rows in queries.split(100):
        products = torch.cat([rows @ part.T for part in images.split(10_000)], 1)  # (B, M)
        found.append((squares - 2.0 * products).argmin(1))
    return torch.cat(found).numpy()


def search(study: Study, root: Path) -> str:
    """The table of both ways, and the seconds of reading and projecting."""
    start = time.process_time()
    train = image_sets.of_split(study, root, "train")
    assert train.labels is not None  # the images of a split have classes
    images = torch.cat(list(train.batches()))
    read = time.process_time() - start
    searched = Searched(images, train.labels)
    projected = time.process_time() - start - read
    queries = torch.cat(list(image_sets.of_split(study, root, "heldout").batches()))[:COUNT]
    plain, asked = images.flatten(1).float(), queries.flatten(1).float()
    squares = plain.square().sum(1)
    distances, ours = searched.nearest(queries)
    theirs = brute(asked, plain, squares)
    apart = (plain[torch.from_numpy(theirs)] - asked).square().mean(1).sqrt().numpy() / 255.0
    if not np.allclose(distances, apart, rtol=1e-5, atol=1e-6):
        raise SystemExit(f"the answers differ: {np.abs(distances - apart).max():.3g}, {np.mean(ours != theirs):.1%}")
    name = f"{len(queries)} images among {len(images):,}"
    row = paired(name, lambda: brute(asked, plain, squares), lambda: searched.nearest(queries), PAIRS)
    once = f"Once a set: {read:.1f} CPU s to read the training images, {projected:.1f} to project them."
    return f"{Pairs(rows=[row]).markdown()}\n\n{once}"


def drawing(study: Study, root: Path, name: str) -> str:
    """CPU seconds of drawing the first chunk of a set, <variant>/seed<k>/<setting>, decoder included."""
    variant, seed, setting = set_name(study, name)
    sampler = Sampler(study, root, variant, seed)
    start = time.process_time()
    count = len(sampler.chunk(setting, 0)[0])
    seconds = (time.process_time() - start) * COUNT / count
    return f"Drawing {COUNT} images of {name}: {seconds:.1f} CPU s."


@click.command()
@click.argument("study", type=click.Path(exists=True, path_type=Path))
@click.option("--draw", help="a set: VARIANT/seedK/SETTING")
def main(study: Path, draw: str | None) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(search(load(study), study.parent))
    if draw:
        print(drawing(load(study), study.parent, draw))


if __name__ == "__main__":
    main()
