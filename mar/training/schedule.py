"""The learning rate along a training."""

from __future__ import annotations

import math

from mar.study.parts import Recipe

FLAT = 0.05  # of a training with linear schedule: share before the rate falls (VAR)


def learning_rate(recipe: Recipe, images: int) -> float:
    """Rate of the step that starts after `images` images: linear warm-up from zero, then constant or a way down.

    Cosine: half of one, to zero. Linear: constant for FLAT of the rest, then down to the recipe's final rate (VAR).
    """
    if images < recipe.warmup_images:
        return recipe.learning_rate * images / recipe.warmup_images
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (images - recipe.warmup_images) / (recipe.images - recipe.warmup_images)
    if recipe.final_rate is not None:
        left = min(1.0, (1 - done) / (1 - FLAT))
        return recipe.learning_rate * (recipe.final_rate + (1 - recipe.final_rate) * left)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
