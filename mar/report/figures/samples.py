"""The figure of samples, and the grids that it is made of."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mar.features.image_sets import chunk_of, labels_of
from mar.report.figures.style import SMALL, WIDTH, Rows, columns
from mar.runtime.files import read
from mar.runtime.text import printable
from mar.study import labels, layout
from mar.study.records import DataManifest, SampleManifest
from mar.study.study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


COLUMNS, CLASSES, SIDE = 8, 10, 64  # a grid: images per class, largest number of classes, largest side in pixels
ACROSS, LETTERS = 5, 105  # grids in a row, at most; letters of a title across the page


def samples(study: Study, root: Path) -> tuple[Figure, Rows]:
    """One grid of samples per trained variant, one row per class, beside held-out real images."""
    from matplotlib.figure import Figure

    names = [printable(name) for name in read(layout.data_manifest(root), DataManifest).classes[:CLASSES]]
    images, classes = real(study, root, len(names))
    blocks, rows = [("real, held out", grid(images, classes, len(names)))], []
    for variant, v in study.variants.items():
        if not v.seeds:
            continue
        setting = study.shown_setting(variant)
        block, chosen = sample_grid(root, variant, v.seeds[0], setting, len(names))
        title = f"{labels.label(study, variant)}\n{labels.setting(study, variant, setting)}, seed {v.seeds[0]}"
        blocks.append((title, block))
        for row, column, index in chosen:
            line = {"variant": variant, "seed": v.seeds[0], "setting": setting, "class": names[row]}
            rows.append(line | {"column": column, "image": index})
    across = columns(len(blocks), ACROSS)
    down = -(-len(blocks) // across)
    titles = [
        "\n".join(textwrap.fill(line, LETTERS // across, break_on_hyphens=False) for line in text.split("\n"))
        for text, _ in blocks
    ]
    height = WIDTH / across * len(names) / COLUMNS + 0.12 * (1 + max(text.count("\n") for text in titles)) + 0.1
    figure = Figure(figsize=(WIDTH, height * down), layout="constrained")
    for i, (title, (_, block)) in enumerate(zip(titles, blocks, strict=True)):
        axes: Axes = figure.add_subplot(down, across, i + 1)
        axes.imshow(block, interpolation="antialiased")
        side = block.shape[0] / len(names)
        axes.set_yticks(
            [(row + 0.5) * side for row in range(len(names))], names if i % across == 0 else [""] * len(names)
        )
        axes.set_xticks([])
        axes.tick_params(length=0, labelsize=SMALL)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=SMALL)
    return figure, rows


def sample_grid(
    root: Path, variant: str, seed: int, setting: str, classes: int
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Grid of the first images of each class of a sample set, and (row, column, image index) of each image shown.

    Raises:
        ValueError: the samples are missing or damaged.
    """
    folder = layout.samples(root, layout.sample_set(variant, seed, setting))
    manifest = read(folder / layout.MANIFEST, SampleManifest)
    asked = labels_of(folder, manifest)
    of_class = [np.flatnonzero(asked == c)[:COLUMNS] for c in range(classes)]
    start, images = 0, {}
    for chunk in manifest.chunks:
        pixels = chunk_of(folder, chunk, mapped=True)  # (n, H, W, 3); only the pages of the shown images are read
        for index in np.concatenate(of_class):
            if start <= index < start + chunk.count:
                images[int(index)] = np.asarray(pixels[index - start])
        start += chunk.count
    chosen = [(row, column, int(i)) for row, indices in enumerate(of_class) for column, i in enumerate(indices)]
    pictures = np.stack([images[i] for _, _, i in chosen])
    return grid(pictures, np.array([row for row, _, _ in chosen]), classes), chosen


def grid(images: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Images (N, H, W, 3) uint8 as one picture: a row per class of COLUMNS images, white where it has fewer."""
    from PIL import Image

    side = min(images.shape[1], SIDE)
    picture = np.full((classes * (side + 1), COLUMNS * (side + 1), 3), 255, np.uint8)
    for row in range(classes):
        for column, image in enumerate(images[labels == row][:COLUMNS]):
            if image.shape[0] != side:
                image = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))
            top, left = row * (side + 1), column * (side + 1)
            picture[top : top + side, left : left + side] = image
    return picture


def real(study: Study, root: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The first held-out images of each class, (N, H, W, 3) uint8, and their labels."""
    from mar.data.images import open_split

    held = open_split(study, root, "heldout")
    chosen = np.concatenate([np.flatnonzero(held.labels == c)[:COLUMNS] for c in range(classes)])
    return held.arrays(chosen), held.labels[chosen]
