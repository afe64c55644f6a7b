"""The quantiser of VAR (Tian et al. 2024, section 3.2): feature maps of growing size that add up to the latents.

Each scale quantises the residual that the scales before it leave: it is shrunk by area averaging and looked up in the
codebook, which all scales share; the codes are enlarged by bicubic interpolation, smoothed by a convolution phi, and
added to the sum. These are algorithms 1 and 2 of the paper. That phi is half the identity, and that a few convolutions
serve all scales (four in the published tokenizer), comes from the published code.

Where ids are read, codes (B, n, C) may stand in their place: mixtures of codes, which `more_smooth` of sampling makes.

The tokenizer trains it, and the scales backbone makes its inputs with it: so it is a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from mar.data.tokens import QUANTIZER, check_quantizer
from mar.runtime.checkpoint import load_weights
from mar.study.records import TokenManifest

SMOOTHED = 0.5  # phi(x) = (1 - SMOOTHED) x + SMOOTHED conv(x)
COMMITMENT = 0.25  # beta of the VQ loss


class MultiScaleQuantizer(nn.Module):
    """Latents (B, C, h, w) <-> ids (B, L) of all scales, from coarse to fine, each in raster order.

    Attributes:
        scales: side of each square scale; the last is the side of the latents.
        sizes: number of tokens of each scale; L is their sum.
        n_e: number of codes in the codebook (named as in diffusers).
        phi: the convolutions; each serves neighbouring scales, see nearest_phi.
    """

    def __init__(self, codes: int, width: int, scales: tuple[int, ...], phis: int = 4) -> None:
        super().__init__()
        self.scales, self.sizes, self.n_e = tuple(scales), tuple(side**2 for side in scales), codes
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)
        self.phi = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(phis))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, tuple[None, None, Tensor]]:
        """Quantise latents (B, C, h, w), and the VQ loss of doing so.

        The loss pulls the sum after every scale, not after the last alone, towards the latents f: the mean over scales
        of beta |sg(sum) - f|^2 + |sum - sg(f)|^2, where sg stops the gradient and | |^2 is a mean over all numbers.

        Returns:
            Quantised latents (B, C, h, w) with a straight-through gradient, the loss, and (None, None, ids (B, L)): the
            form in which diffusers' quantiser returns them.
        """
        ids, losses, total = [], [], torch.zeros_like(latents)
        for scale_ids, total, _ in self._scales(latents.detach()):
            ids.append(scale_ids)
            losses.append(COMMITMENT * F.mse_loss(total.detach(), latents) + F.mse_loss(total, latents.detach()))
        straight = latents + (total - latents).detach()
        return straight, torch.stack(losses).mean(), (None, None, torch.cat(ids, 1))

    @torch.no_grad()
    def residuals(self, latents: Tensor) -> Tensor:
        """The vectors (B L, C) that are looked up in the codebook: the residuals, shrunk to the size of each scale."""
        return torch.cat([residual.flatten(0, 1) for _, _, residual in self._scales(latents)])

    def _scales(self, latents: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Algorithm 1: yields of each scale the ids (B, n), the sum so far (B, C, h, w), the residuals (B, n, C)."""
        total, rest = torch.zeros_like(latents), latents
        for k in range(len(self.scales)):
            residual = self._shrink(rest, k)
            ids = self._nearest(residual.detach())
            term = self._term(ids, k)
            total, rest = total + term, rest - term.detach()
            yield ids, total, residual

    def _nearest(self, vectors: Tensor) -> Tensor:
        """Ids (B, n) of the codes nearest to vectors (B, n, C)."""
        codes = self.embedding.weight.detach()
        distance = (
            codes.square().sum(1) - 2 * vectors.flatten(0, 1) @ codes.T
        )  # without |vector|^2, which is the same for all codes
        return distance.argmin(1).view(vectors.shape[:2])

    def _shrink(self, features: Tensor, k: int) -> Tensor:
        """Features (B, C, h, w) averaged down to the size of scale k: (B, n, C)."""
        if self.scales[k] != features.shape[-1]:
            features = F.interpolate(features, size=(self.scales[k],) * 2, mode="area")
        return features.flatten(2).transpose(1, 2)

    def _term(self, ids: Tensor, k: int) -> Tensor:
        """The term (B, C, h, w) that the ids (B, n) of scale k add to the sum."""
        side = self.scales[k]
        codes = self.codes(ids).transpose(1, 2).unflatten(2, (side, side))
        if side != self.scales[-1]:
            codes = F.interpolate(codes, size=(self.scales[-1],) * 2, mode="bicubic")
        smooth = self.phi[nearest_phi(k, len(self.scales), len(self.phi))](codes)
        return (1 - SMOOTHED) * codes + SMOOTHED * smooth

    def codes(self, ids: Tensor) -> Tensor:
        """Codes (B, n, C) of ids (B, n); codes stay as they are."""
        codes: Tensor = ids if ids.is_floating_point() else self.embedding(ids)
        return codes

    @torch.no_grad()
    def given(self, latents: Tensor, ids: Tensor) -> Tensor:
        """Ids (B, n) that latents (B, C, h, w) get in the next scale after the ids (B, m) of those before it."""
        rest, start = latents, 0
        for k, size in enumerate(self.sizes):
            if start == ids.shape[1]:
                break
            rest, start = rest - self._term(ids[:, start : start + size], k), start + size
        return self._nearest(self._shrink(rest, k))

    def sums(self, ids: Tensor) -> Iterator[Tensor]:
        """Yields the sum (B, C, h, w) after each scale that is complete in ids (B, n)."""
        edges = np.cumsum((0, *self.sizes)).tolist()
        total: Tensor | None = None
        for k, (start, stop) in enumerate(pairwise(edges)):
            if stop > ids.shape[1]:
                return
            term = self._term(ids[:, start:stop], k)
            total = term if total is None else total + term
            yield total

    def latents(self, ids: Tensor) -> Tensor:
        """Algorithm 2: quantised latents (B, C, h, w) from the ids (B, L) of all scales."""
        *_, total = self.sums(ids)
        return total

    @torch.no_grad()
    def next_input(self, ids: Tensor) -> Tensor:
        """VAR's inputs (B, m, C) at the positions of scales 2 to k + 1, given the ids (B, n) of the first k scales.

        The input of a scale is the sum of all scales before it, shrunk to its size. No scale comes after the last.
        """
        sums = zip(self.sums(ids), range(1, len(self.scales)), strict=False)
        inputs = [self._shrink(total, k) for total, k in sums]
        return torch.cat([self.embedding.weight.new_empty(len(ids), 0, self.embedding.embedding_dim), *inputs], 1)


