"""Whether a study's classifier sees what is wrong with images: FID of distorted real ones, by both kinds of features.

    python benchmarks/judge.py results/fashion/study.json

Three ladders of distortions of held-out images, each compared with other real images: blur (standard deviation in
pixels), two patches of an image exchanged (share of the images), fewer grey levels. A judge that is good enough tells
each rung from the one before it: the interval of FID begins above that of the rung before ends.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import click
import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from mar.data.images import ImageSet, open_split, to_float
from mar.features.networks import classifier
from mar.metrics import moments
from mar.metrics.bootstrap import Bootstrap
from mar.study.reading import load
from mar.study.records import FeatureSpread, Metric

LAYERS: tuple[Literal["before-logits"], Literal["stages"]] = ("before-logits", "stages")
LADDERS: dict[str, tuple[float, ...]] = {"blur": (0.4, 0.5, 0.75, 1.0), "patches": (0.1, 0.2, 0.4), "grey": (5, 4)}
GRID = 4  # an image has GRID x GRID patches
COUNT, REAL = 5_000, 10_000  # distorted images, and real images that they are compared with, at most
RESAMPLES = 200


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    """Images, uint8 (N, H, W, 3), blurred by a Gaussian of `sigma` pixels."""
    return np.rint(gaussian_filter(images.astype(np.float32), (0, sigma, sigma, 0))).astype(np.uint8)


def patches(images: np.ndarray, share: float) -> np.ndarray:
    """Images, uint8 (N, H, W, 3), of which a share has two of its GRID x GRID patches exchanged."""
    images, rng, side = images.copy(), np.random.default_rng(1), images.shape[1] // GRID
    for i in np.flatnonzero(rng.random(len(images)) < share):
        first, second = (
            np.s_[i, row * side : (row + 1) * side, column * side : (column + 1) * side]
            for row, column in (divmod(int(patch), GRID) for patch in rng.choice(GRID**2, 2, replace=False))
        )
        images[first], images[second] = images[second].copy(), images[first].copy()
    return images


def grey(images: np.ndarray, levels: float) -> np.ndarray:
    """Images, uint8 (N, H, W, 3), with as many values of a pixel as `levels` says."""
    return np.rint(np.rint(images / 255.0 * (levels - 1)) / (levels - 1) * 255.0).astype(np.uint8)


DISTORTIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {"blur": blur, "patches": patches, "grey": grey}


def climb(
    network: classifier.Classifier,
    real: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    ladders: Mapping[str, Sequence[float]],
) -> tuple[dict[tuple[str, str], list[Metric]], dict[str, FeatureSpread]]:
    """FID at each rung of each ladder, the undistorted images first, and how the features of the real images spread.

    Args:
        network: the classifier; which of its features judge is set here.
        real: images that are compared with, uint8 (M, H, W, 3).
        images: images that are distorted, uint8 (N, H, W, 3).
        labels: their classes, (N,).
        ladders: the rungs of each of DISTORTIONS.

    Returns:
        FIDs by layer and distortion; spreads by layer.
    """
    draw, target = Bootstrap(labels, RESAMPLES, 0), {k: moments.of(x) for k, x in _features(network, real).items()}

    def fid(distorted: np.ndarray) -> dict[str, Metric]:
        return {layer: draw.fid(x, target[layer]) for layer, x in _features(network, distorted).items()}

    clean = fid(images)
    found: dict[tuple[str, str], list[Metric]] = {(layer, name): [clean[layer]] for name in ladders for layer in LAYERS}
    for name, rungs in ladders.items():
        for rung in rungs:
            for layer, metric in fid(DISTORTIONS[name](images, rung)).items():
                found[layer, name].append(metric)
    return found, {layer: moments.spread(statistics) for layer, statistics in target.items()}


def rises(metrics: Sequence[Metric]) -> bool:
    """Whether each FID is above the one before it beyond the intervals of both."""
    return all(after.low > before.high for before, after in itertools.pairwise(metrics))


@torch.no_grad()
def _features(network: classifier.Classifier, images: np.ndarray) -> dict[str, np.ndarray]:
    """Features (N, F) of images, uint8 (N, H, W, 3), by layer."""
    found: dict[str, list[torch.Tensor]] = {layer: [] for layer in LAYERS}
    for start in range(0, len(images), 250):
        batch = to_float(torch.from_numpy(images[start : start + 250]).permute(0, 3, 1, 2).contiguous())
        for layer in LAYERS:
            network.layer = layer
            found[layer].append(network(batch)[0])
    return {layer: torch.cat(parts).numpy() for layer, parts in found.items()}


def some(images: ImageSet, count: int) -> np.ndarray:
    """At most `count` images at random, ascending indices (n,)."""
    return np.sort(np.random.default_rng(0).permutation(len(images))[:count])


@click.command()
@click.argument("study_file", metavar="results/<study>/study.json", type=click.Path(exists=True, path_type=Path))
def main(study_file: Path) -> None:
    """Print FID at each rung, by both layers of the classifier that a study has trained."""
    study, root = load(study_file), study_file.parent
    network, train, heldout = classifier.load(root, study), *(open_split(study, root, s) for s in ("train", "heldout"))
    rows = some(heldout, COUNT)
    found, spreads = climb(
        network, train.arrays(some(train, REAL)), heldout.arrays(rows), heldout.labels[rows], LADDERS
    )
    for layer, spread in spreads.items():
        print(f"{layer}: {spread.features} features, effective dimension {spread.effective:.1f}, {spread.dead} dead")
    print(f"\n| {len(rows)} images | " + " | ".join(LAYERS) + " |\n|---|---|---|")
    for name, rungs in LADDERS.items():
        for number, rung in enumerate(("none", *rungs)):
            cells = [found[layer, name][number] for layer in LAYERS]
            print(
                f"| {name} {rung} | " + " | ".join(f"{m.value:.3g} [{m.low:.3g}, {m.high:.3g}]" for m in cells) + " |"
            )
        told = ("yes" if rises(found[layer, name]) else "no" for layer in LAYERS)
        print(f"| {name}: each rung told from the one before | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
