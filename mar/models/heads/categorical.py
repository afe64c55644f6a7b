"""Categorical head: cross-entropy on token ids, the baseline that Diffusion Loss is compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar.runtime.noise import Noise
from mar.study.parts import CategoricalHead, Sampling


class Categorical(nn.Module):
    """p(id given z) as a softmax over the codebook."""

    undecayed: tuple[str, ...] = ()

    def __init__(self, config: CategoricalHead, width: int, codebook_size: int) -> None:
        super().__init__()
        self.logits = nn.Linear(width, codebook_size)
        nn.init.xavier_uniform_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def compiled(self) -> list[nn.Module]:
        """Nothing is large enough."""
        return []

    def draw(self, count: int, rows: Tensor, noise: Noise) -> None:
        """Cross-entropy needs no random numbers."""

    def loss(self, z: Tensor, target: Tensor, noise: None = None) -> Tensor:
        """Mean cross-entropy of the tokens, in nats.

        Args:
            z: (n, W) conditions.
            target: (n,) ids.
            noise: None, see `draw`.
        """
        return F.cross_entropy(self.logits(z).float(), target)

    def guided(self, z: Tensor, z_null: Tensor | None, scale: float) -> Tensor:
        """Guided logits (n, V) from conditions z and z_null (n, W): null + scale (conditional - null)."""
        logits = self.logits(z).float()
        if z_null is not None:
            null = self.logits(z_null).float()
            logits = null + scale * (logits - null)
        return logits

    def sample(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Draw ids (n,); returned with their log probabilities (n,) in nats.

        Guidance acts on logits, temperature divides the guided logits, and top-k and top-p exclude unlikely ids (VAR).
        The authors of MAR published no formulas for cross-entropy; these are the usual ones.
        """
        log_p = F.log_softmax(self._allowed(z, z_null, settings, scale), dim=1)
        ids = draw_index(log_p, noise)
        return ids, log_p.gather(1, ids[:, None])[:, 0]

    def mixture(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, done: float, noise: Noise
    ) -> Tensor:
        """Weights (n, V) of the codes that are mixed in place of one that is drawn: VAR's `more_smooth`.

        softmax((l (1 + r) + g) / max(0.27 (1 - 0.95 r), 0.005)), with the logits l that `sample` draws from, Gumbel
        noise g and r = `done`: the number of the scale over that of the last one, from 0 to 1 (VAR's code, after
        MaskGIT).
        """
        logits = self._allowed(z, z_null, settings, scale) * (1 + done)
        return F.softmax((logits + noise.gumbel(*logits.shape)) / max(0.27 * (1 - 0.95 * done), 0.005), dim=1)

    def _allowed(self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float) -> Tensor:
        """Guided logits (n, V) over the temperature, minus infinity for ids that top-k and top-p exclude."""
        logits = self.guided(z, z_null, scale) / settings.temperature
        if settings.top_k or settings.top_p:
            logits = logits.masked_fill(~top_k_top_p(logits, settings.top_k, settings.top_p), -torch.inf)
        return logits


def top_k_top_p(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Which ids may be drawn, bool (n, V): the `top_k` likeliest, and of these the smallest set of probability `top_p`.

    As in VAR's code: ids that tie with the k-th likeliest stay too, probabilities are renormalised after top-k, and the
    likeliest id always stays.
    """
    if top_k and top_k < logits.shape[1]:
        logits = logits.masked_fill(logits < logits.topk(top_k, dim=1).values[:, -1:], -torch.inf)
    if top_p:
        ascending, ids = logits.sort(dim=1)
        drop = ascending.softmax(dim=1).cumsum(dim=1) <= 1 - top_p
        drop[:, -1] = False
        logits = logits.masked_fill(drop.scatter(1, ids, drop), -torch.inf)
    return logits > -torch.inf


def draw_index(log_p: Tensor, noise: Noise) -> Tensor:
    """One index (n,) from each row of log probabilities (n, V).

    By inverting the cumulative distribution, which takes one uniform number per row for any V.
    """
    cumulative = log_p.double().exp().cumsum(1)
    u = noise.uniform(len(log_p), 1).double() * cumulative[:, -1:]
    return torch.searchsorted(cumulative, u, right=True)[:, 0].clamp(max=log_p.shape[1] - 1)