def nearest_phi(k: int, scales: int, phis: int = 4) -> int:
    """Index of the convolution phi that serves scale k of `scales`.

    The convolutions have places evenly spread over [0, 1]; the one nearest to k / (scales - 1) is taken. As published,
    four begin and end a third of 1 / phis from the edges, other numbers half of it. Two of the ten published scales lie
    half-way between two of four places, where rounding decides: numpy's is the published one.
    """
    edge = 1 / (3 if phis == 4 else 2) / phis
    places = np.linspace(edge, 1 - edge, phis)
    return int(np.abs(places - k / (scales - 1)).argmin())


def load_quantizer(folder: Path, manifest: TokenManifest) -> MultiScaleQuantizer | None:
    """The quantiser that `mar encode` put beside the ids of a multi-scale tokenizer; None for other tokenizers.

    Raises:
        ValueError: the file is missing, is not the one that the manifest names, or does not fit the manifest.
    """
    if not manifest.scales:
        return None
    check_quantizer(folder, manifest)
    with safe_open(folder / QUANTIZER, framework="pt") as file:
        phis = sum(name.startswith("phi.") and name.endswith(".weight") for name in file.keys())  # noqa: SIM118
    quantizer = MultiScaleQuantizer(manifest.codebook_size, manifest.code_width, manifest.scales, phis)
    load_weights(quantizer, folder / QUANTIZER, f"delete {folder} and run `mar encode` again")
    return quantizer.eval().requires_grad_(False)
