"""Masked backbone (MAR, section 3.4): an encoder on known tokens, a decoder with mask tokens, bidirectional.

Names of parameters are those of the published code, so that its weights load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mar.models.blocks import NORM_EPS, Block, gather, initialise, rows_of, run_block
from mar.study.parts import MaskedBackbone


class Masked(nn.Module):
    """Predicts a condition z for every token from the tokens known so far, in any order, many at a time."""

    checkpointing = False  # True: activations inside blocks are computed again in the backward pass
    bidirectional = True
    sizes: tuple[int, ...] = ()
    undecayed: tuple[str, ...] = ()

    def __init__(self, config: MaskedBackbone, z_proj: nn.Module, tokens: int, classes: int) -> None:
        """`z_proj` turns tokens (B, n, D) or ids (B, n) into (B, n, W)."""
        super().__init__()
        width, self.buffer, self.tokens = config.width, config.buffer, tokens
        blocks = (width, config.heads, config.mlp_ratio, config.dropout)
        self.class_emb = nn.Embedding(classes, width)
        self.fake_latent = nn.Parameter(torch.empty(1, width))  # stands for the class where the label is dropped
        self.z_proj = z_proj
        self.z_proj_ln = nn.LayerNorm(width, eps=NORM_EPS)
        # Positions of all three tables: the `buffer` class tokens first (not in the last table), then the grid.
        self.encoder_pos_embed_learned = nn.Parameter(torch.empty(1, self.buffer + tokens, width))
        self.encoder_blocks = nn.ModuleList(Block(*blocks) for _ in range(config.depth))
        self.encoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.decoder_embed = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.decoder_pos_embed_learned = nn.Parameter(torch.empty(1, self.buffer + tokens, width))
        self.decoder_blocks = nn.ModuleList(Block(*blocks) for _ in range(config.depth))
        self.decoder_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.empty(1, tokens, width))
        initialise(self)

    def layers(self) -> list[nn.Module]:
        """The transformer blocks, in the order in which they compute."""
        return [*self.encoder_blocks, *self.decoder_blocks]

    def condition(self, labels: Tensor) -> Tensor:
        """Class embedding (B, W); label -1 stands for the null condition."""
        embedded = self.class_emb(labels.clamp(min=0))
        return torch.where((labels < 0)[:, None], self.fake_latent, embedded)

    def embed(self, tokens: Tensor, labels: Tensor, known: Tensor, buffer: bool = True) -> Tensor:
        """Input of the encoder, (B, buffer + n, W): class tokens, then the tokens at positions `known` (B, n).

        Args:
            tokens: (B, L, D) vectors or (B, L) ids.
            labels: (B,) classes, -1 for the null condition.
            known: (B, n) positions of the known tokens.
            buffer: whether the class tokens are put in front; without them the result is (B, n, W).
        """
        index = known if tokens.ndim == 2 else known[:, :, None].expand(-1, -1, tokens.shape[2])
        x = self.z_proj(torch.gather(tokens, 1, index))
        positions = self.encoder_pos_embed_learned.expand(len(x), -1, -1)
        embedded = rows_of(positions, known + self.buffer)  # (B, n, W)
        if buffer:
            x = torch.cat([self.condition(labels)[:, None].expand(-1, self.buffer, -1).to(x.dtype), x], dim=1)
            embedded = torch.cat([positions[:, : self.buffer], embedded], dim=1)
        out: Tensor = self.z_proj_ln(x + embedded)
        return out

    def encode(self, tokens: Tensor, labels: Tensor, known: Tensor) -> Tensor:
        """Encoder on the buffer of class tokens and the tokens at positions `known` (B, n): (B, buffer + n, W)."""
        x = self.embed(tokens, labels, known)
        for block in self.encoder_blocks:
            x = run_block(block, x, self.checkpointing)
        return self.encoder_norm(x)

    def decode(self, encoded: Tensor, known: Tensor, targets: Tensor) -> Tensor:
        """Decoder on all L positions, with mask tokens at the unknown ones: z (B, m, W) at positions `targets` (B, m).

        The last block computes queries for the targets alone: of the other positions only keys and values are used.

        Args:
            encoded: (B, buffer + n, W) from the encoder.
            known: (B, n) positions of the encoded tokens.
            targets: (B, m) positions to be predicted.
        """
        x = self.decoder_embed(encoded)
        full = self.mask_token.to(x.dtype).expand(len(x), self.tokens, -1)
        full = full.scatter(1, known[:, :, None].expand(-1, -1, x.shape[2]), x[:, self.buffer :])
        x = torch.cat([x[:, : self.buffer], full], dim=1) + self.decoder_pos_embed_learned
        for block in self.decoder_blocks[:-1]:
            x = run_block(block, x, self.checkpointing)
        x = run_block(self.decoder_blocks[-1], x, self.checkpointing, queries=targets + self.buffer)
        return self.decoder_norm(x) + rows_of(self.diffusion_pos_embed_learned.expand(len(x), -1, -1), targets)

    def forward(self, tokens: Tensor, labels: Tensor, order: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """Conditions of all tokens to be predicted when the first `known` of each order are known.

        Args:
            tokens: (B, L, D) vectors or (B, L) ids; only known ones are read.
            labels: (B,) classes, -1 for the null condition.
            order: (B, L) positions in generation order.
            known: number of known tokens.

        Returns:
            z (B, L - known, W) and the positions (B, L - known) that its rows belong to, ascending.
        """
        targets = order[:, known:].sort(dim=1).values
        return self.predict(tokens, labels, torch.cat([order[:, :known], targets], dim=1), known, self.tokens), targets

    def start(self, batch: int) -> None:
        """Nothing is kept between steps: attention is bidirectional."""

    def predict(
        self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, cache: None = None
    ) -> Tensor:
        """z (B, stop - start, W) of the tokens at `order[:, start:stop]`, in that order, given those before."""
        # The encoder gets known tokens by ascending position, as the published boolean indexing gives them.
        known = order[:, :start].sort(dim=1).values
        return self.decode(self.encode(tokens, labels, known), known, order[:, start:stop])

    def null_start(self, tokens: Tensor, order: Tensor, stop: int) -> Tensor:
        """z (B, stop, W) of the tokens at `order[:, :stop]` under the null condition, before any token is known.

        It then depends on the position alone, so it is computed for one image and gathered for all.
        """
        all_positions = torch.arange(self.tokens, device=order.device)[None]
        z = self.predict(tokens[:1], torch.full_like(order[:1, 0], -1), all_positions, 0, self.tokens)
        return gather(z.expand(len(order), -1, -1), order[:, :stop])
