"""The generation loop: one for every backbone, order and head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mar.models.blocks import KVCache, full_precision
from mar.models.heads.head import check_drawn
from mar.models.model import Backbone, Model
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.order import by_confidence, by_scale, checkerboard, guidance_at, guidance_at_scale, kept_first, schedule
from mar.runtime.noise import Noise
from mar.runtime.precision import autocast
from mar.sampling.token_cache import Reuse
from mar.study.parts import Sampling

if TYPE_CHECKING:  # diffusers takes seconds to import and only DiT needs it
    from mar.models.dit import DiT


@torch.no_grad()
def generate(
    model: Model | DiT,
    labels: Tensor,
    order: Tensor,
    blank: Tensor,
    settings: Sampling,
    noise: Noise,
    kept: Kept | None = None,
) -> Tensor:
    """Draw the tokens of a batch of images: in each step the positions that the order has next, given those before.

    Args:
        model: a model in eval mode.
        labels: classes, (B,).
        order: positions in generation order, (B, L). With order `confidence` any order will do, since the drawn ids
            decide which position is generated when.
        blank: zeros of the shape and dtype of one image's tokens: vectors (L, D), or ids (L,).
        settings: steps, guidance, temperature and what else the head takes.
        noise: stream of random numbers of this batch.
        kept: tokens that stay as they are; only the others are drawn.

    Returns:
        Tokens (B, L, D) or ids (B, L); with `more_smooth` mixtures of codes (B, L, C) in the place of ids.
    """
    if model.joint:  # DiT draws all tokens together: no order and no autoregressive steps
        return model.sample(labels, settings, noise)
    batch, length = order.shape
    guided = settings.guidance != 1.0
    smooth: Any = model if settings.more_smooth else None  # a scales backbone with a categorical head
    if smooth:
        blank = torch.zeros_like(smooth.backbone.z_proj.codes(blank))  # (L, C)
        kept = kept and replace(kept, tokens=smooth.backbone.z_proj.codes(kept.tokens))
    tokens = blank.expand(batch, *blank.shape).clone()
    precision: Callable[[], Any] = nullcontext
    if settings.head_dtype not in (None, settings.dtype):
        precision = partial(autocast, tokens.device, settings.head_dtype)
    cache = model.backbone.start(2 * batch if guided else batch) if settings.kv_cache else None
    reuse = Reuse(model.backbone, labels, settings) if settings.token_cache or settings.condition_cache else None
    if settings.order == "checkerboard":
        order = checkerboard(order)
    known = 0  # tokens in front of the order that are not drawn
    if kept is not None:
        tokens = kept.put(tokens)
        if kept.first:
            order = kept_first(order, kept.mask)
            # A causal backbone walks through them, so that its cache has them.
            known = int(kept.mask.sum()) if model.backbone.bidirectional else 0
    if known == length:
        return tokens
    sizes = model.backbone.sizes
    count = min(settings.steps, length - known)  # at least a token a step
    late = settings.late_steps if count == settings.steps else None
    steps = list(by_scale(sizes) if sizes else schedule(length - known, count, late))
    for k, (start, stop) in enumerate((known + start, known + stop) for start, stop in steps):
        if sizes:
            scale = guidance_at_scale(settings.guidance, settings.guidance_schedule, k, len(sizes))
        else:
            scale = guidance_at(settings.guidance, settings.guidance_schedule, stop, length)
        # Order `confidence` predicts all unknown tokens and keeps the surest; other orders predict only what they keep.
        end = length if settings.order == "confidence" else stop
        # Positions are sorted so that the rows of the head are in (image, position) order.
        where = order[:, start:end].sort(1).values
        order = torch.cat([order[:, :start], where, order[:, end:]], 1)
        if reuse is not None:
            z, z_null = reuse.predict(tokens, order, start, end)
        else:
            z, z_null = conditions(model.backbone, tokens, labels, order, start, end, guided, cache)
        if settings.head_dtype == "fp32":  # without autocast its weights and what they multiply are of one type
            z, z_null = z.float(), z_null.float() if z_null is not None else None
        rows = z.flatten(0, 1), z_null.flatten(0, 1) if z_null is not None else None  # (B n, W)
        with precision():
            if smooth:
                weights = smooth.head.mixture(*rows, settings, scale, k / (len(sizes) - 1), noise)  # (B n, V)
                drawn, log_p = smooth.backbone.z_proj.mixed(weights), None
            else:
                drawn, log_p = model.head.sample(*rows, settings.at_step(k, len(steps)), scale, noise)
        check_drawn(model.head, drawn, (len(rows[0]), *blank.shape[1:]))
        drawn = drawn.view(batch, end - start, *blank.shape[1:]).to(tokens.dtype)
        if settings.confidence_noise is not None:
            assert log_p is not None  # only heads that say it have this order
            remaining = 1 - (k + 1) / settings.steps  # share of the steps
            surest = by_confidence(log_p.view(batch, -1), settings.confidence_noise, remaining, noise)
            order = torch.cat([order[:, :start], where.gather(1, surest)], 1)
            where, drawn = order[:, start:stop], drawn.gather(1, surest[:, : stop - start])
        tokens.scatter_(1, where if tokens.ndim == 2 else where[:, :, None].expand_as(drawn), drawn)
        if kept is not None:
            tokens = kept.given(tokens[:, :start], stop).put(tokens)
    return tokens


@dataclass(frozen=True)
class Kept:
    """Tokens of given images that stay: in-painting without training for it.

    Attributes:
        tokens: vectors (B, L, D) or ids (B, L) of the images.
        mask: bool (L,), true where the token stays, in all images alike.
        first: whether they come first in the order, so that all others are drawn knowing them. A model that is trained
            on one order alone meets them where they stand in it.
        latents: (B, C, h, w) of the images before the multi-scale quantiser, or None: `tokens` stay whatever is drawn.
            With them those of a scale are found when the scales before it are there, since they say what these leave.
        quantizer: the multi-scale quantiser of `latents`.
    """

    tokens: Tensor
    mask: Tensor
    first: bool
    latents: Tensor | None = None
    quantizer: MultiScaleQuantizer | None = None

    def of(self, images: slice) -> Kept:
        """The same of some of the images."""
        return replace(self, tokens=self.tokens[images], latents=None if self.latents is None else self.latents[images])

    def given(self, before: Tensor, stop: int) -> Kept:
        """With latents: the same with the tokens of the scale that ends at `stop` found after `before` (B, n)."""
        if self.latents is None or self.quantizer is None:
            return self
        with full_precision(before):
            ids = self.quantizer.given(self.latents, before)
        found = self.quantizer.codes(ids) if self.tokens.is_floating_point() else ids
        return replace(self, tokens=torch.cat([self.tokens[:, : before.shape[1]], found, self.tokens[:, stop:]], 1))

    def put(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L, D) or ids (B, L) with those that stay in their places."""
        mask = self.mask if tokens.ndim == 2 else self.mask[:, None]
        return torch.where(mask, self.tokens.to(tokens.dtype), tokens)


def conditions(
    backbone: Backbone,
    tokens: Tensor,
    labels: Tensor,
    order: Tensor,
    start: int,
    stop: int,
    guided: bool,
    cache: KVCache | None,
) -> tuple[Tensor, Tensor | None]:
    """The conditions z and, with guidance, z_null of the n tokens at `order[:, start:stop]`, (B, n, W) each."""
    if not guided:
        return backbone.predict(tokens, labels, order, start, stop, cache), None
    if start == 0 and backbone.bidirectional:
        return backbone.predict(tokens, labels, order, 0, stop), backbone.null_start(tokens, order, stop)
    twice = torch.cat([tokens, tokens]), torch.cat([labels, torch.full_like(labels, -1)]), torch.cat([order, order])
    z, z_null = backbone.predict(*twice, start, stop, cache).chunk(2)
    return z, z_null
