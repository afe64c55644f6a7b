"""The training loss of finished weights on fixed images at fixed noise, so that points of a training can be compared.

Orders, posterior draws, timesteps and noise are named by the seed of the study and the image's place alone: they are
the same for all points, training seeds and variants. Nothing is dropped out, and every image has its class. For a
categorical head the loss is the cross-entropy in nats a token, for a diffusion head Diffusion Loss: the losses of
different heads share no scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mar.data.tokens import TokenSet, as_tokens
from mar.models.order import draw_order, num_masked
from mar.runtime.noise import Noise
from mar.study.limits import LEARNED
from mar.study.parts import Order

RATIOS = (0.25, 0.5, 0.75, 1.0)  # shares of masked tokens at which the loss of a masked backbone is measured
GROUP = 10  # images whose loss is computed together: the unit of the intervals


@torch.no_grad()
def losses(
    model: Any, tokens: TokenSet, order: Order, masked: bool, seed: int, rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Mean loss of each group of GROUP images, float64 (G,), by mask ratio, or `all` for models without masks.

    Args:
        model: a `Model` or `DiT`, in eval mode.
        tokens: a split, of which at most LEARNED images are taken, always the same.
        order: order of generation of the variant.
        masked: whether the backbone is a masked one.
        seed: seed of the study.
        rows: ascending indices of the images that are taken; None for all.
    """
    device, length = next(model.parameters()).device, tokens.manifest.tokens
    ratios = {f"{ratio:g}": length - num_masked(ratio, length) for ratio in RATIOS} if masked else {"all": 0}
    found: dict[str, list[float]] = {ratio: [] for ratio in ratios}
    for number, index in enumerate(_chosen(tokens, seed, rows).split(GROUP)):
        for ratio, known in ratios.items():
            noise = Noise("learning", seed, number, device=device)
            x = as_tokens(tokens.batch(index, torch.zeros_like(index)).to(device), tokens.manifest, noise)
            orders = draw_order(order, len(index), length, noise)
            found[ratio].append(float(model.loss(x, tokens.labels[index].to(device), orders, known, noise)))
    return {ratio: np.asarray(values) for ratio, values in found.items()}


@torch.no_grad()
def by_scale(model: Any, tokens: TokenSet, seed: int, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What VAR's laws are about (section 4.2), mean of each group of GROUP images, float64 (G,).

    `loss last` and `loss all` are the cross-entropy in nats a token, of the last scale and of all; `error last` and
    `error all` the share of tokens that are not the likeliest.

    Args:
        model: a `Model` of a scales backbone and a categorical head, in eval mode.
        tokens: a split of ids (B, L), scale by scale, of which the same images are taken as for `losses`.
        seed: seed of the study.
        rows: ascending indices of the images that are taken; None for all.
    """
    device, length = next(model.parameters()).device, tokens.manifest.tokens
    last = tokens.manifest.scales[-1] ** 2
    found: dict[str, list[float]] = {f"{what} {part}": [] for what in ("loss", "error") for part in ("last", "all")}
    for number, index in enumerate(_chosen(tokens, seed, rows).split(GROUP)):
        noise = Noise("learning", seed, number, device=device)
        ids = as_tokens(tokens.batch(index, torch.zeros_like(index)).to(device), tokens.manifest, noise)  # (B, L)
        orders = draw_order("scales", len(index), length, noise)
        z, _ = model.backbone(ids, tokens.labels[index].to(device), orders, 0)  # (B, L, W)
        logits = model.head.logits(z).float().transpose(1, 2)  # (B, V, L)
        for what, values in (
            ("loss", F.cross_entropy(logits, ids, reduction="none")),
            ("error", (logits.argmax(1) != ids).double()),
        ):
            found[f"{what} last"].append(float(values[:, -last:].mean()))
            found[f"{what} all"].append(float(values.mean()))
    return {name: np.asarray(values) for name, values in found.items()}


def _chosen(tokens: TokenSet, seed: int, rows: np.ndarray | None) -> torch.Tensor:
    """Indices of the images that are measured, always the same: at most LEARNED of the rows."""
    taken = torch.arange(len(tokens)) if rows is None else torch.from_numpy(rows)
    return taken[Noise("learning", seed).permutations(1, len(taken))[0][:LEARNED]]
