"""The generation loop: one for every backbone, order and head."""

from __future__ import annotations

import torch
from torch import Tensor

from mar.config import Sampling
from mar.models.model import Model
from mar.noise import Noise
from mar.order import guidance_at, schedule


@torch.no_grad()
def generate(model: Model, labels: Tensor, order: Tensor, blank: Tensor, settings: Sampling, noise: Noise) -> Tensor:
    """Draw the tokens of a batch of images.

    Args:
        model: a model in eval mode.
        labels: (B,) classes.
        order: (B, L) positions in generation order.
        blank: (L, D) zeros or (L,) zero ids: shape and dtype of one image's tokens.
        settings: steps, guidance, temperature and what else the head takes.
        noise: stream of this batch.

    Returns:
        (B, L, D) tokens or (B, L) ids.
    """
    batch, length = order.shape
    guided = settings.guidance != 1.0
    tokens = blank.expand(batch, *blank.shape).clone()
    both_labels = torch.cat([labels, torch.full_like(labels, -1)]) if guided else labels
    cache = model.backbone.start(len(both_labels)) if settings.kv_cache else None
    for start, stop in schedule(length, settings.steps):
        scale = guidance_at(settings.guidance, settings.guidance_schedule, stop, length)
        # The step's positions ascending: rows of the head are then in (image, position) order.
        step_order = torch.cat([order[:, :start], order[:, start:stop].sort(1).values, order[:, stop:]], 1)
        twice = 2 if guided else 1
        z = model.backbone.predict(
            tokens.repeat(twice, *[1] * (tokens.ndim - 1)), both_labels, step_order.repeat(twice, 1), start, stop, cache
        )
        z, z_null = (z[:batch], z[batch:].flatten(0, 1)) if guided else (z, None)
        drawn, _ = model.head.sample(z.flatten(0, 1), z_null, settings, scale, noise)
        where = step_order[:, start:stop]
        drawn = drawn.view(batch, stop - start, *blank.shape[1:]).to(tokens.dtype)
        tokens.scatter_(1, where if tokens.ndim == 2 else where[:, :, None].expand_as(drawn), drawn)
    return tokens
