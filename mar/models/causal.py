"""Causal backbone (Table 1's AR rows and its random-order rows): a GPT on the tokens in generation order.

The authors did not release it. They describe a single decoder of twice the depth (hence equal parameters) with a
triangular mask, teacher forcing on all tokens, an input that is shifted by one with [cls] in front, a kv-cache at
inference and, for random orders, an embedding of the position that is predicted next.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mar.models.blocks import NORM_EPS, Block, KVCache, initialise, rows_of, run_block
from mar.study.parts import CausalBackbone


class Causal(nn.Module):
    """Predicts the condition z of one token at a time from the tokens before it in the order."""

    checkpointing = False  # True: activations inside blocks are computed again in the backward pass
    bidirectional = False
    sizes: tuple[int, ...] = ()
    undecayed: tuple[str, ...] = ()

    def __init__(self, config: CausalBackbone, z_proj: nn.Module, tokens: int, classes: int) -> None:
        """`z_proj` turns tokens (B, n, D) or ids (B, n) into (B, n, W)."""
        super().__init__()
        width, self.heads, self.tokens = config.width, config.heads, tokens
        self.class_emb = nn.Embedding(classes, width)
        self.fake_latent = nn.Parameter(torch.empty(1, width))  # stands for the class where the label is dropped
        self.z_proj = z_proj
        self.z_proj_ln = nn.LayerNorm(width, eps=NORM_EPS)
        self.pos_embed_learned = nn.Parameter(torch.empty(1, 1 + tokens, width))  # of the input: [cls], then the grid
        self.target_pos_embed_learned = nn.Parameter(
            torch.empty(1, tokens, width)
        )  # of the position that is predicted next
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_ratio, config.dropout) for _ in range(2 * config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.empty(1, tokens, width))
        initialise(self)

    def layers(self) -> list[nn.Module]:
        """The transformer blocks, in the order in which they compute."""
        return list(self.blocks)

    def condition(self, labels: Tensor) -> Tensor:
        """Class embedding (B, W); label -1 stands for the null condition."""
        embedded = self.class_emb(labels.clamp(min=0))
        return torch.where((labels < 0)[:, None], self.fake_latent, embedded)

    def run(
        self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, cache: KVCache | None
    ) -> Tensor:
        """z (B, stop - start, W) of the tokens at `order[:, start:stop]`.

        The input is the sequence [cls], order[:, 0], order[:, 1], ...: its elements start to stop - 1 are the tokens
        just before the ones that are predicted. With a cache, all elements before `start` must be in it.
        """
        table = self.pos_embed_learned.expand(len(order), -1, -1)
        inputs = order[:, max(start - 1, 0) : stop - 1]  # positions of the input tokens, without [cls]
        index = inputs if tokens.ndim == 2 else inputs[:, :, None].expand(-1, -1, tokens.shape[2])
        x = self.z_proj(torch.gather(tokens, 1, index)) + rows_of(table, inputs + 1)
        if start == 0:
            x = torch.cat([(self.condition(labels)[:, None] + table[:, :1]).to(x.dtype), x], dim=1)
        targets = order[:, start:stop]
        x = self.z_proj_ln(x + rows_of(self.target_pos_embed_learned.expand(len(order), -1, -1), targets))
        for i, block in enumerate(self.blocks):
            x = run_block(block, x, self.checkpointing, causal=True, cache=cache, block=i)
        if cache is not None:
            cache.length += stop - start
        return self.norm(x) + rows_of(self.diffusion_pos_embed_learned.expand(len(order), -1, -1), targets)

    def forward(self, tokens: Tensor, labels: Tensor, order: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """Conditions of all tokens by teacher forcing; `known` has no meaning here.

        Args:
            tokens: (B, L, D) vectors or (B, L) ids, by position.
            labels: (B,) classes, -1 for the null condition.
            order: (B, L) positions in generation order.
            known: unused; every token is predicted from those before it.

        Returns:
            z (B, L, W) in generation order and the positions (B, L) that its rows belong to: the order.
        """
        return self.run(tokens, labels, order, 0, self.tokens, None), order

    def start(self, batch: int) -> KVCache:
        """An empty cache for a batch of sequences."""
        width = self.norm.weight.shape[0]
        return KVCache(len(self.blocks), batch, self.heads, self.tokens, width // self.heads, self.norm.weight)

    def null_start(self, tokens: Tensor, order: Tensor, stop: int) -> Tensor:
        """Not of this backbone: the null condition runs beside the conditional one."""
        raise NotImplementedError

    def predict(
        self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, cache: KVCache | None = None
    ) -> Tensor:
        """z (B, 1, W) of the token at `order[:, start]` given those before it; one token per step.

        Without a cache the whole sequence so far is computed again.
        """
        if stop - start != 1:
            raise ValueError(f"a causal backbone predicts one token a step; asked for {stop - start}")
        if cache is not None:
            return self.run(tokens, labels, order, start, stop, cache)
        return self.run(tokens, labels, order, 0, stop, None)[:, -1:]
