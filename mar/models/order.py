"""Which tokens come when: orders, the mask-ratio law of training, the tokens-per-step schedule of sampling.

An *order* (B, L) lists token positions in the order in which they are generated: `order[:, :k]` are known when
token k is predicted. (The published code walks its `orders` from the end, so its arrays are ours reversed.)
Raster and random orders are drawn before the first token; `confidence` is found out while sampling. VAR's tokens are
kept in its order, scale by scale from coarse to fine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the plan of a study reads the schedule without waiting for torch
    from torch import Tensor

    from mar.runtime.noise import Noise


def draw_order(kind: str, rows: int, length: int, noise: Noise) -> Tensor:
    """Orders of a batch: a random permutation for each, or (raster, scales, joint) tokens as they are kept.

    Returns:
        (B, L) int64.
    """
    import torch

    if kind != "random":
        return torch.arange(length, device=noise.device).expand(rows, length)
    return noise.permutations(rows, length)


def mask_ratio(u: float, low: float = 0.7) -> float:
    """Quantile u in [0, 1) of the training mask ratio: a normal (1.0, 0.25) truncated to [low, 1].

    The paper says "in [0.7, 1.0]"; centre and width are those of the published code.
    """
    import torch

    normal = torch.distributions.Normal(torch.tensor(1.0, dtype=torch.float64), 0.25)
    floor = normal.cdf(torch.tensor(low, dtype=torch.float64))
    return float(normal.icdf(floor + u * (0.5 - floor)))


def num_masked(ratio: float, length: int) -> int:
    """Tokens masked at a ratio: rounded up, as published, and one at least."""
    return max(1, math.ceil(length * ratio))


def schedule(length: int, steps: int, late: int | None = None) -> Iterator[tuple[int, int]]:
    """Cosine schedule of sampling: yields (start, stop), predicting `order[:, start:stop]` at each step.

    After step k, floor(L cos(pi/2 (k+1)/steps)) tokens stay masked, clipped so that each step predicts at least
    one token and one is left for the last step, which predicts all that remain (as published).

    With `late`, the first half of the tokens (of an odd number the larger) is spread evenly over steps - late steps
    and the rest over the `late` last ones: generation, then reconstruction (GtR, arXiv:2510.17171).
    """
    if late is not None:
        half = (length + 1) // 2
        for start, count, parts in ((0, half, steps - late), (half, length - half, late)):
            for k in range(parts):
                yield start + count * k // parts, start + count * (k + 1) // parts
        return
    masked = length
    for k in range(steps):
        left = math.floor(length * math.cos(math.pi / 2 * (k + 1) / steps))
        left = max(1, min(masked - 1, left)) if k < steps - 1 else 0
        yield length - masked, length - left
        masked = left


def by_scale(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Schedule of VAR: yields (start, stop) of each scale, of `sizes` tokens."""
    yield from pairwise(accumulate(sizes, initial=0))


def checkerboard(order: Tensor) -> Tensor:
    """The orders (B, L) with the fields of one colour first, those of the corner at the top left.

    Within a colour the order stays as it is. A token of the second colour has its four neighbours beside it when it is
    predicted (GtR, arXiv:2510.17171).

    Raises:
        ValueError: L positions are no square.
    """
    side = math.isqrt(order.shape[1])
    if side**2 != order.shape[1]:
        raise ValueError(f"order checkerboard of {order.shape[1]} tokens; accepted: a square grid")
    colour = (order // side + order % side) % 2
    return order.gather(1, colour.argsort(dim=1, stable=True))


def by_confidence(log_p: Tensor, noise_scale: float, left: float, noise: Noise) -> Tensor:
    """Tokens of each image, the surest first: order `confidence`, the sampling of MAGE and MaskGIT.

    Confidence is log p of the id that was drawn + noise_scale left Gumbel, which falls to log p at the last step, as
    in MAGE's published code (scale 4.5, unguided). That p is the one which the id was drawn from, guidance and
    temperature included, is ours: MAGE has neither.

    Args:
        log_p: (B, n) log probabilities of the drawn ids, in nats.
        noise_scale: scale of the Gumbel noise at the start.
        left: share of the steps that come after this one.
        noise: stream of this batch.

    Returns:
        (B, n) indices into the n tokens; of equals the earlier one is first.
    """
    confidence = log_p + noise_scale * left * noise.gumbel(*log_p.shape)
    return confidence.argsort(dim=1, descending=True, stable=True)


def guidance_at(scale: float, kind: str, stop: int, length: int) -> float:
    """Guidance scale of the step that ends at `stop` known tokens.

    Linear: 1 + (scale - 1) (L - masked)/L with the tokens masked after the step; the published code counts at
    least one as masked, also after the last step, so the full scale is never quite reached.
    """
    if kind == "constant":
        return scale
    return 1 + (scale - 1) * min(stop, length - 1) / length


def guidance_at_scale(scale: float, kind: str, k: int, scales: int) -> float:
    """Guidance scale of VAR's k-th scale of `scales`; linear: from 1, no guidance, to `scale` at the last.

    Published as (1 + t) conditional - t null with t from 0 to "cfg": that is scale - 1.
    """
    return scale if kind == "constant" else 1 + (scale - 1) * k / (scales - 1)
