"""The learning rate along a training."""

from __future__ import annotations

import math
from typing import assert_never

from mar.study.parts import Recipe

FLAT = 0.05  # share of a training after warm-up in which the linear schedule keeps its peak rate (VAR)


def learning_rate(recipe: Recipe, images: int) -> float:
    """Learning rate of the step that starts after `images` images: linear warm-up, then the schedule.

    constant: the peak rate. cosine: half a cosine from the peak down to zero. linear: the peak rate for the share FLAT
    of the images after warm-up, then linearly down to final_rate times the peak (VAR).
    """
    if images < recipe.warmup_images:
        start = recipe.warmup_from
        return recipe.learning_rate * (start + (1 - start) * images / recipe.warmup_images)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (images - recipe.warmup_images) / (recipe.images - recipe.warmup_images)
    match recipe.schedule:
        case "linear":
            assert recipe.final_rate is not None  # checked when the study was read
            height = min(1.0, (1 - done) / (1 - FLAT))  # 1 at the peak, 0 at the end
            return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * height)
        case "cosine":
            return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        case _:
            assert_never(recipe.schedule)
