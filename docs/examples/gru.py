"""A backbone of one's own: a recurrent network that reads the tokens in generation order, one after the other."""

from typing import ClassVar

import torch
from torch import nn

from mar.study.parts import Backbone


class Gru(Backbone):
    """What the study says of it: `kind: "gru.py:Gru"`, and the keys of every backbone (width, depth, ...)."""

    implementation: ClassVar[str] = "GruBackbone"
    label: ClassVar[str] = "GRU"
    single: ClassVar[bool] = True  # one token a step

    heads: int = 1  # it has none


class GruBackbone(nn.Module):
    """The condition z of each token, from the class and the tokens before it in the order."""

    checkpointing = False  # whether activations are computed again in the backward pass
    bidirectional = False  # whether known tokens see those that come later
    sizes = ()  # numbers of tokens of steps of its own
    undecayed = ()  # names of parameters without weight decay

    def __init__(self, config: Gru, z_proj: nn.Module, tokens: int, classes: int) -> None:
        """`z_proj` turns tokens (B, n, D) or ids (B, n) into (B, n, W)."""
        super().__init__()
        self.z_proj = z_proj
        self.classes = nn.Embedding(1 + classes, config.width)  # the first stands for no class
        self.places = nn.Embedding(tokens, config.width)
        self.recurrent = nn.ModuleList(
            nn.GRU(config.width, config.width, batch_first=True) for _ in range(config.depth)
        )

    def layers(self):
        """Its blocks."""
        return list(self.recurrent)

    def start(self, batch):
        """A cache of keys and values: none."""

    def forward(self, tokens, labels, order, known):
        """Training: z (B, L, W) of all tokens, and the positions (B, L) that its rows belong to."""
        return self.run(tokens, labels, order), order

    def predict(self, tokens, labels, order, start, stop, cache=None):
        """Sampling: z (B, 1, W) of the token at `order[:, start]`, given those before it."""
        return self.run(tokens, labels, order[:, :stop])[:, start:]

    def run(self, tokens, labels, order):
        """z (B, n, W) of the tokens at the n positions of `order`, each from those before it; label -1: no class."""
        before = order[:, :-1]
        index = before if tokens.ndim == 2 else before[:, :, None].expand(-1, -1, tokens.shape[2])
        read = self.z_proj(tokens.gather(1, index))
        x = torch.cat([self.classes(labels + 1)[:, None].to(read.dtype), read], dim=1) + self.places(order)
        for layer in self.recurrent:
            x = x + layer(x)[0]
        return x
