"""A few images of one class as a picture: `mar draw`."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mar.runtime.files import atomic
from mar.runtime.noise import Noise
from mar.runtime.text import printable
from mar.sampling.sampler import Sampler
from mar.study.chosen_settings import resolved
from mar.study.parts import Sampling
from mar.study.study import Study

ACROSS, GAP = 8, 2  # images in a row, at most; pixels between images


def draw(study: Study, root: Path, variant: str, seed: int, setting: str, label: int, count: int, out: Path) -> None:
    """Draw images of a class and write them as one PNG, in rows.

    Args:
        study: the study.
        root: its results folder.
        variant: a variant with a finished run of this seed.
        seed: training seed.
        setting: sampling setting.
        label: class of the images.
        count: number of images.
        out: the picture, a PNG.

    Raises:
        ValueError: there is no such class, the setting rejects images, or the run, its tokens or its tokenizer are
            missing or damaged.
    """
    settings = resolved(study, root, variant, setting)
    if settings.reject:
        raise ValueError(f"sampling.{setting}: reject; accepted: a setting that draws once")
    sampler = Sampler(study, root, variant, seed)
    drawn = images(sampler, settings, label, count)
    with atomic(out) as temporary:
        tiled(drawn).save(temporary, format="PNG")
    name = sampler.manifest.class_names[label]
    named = "" if name == str(label) else f" ({printable(name)})"
    print(f"{out}: {count} images of class {label}{named}, by {variant}, setting {setting}", flush=True)


def images(sampler: Sampler, settings: Sampling, label: int, count: int) -> np.ndarray:
    """Images of a class, uint8 (count, H, W, 3).

    The random numbers depend on the class and on the seed of the setting alone, so that the same weights draw the same
    images in every study.

    Args:
        sampler: model and tokenizer.
        settings: steps, guidance, temperature and what else the head takes.
        label: class of the images.
        count: number of images.

    Raises:
        ValueError: there is no such class.
    """
    if not 0 <= label < sampler.manifest.classes:
        raise ValueError(f"--class: found {label}; accepted: 0 to {sampler.manifest.classes - 1}")
    noise = Noise("draw", settings.seed, label, device=sampler.device)
    return sampler.draw(settings, torch.full((count,), label), noise).permute(0, 2, 3, 1).cpu().numpy()


def tiled(images: np.ndarray) -> Image.Image:
    """Images uint8 (N, H, W, 3) as one picture on white, in as equal rows as there are."""
    count, height, width, _ = images.shape
    rows = math.ceil(count / ACROSS)
    across = math.ceil(count / rows)
    picture = np.full((rows * (height + GAP) - GAP, across * (width + GAP) - GAP, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // across * (height + GAP), i % across * (width + GAP)
        picture[top : top + height, left : left + width] = image
    return Image.fromarray(picture)
