"""Categorical head: cross-entropy on token ids, the baseline that Diffusion Loss is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar.config import Head, Sampling
from mar.noise import Noise


class Categorical(nn.Module):
    """p(id given z) as a softmax over the codebook."""

    def __init__(self, config: Head, width: int, codebook_size: int) -> None:
        super().__init__()
        self.logits = nn.Linear(width, codebook_size)
        nn.init.xavier_uniform_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def draw(self, count: int, rows: Tensor, noise: Noise) -> None:
        """Cross-entropy needs no random numbers."""

    def loss(self, z: Tensor, target: Tensor, noise: None = None) -> Tensor:
        """Mean cross-entropy of the tokens, in nats.

        Args:
            z: (n, W) conditions.
            target: (n,) ids.
            noise: nothing, see `draw`.
        """
        return F.cross_entropy(self.logits(z).float(), target)

    def sample(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Draw ids (n,) with their log probabilities (n,).

        Guidance acts on logits, null + scale (conditional - null); temperature divides the guided logits. The
        authors published neither formula for cross-entropy; these are the usual ones.
        """
        logits = self.logits(z).float()
        if z_null is not None:
            null = self.logits(z_null).float()
            logits = null + scale * (logits - null)
        log_p = F.log_softmax(logits / settings.temperature, dim=1)
        ids = draw_index(log_p, noise)
        return ids, log_p.gather(1, ids[:, None])[:, 0]


def draw_index(log_p: Tensor, noise: Noise) -> Tensor:
    """One index (n,) from each row of log probabilities (n, V).

    Inverse of the cumulative distribution: one uniform number a row, whatever V.
    """
    cumulative = log_p.double().exp().cumsum(1)
    u = noise.uniform(len(log_p), 1).double() * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u, right=True)[:, 0].clamp(max=log_p.shape[1] - 1)
