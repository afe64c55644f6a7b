"""Features of the masked backbone that are kept from one autoregressive step to the next: fast, and not exact.

After Yan et al. 2025 (LazyMAR, arXiv:2503.12450), in a simpler form:

- *Condition cache.* What the class adds to z, z - z_null, changes slowly. Every n-th step computes it for all tokens
  that are unknown; in between the null condition is z less what was added then, and its branch is not computed.
- *Token cache.* Keys and values of a token change slowly. Every n-th step computes all tokens; in between only those
  that the step before has drawn and those that are predicted, which attend to the kept keys and values of the others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mar.models.blocks import KVCache, gather
from mar.study.parts import Sampling


class Reuse:
    """Conditions of one batch, step after step; the positions of a step keep their place in `order` after it."""

    def __init__(self, backbone: Any, labels: Tensor, settings: Sampling) -> None:
        self.backbone, self.labels = backbone, labels  # of kind Masked, (B,)
        self.guided = settings.guidance != 1.0
        self.tokens_every, self.condition_every = settings.token_cache, settings.condition_cache
        self.kept = Kept(backbone) if settings.token_cache else None
        self.step = 0
        self.added: Tensor  # (B, L, W) z - z_null by position, of the last step that computed both

    def predict(self, tokens: Tensor, order: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """z and, guided, z_null of the tokens at `order[:, start:stop]`, (B, n, W) each.

        Args:
            tokens: (B, L, D) vectors or (B, L) ids; those at `order[:, :start]` are read.
            order: (B, L) positions in generation order.
            start: tokens known.
            stop: tokens known after this step.
        """
        due = self.condition_every is None or self.step % self.condition_every == 0
        refresh = self.tokens_every is None or self.step % self.tokens_every == 0
        self.step += 1
        if not self.guided:
            return self._z(tokens, self.labels, order, start, stop, refresh), None
        if not due:
            z = self._z(tokens, self.labels, order, start, stop, refresh)
            return z, z - gather(self.added, order[:, start:stop])
        end = stop if self.condition_every is None else order.shape[1]
        both = torch.cat([self.labels, torch.full_like(self.labels, -1)])
        twice = tokens.repeat(2, *[1] * (tokens.ndim - 1)), both, order.repeat(2, 1)
        z, z_null = self._z(*twice, start, end, refresh).chunk(2)
        if self.condition_every is not None:
            where = order[:, start:end, None].expand_as(z)
            self.added = z.new_zeros(*order.shape, z.shape[2]).scatter(1, where, z - z_null)
            if self.kept is not None:
                self.kept.forget_rows(len(tokens))
        return z[:, : stop - start], z_null[:, : stop - start]

    def _z(self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, refresh: bool) -> Tensor:
        if self.kept is None:
            return self.backbone.predict(tokens, labels, order, start, stop)
        return self.kept.predict(tokens, labels, order, start, stop, refresh)


class Kept:
    """Keys and values of encoder and decoder. The place of a token is that in the order, behind the buffer."""

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone  # of kind Masked
        self.encoder: KVCache
        self.decoder: KVCache
        self.known = 0  # tokens that the last step knew

    def predict(self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, refresh: bool) -> Tensor:
        """z (B, n, W) of the tokens at `order[:, start:stop]`; `refresh`: from all tokens, else from the new ones."""
        m = self.backbone
        if refresh:
            heads, width = m.encoder_blocks[0].attn.heads, m.encoder_norm.weight.shape[0]
            slots = m.buffer + m.tokens
            self.encoder, self.decoder = (
                KVCache(len(blocks), len(tokens), heads, slots, width // heads, m.encoder_norm.weight, whole)
                for blocks, whole in ((m.encoder_blocks, False), (m.decoder_blocks, True))
            )
            encoded = self._encode(tokens, labels, order, 0, start)
            z = self._decode(encoded, order, 0, start, m.tokens)[:, start:stop]
        else:
            encoded = self._encode(tokens, labels, order, self.known, start)
            z = self._decode(encoded, order, self.known, start, stop)[:, start - self.known :]
        self.known = start
        return z

    def forget_rows(self, rows: int) -> None:
        """Keep the first rows alone."""
        for cache in (self.encoder, self.decoder):
            cache.keys, cache.values = cache.keys[:, :rows], cache.values[:, :rows]

    def _encode(self, tokens: Tensor, labels: Tensor, order: Tensor, begin: int, end: int) -> Tensor:
        """Encoder on the tokens at `order[:, begin:end]`, behind the buffer where `begin` is 0."""
        m = self.backbone
        x = m.embed(tokens, labels, order[:, begin:end], buffer=begin == 0)
        self.encoder.length = 0 if begin == 0 else m.buffer + begin
        for i, block in enumerate(m.encoder_blocks):
            x = block(x, cache=self.encoder, block=i)
        return m.encoder_norm(x)

    def _decode(self, encoded: Tensor, order: Tensor, begin: int, known: int, end: int) -> Tensor:
        """z of the tokens at `order[:, begin:end]`, of which those before `known` are `encoded`, the others masked."""
        m, positions = self.backbone, order[:, begin:end]
        table = m.decoder_pos_embed_learned.expand(len(order), -1, -1)
        x = m.decoder_embed(encoded)
        x = torch.cat([x, m.mask_token.to(x.dtype).expand(len(x), end - known, -1)], dim=1)
        places = gather(table, positions + m.buffer)
        buffer = m.buffer if begin == 0 else 0
        x = x + torch.cat([table[:, :buffer], places], dim=1)
        self.decoder.length = 0 if begin == 0 else m.buffer + begin
        for i, block in enumerate(m.decoder_blocks):
            x = block(x, cache=self.decoder, block=i)
        x = m.decoder_norm(x[:, buffer:])
        return x + gather(m.diffusion_pos_embed_learned.expand(len(order), -1, -1), positions)
