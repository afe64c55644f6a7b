"""Features of the masked backbone that are reused between autoregressive steps: faster, but an approximation.

This is a simpler form of LazyMAR (Yan et al. 2025, arXiv:2503.12450):

- *Condition cache.* The difference that the class makes to a token's condition, z - z_null, changes slowly from step to
  step. Every n-th step computes it for all unknown tokens. The steps in between compute z alone and take z_null to be z
  minus the stored difference, so that the null branch is not run.
- *Token cache.* The keys and values of a token change slowly too. Every n-th step computes those of all tokens. The
  steps in between compute only the tokens that the previous step has drawn and those that are predicted now; these
  attend to the stored keys and values of all others.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mar.models.blocks import KVCache, gather
from mar.study.parts import Sampling


class Reuse:
    """The conditions of one batch, step after step, by both caches or one of them.

    A position must keep its place in `order` from the step that predicts it on.

    Attributes:
        added: z - z_null of each position by the last step that computed both, (B, L, W).
    """

    def __init__(self, backbone: Any, labels: Tensor, settings: Sampling) -> None:
        self.backbone, self.labels = backbone, labels  # a mar.models.masked.Masked; (B,)
        self.guided = settings.guidance != 1.0
        self.tokens_every, self.condition_every = settings.token_cache, settings.condition_cache
        self.stored = StoredTokens(backbone) if settings.token_cache else None
        self.step = 0
        self.added: Tensor

    def predict(self, tokens: Tensor, order: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        """The conditions z and, with guidance, z_null of the tokens at `order[:, start:stop]`, (B, n, W) each.

        Args:
            tokens: vectors (B, L, D) or ids (B, L), of which those at `order[:, :start]` are read.
            order: positions in generation order, (B, L).
            start: number of tokens that are known before this step.
            stop: number of tokens that are known after this step.
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
            if self.stored is not None:
                self.stored.forget_rows(len(tokens))
        return z[:, : stop - start], z_null[:, : stop - start]

    def _z(self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, refresh: bool) -> Tensor:
        if self.stored is None:
            return self.backbone.predict(tokens, labels, order, start, stop)
        return self.stored.predict(tokens, labels, order, start, stop, refresh)


class StoredTokens:
    """Keys and values of encoder and decoder of all tokens, stored between steps.

    A token is stored at its place in the generation order, behind the buffer.

    Attributes:
        known: number of tokens that were known in the last step.
    """

    def __init__(self, backbone: Any) -> None:
        self.backbone = backbone  # a mar.models.masked.Masked
        self.encoder: KVCache
        self.decoder: KVCache
        self.known = 0

    def predict(self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, refresh: bool) -> Tensor:
        """z (B, n, W) of the tokens at `order[:, start:stop]`; `refresh` computes all tokens, else only new ones."""
        m = self.backbone
        if refresh:
            heads, width = m.encoder_blocks[0].attn.heads, m.encoder_norm.weight.shape[0]
            slots = m.buffer + m.tokens
            self.encoder, self.decoder = (
                KVCache(len(blocks), len(tokens), heads, slots, width // heads, m.encoder_norm.weight, full)
                for blocks, full in ((m.encoder_blocks, False), (m.decoder_blocks, True))
            )
            encoded = self._encode(tokens, labels, order, 0, start)
            z = self._decode(encoded, order, 0, start, m.tokens)[:, start:stop]
        else:
            encoded = self._encode(tokens, labels, order, self.known, start)
            z = self._decode(encoded, order, self.known, start, stop)[:, start - self.known :]
        self.known = start
        return z

    def forget_rows(self, rows: int) -> None:
        """Keep only the first rows of the batch."""
        for cache in (self.encoder, self.decoder):
            cache.keys, cache.values = cache.keys[:, :rows], cache.values[:, :rows]

    def _encode(self, tokens: Tensor, labels: Tensor, order: Tensor, begin: int, end: int) -> Tensor:
        """Encoded tokens at `order[:, begin:end]`, behind the encoded buffer if `begin` is 0: (B, n, W)."""
        m = self.backbone
        x = m.embed(tokens, labels, order[:, begin:end], buffer=begin == 0)
        self.encoder.length = 0 if begin == 0 else m.buffer + begin
        for i, block in enumerate(m.encoder_blocks):
            x = block(x, cache=self.encoder, block=i)
        return m.encoder_norm(x)

    def _decode(self, encoded: Tensor, order: Tensor, begin: int, known: int, end: int) -> Tensor:
        """z (B, n, W) of the tokens at `order[:, begin:end]`: those before `known` are `encoded`, the others masked."""
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
