"""The quantiser of VAR (Tian et al. 2024, section 3.2): feature maps of growing size that add up to the latents.

Scale k is the residual that the scales before it leave, made small by averaging areas and looked up in one codebook;
made large again by bicubic interpolation, and smoothed by a convolution phi, it joins the sum. The paper's algorithms 1
and 2; that phi is half the identity, and four convolutions serve all scales, is the published code.

The tokenizer trains it, and the scales backbone takes what it makes of ids: it belongs to neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar.data.tokens import QUANTIZER, check_quantizer
from mar.runtime.checkpoint import load_weights
from mar.study.records import TokenManifest

PHIS = 4  # convolutions, each shared by the scales around its place
SMOOTHED = 0.5  # share of phi's output that has passed the convolution
COMMITMENT = 0.25  # beta of the VQ loss


class MultiScaleQuantizer(nn.Module):
    """Latents (B, C, h, w) <-> ids (B, L) of all scales, from coarse to fine, each in raster order.

    Attributes:
        scales: sides of the square scales; the last is that of the latents.
        sizes: tokens of each scale; L is their sum.
        n_e: number of codes.
    """

    def __init__(self, codes: int, width: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales, self.sizes, self.n_e = tuple(scales), tuple(side**2 for side in scales), codes
        self.embedding = nn.Embedding(codes, width)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)
        self.phi = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(PHIS))

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, tuple[None, None, Tensor]]:
        """Quantised latents (B, C, h, w) with a straight-through gradient, VQ loss, and ids (B, L) behind two nothings.

        So answers diffusers' quantiser too. The loss asks the sum of each scale, not of the last alone, to be near the
        latents: mean over scales of |sg(sum) - f|^2 beta + |sum - sg(f)|^2, means over all numbers.
        """
        ids, losses, total = [], [], torch.zeros_like(latents)
        for found, total, _ in self._scales(latents.detach()):
            ids.append(found)
            losses.append(COMMITMENT * F.mse_loss(total.detach(), latents) + F.mse_loss(total, latents.detach()))
        straight = latents + (total - latents).detach()
        return straight, torch.stack(losses).mean(), (None, None, torch.cat(ids, 1))

    @torch.no_grad()
    def looked_up(self, latents: Tensor) -> Tensor:
        """The vectors (B L, C) that latents look up in the codebook: residuals, at the size of each scale."""
        return torch.cat([small.flatten(0, 1) for _, _, small in self._scales(latents)])

    def _scales(self, latents: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each scale: ids (B, n), the sum so far (B, C, h, w), and what was looked up (B, n, C)."""
        total, rest = torch.zeros_like(latents), latents
        for k in range(len(self.scales)):
            small = self._shrink(rest, k)
            ids = self._nearest(small.detach())
            part = self._part(ids, k)
            total, rest = total + part, rest - part.detach()
            yield ids, total, small

    def _nearest(self, vectors: Tensor) -> Tensor:
        """Ids (B, n) of the codes nearest to vectors (B, n, C)."""
        codes = self.embedding.weight.detach()
        distance = codes.square().sum(1) - 2 * vectors.flatten(0, 1) @ codes.T  # up to |vector|^2: equal for all codes
        return distance.argmin(1).view(vectors.shape[:2])

    def _shrink(self, features: Tensor, k: int) -> Tensor:
        """Features (B, C, h, w) at the size of scale k: (B, n, C)."""
        if self.scales[k] != features.shape[-1]:
            features = F.interpolate(features, size=(self.scales[k],) * 2, mode="area")
        return features.flatten(2).transpose(1, 2)

    def _part(self, ids: Tensor, k: int) -> Tensor:
        """What scale k, ids (B, n), adds to the sum: (B, C, h, w)."""
        side = self.scales[k]
        codes = self.embedding(ids).transpose(1, 2).unflatten(2, (side, side))
        if side != self.scales[-1]:
            codes = F.interpolate(codes, size=(self.scales[-1],) * 2, mode="bicubic")
        smooth = self.phi[nearest_phi(k, len(self.scales))](codes)
        return (1 - SMOOTHED) * codes + SMOOTHED * smooth

    def sums(self, ids: Tensor) -> Iterator[Tensor]:
        """The sum (B, C, h, w) after each whole scale in ids (B, n)."""
        edges = np.cumsum((0, *self.sizes)).tolist()
        total: Tensor | None = None
        for k, (start, stop) in enumerate(pairwise(edges)):
            if stop > ids.shape[1]:
                return
            part = self._part(ids[:, start:stop], k)
            total = part if total is None else total + part
            yield total

    def latents(self, ids: Tensor) -> Tensor:
        """Quantised latents (B, C, h, w) of the ids (B, L) of all scales."""
        *_, total = self.sums(ids)
        return total

    @torch.no_grad()
    def next_input(self, ids: Tensor) -> Tensor:
        """What VAR takes in the place of scales 2, 3, ..., given ids (B, n) of whole scales before: (B, m, C).

        The sum of the scales before, at the size of the next one. Nothing is after the last.
        """
        sums = zip(self.sums(ids), range(1, len(self.scales)), strict=False)
        parts = [self._shrink(total, k) for total, k in sums]
        return torch.cat([self.embedding.weight.new_empty(len(ids), 0, self.embedding.embedding_dim), *parts], 1)


def nearest_phi(k: int, scales: int) -> int:
    """Which convolution serves scale k: of places spread over [0, 1] the one nearest to k / (scales - 1).

    Of the ten published scales two are half-way between places: rounding decides, so it is to be numpy's, as published.
    """
    places = np.linspace(1 / 3 / PHIS, 1 - 1 / 3 / PHIS, PHIS)
    return int(np.abs(places - k / (scales - 1)).argmin())


def load_quantizer(folder: Path, manifest: TokenManifest) -> MultiScaleQuantizer | None:
    """The quantiser that `mar encode` put beside the ids of a multi-scale tokenizer; None with other tokens.

    Raises:
        ValueError: it is missing, not the one that the manifest names, or does not fit the manifest.
    """
    if not manifest.scales:
        return None
    check_quantizer(folder, manifest)
    quantizer = MultiScaleQuantizer(manifest.codebook_size, manifest.code_width, manifest.scales)
    load_weights(quantizer, folder / QUANTIZER, f"delete {folder} and run `mar encode` again")
    return quantizer.eval().requires_grad_(False)
