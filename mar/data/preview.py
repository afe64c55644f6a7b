"""data/preview.png: some images of each class, as they were prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mar.data.images import ImageSet
from mar.runtime.files import atomic

CLASSES, IMAGES = 12, 12  # at most so many rows and columns
SIDE, GAP, LABEL = 64, 4, 14  # pixels: least side of an image, between images, height of the line above a row


def write(path: Path, images: ImageSet) -> None:
    """Write a sheet of the first classes, a row for each with its name, its number of images and the first of them.

    Args:
        path: the PNG.
        images: the train split.
    """
    shown = [label for label in range(len(images.classes)) if (images.labels == label).any()][:CLASSES]
    rows = [np.flatnonzero(images.labels == label) for label in shown]
    columns = min(IMAGES, max(map(len, rows)))
    first = [images.arrays(row[:columns]) for row in rows]  # each uint8 (n, S, S, 3)
    times = -(-SIDE // first[0].shape[1])  # small images are shown larger, pixel by pixel
    side = times * first[0].shape[1]
    sheet = Image.new("RGB", (GAP + columns * (side + GAP), len(rows) * (side + LABEL + GAP) + LABEL), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=LABEL - 3)
    for number, (label, row, pictures) in enumerate(zip(shown, rows, first, strict=True)):
        top = number * (side + LABEL + GAP)
        draw.text((GAP, top), f"{images.classes[label][:60]}: {len(row):,} to train on", "black", font)
        for column, picture in enumerate(pictures.repeat(times, axis=1).repeat(times, axis=2)):
            sheet.paste(Image.fromarray(picture), (GAP + column * (side + GAP), top + LABEL))
    if (more := len(images.classes) - len(rows)) > 0:
        draw.text((GAP, sheet.height - LABEL), f"and {more:,} more classes", "black", font)
    with atomic(path) as temporary:
        sheet.save(temporary, "PNG")
