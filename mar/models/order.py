"""Which tokens come when: orders, the mask-ratio law of training, the tokens-per-step schedule of sampling.

An *order* (B, L) lists token positions in the order in which they are generated: `order[:, :k]` are known when
token k is predicted. (The published code walks its `orders` from the end, so its arrays are ours reversed.)
Raster and random orders are known before the first token; the order `confidence` is decided while sampling. VAR's
tokens are stored in their order of generation, scale by scale from coarse to fine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal, assert_never

from mar.study.kinds import implementation, opened
from mar.study.parts import Order

if TYPE_CHECKING:  # the plan of a study reads the schedule without waiting for torch
    from torch import Tensor

    from mar.runtime.noise import Noise


def draw_order(order: Order | str, rows: int, length: int, noise: Noise) -> Tensor:
    """Orders of a batch, by the kind of the order or by its name.

    Returns:
        (B, L) int64.

    Raises:
        ValueError: an order of the user's is no permutation of the positions of each image.
    """
    kept = Order.model_validate(order)
    kind = opened(kept)
    drawn: Tensor = implementation(kind)(kind, rows, length, noise)
    if kind is not kept:
        _check_permutations(drawn, kind.kind, rows, length)
    return drawn


def as_stored(order: Order, rows: int, length: int, noise: Noise) -> Tensor:
    """Positions as they are stored: raster order, scale by scale, or all at once."""
    import torch

    return torch.arange(length, device=noise.device).expand(rows, length)


def permuted(order: Order, rows: int, length: int, noise: Noise) -> Tensor:
    """One random permutation per image."""
    return noise.permutations(rows, length)


def _check_permutations(drawn: Tensor, kind: str, rows: int, length: int) -> None:
    import torch

    if drawn.shape != (rows, length) or drawn.dtype != torch.int64:
        raise ValueError(f"order {kind}: gave {drawn.dtype} {tuple(drawn.shape)}; accepted: int64 {(rows, length)}")
    if (
        drawn.device.type != "meta"
        and not (drawn.sort(dim=1).values == torch.arange(length, device=drawn.device)).all()
    ):
        raise ValueError(f"order {kind}: a position comes twice or never; accepted: each of {length} positions once")


def mask_ratio(u: float, low: float = 0.7, law: str = "normal") -> float:
    """Quantile u in [0, 1) of the training mask ratio: a normal (1.0, 0.25) truncated to [low, 1], or uniform.

    The paper says "in [0.7, 1.0]"; centre and width of the normal are those of the published code. The uniform law in
    (low, 1] with low = 0 masks each number of tokens from 1 to L equally often, as one-token steps of sampling do.
    """
    if law == "uniform":
        return 1 - u * (1 - low)
    import torch

    normal = torch.distributions.Normal(torch.tensor(1.0, dtype=torch.float64), 0.25)
    below = normal.cdf(torch.tensor(low, dtype=torch.float64))  # probability of less than `low`; of less than 1, 0.5
    return float(normal.icdf(below + u * (0.5 - below)))


def num_masked(ratio: float, length: int) -> int:
    """Number of tokens that are masked at a ratio: rounded up, as published, and at least 1."""
    return max(1, math.ceil(length * ratio))


def schedule(length: int, steps: int, late: int | None = None) -> Iterator[tuple[int, int]]:
    """Cosine schedule of sampling: yields (start, stop), predicting `order[:, start:stop]` at each step.

    After step k, floor(L cos(pi/2 (k+1)/steps)) tokens stay masked, clipped so that each step predicts at least
    one token and one is left for the last step, which predicts all that remain (as published).

    With `late`, the first half of the tokens (rounded up) is spread evenly over steps - late steps, and the rest over
    the last `late` steps: generation, then reconstruction (GtR, arXiv:2510.17171).
    """
    if late is not None:
        half = (length + 1) // 2
        for first, count, phase_steps in ((0, half, steps - late), (half, length - half, late)):
            for k in range(phase_steps):
                yield first + count * k // phase_steps, first + count * (k + 1) // phase_steps
        return
    masked = length
    for k in range(steps):
        still_masked = math.floor(length * math.cos(math.pi / 2 * (k + 1) / steps))
        still_masked = max(1, min(masked - 1, still_masked)) if k < steps - 1 else 0
        yield length - masked, length - still_masked
        masked = still_masked


def by_scale(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Schedule of VAR: yields (start, stop) of each scale; `sizes` are the numbers of tokens of the scales."""
    yield from pairwise(accumulate(sizes, initial=0))


def checkerboard(order: Tensor) -> Tensor:
    """The orders (B, L) with all positions of one colour of a checkerboard first: that of the top left corner.

    Within a colour the order stays as it is. When a token of the second colour is predicted, its neighbours above,
    below, left and right are all known (GtR, arXiv:2510.17171).

    Raises:
        ValueError: L is no square number.
    """
    side = math.isqrt(order.shape[1])
    if side**2 != order.shape[1]:
        raise ValueError(f"order checkerboard of {order.shape[1]} tokens; accepted: a square grid")
    colour = (order // side + order % side) % 2
    return order.gather(1, colour.argsort(dim=1, stable=True))


def kept_first(order: Tensor, mask: Tensor) -> Tensor:
    """The orders (B, L) with the positions of `mask` (L,) first; within both parts the order stays as it is."""
    return order.gather(1, (~mask)[order].long().argsort(dim=1, stable=True))


def by_confidence(log_p: Tensor, noise_scale: float, remaining: float, noise: Noise) -> Tensor:
    """Tokens of each image, the most confident first: order `confidence`, the sampling of MAGE and MaskGIT.

    confidence = log p(drawn id) + noise_scale * remaining * Gumbel noise, which becomes log p at the last step, as in
    MAGE's published code (scale 4.5, unguided). Here p is the distribution that the id was drawn from, with guidance
    and temperature; MAGE has neither, so that choice is ours.

    Args:
        log_p: (B, n) log probabilities of the drawn ids, in nats.
        noise_scale: scale of the Gumbel noise at the start.
        remaining: share of all steps that come after this one, 0 at the last.
        noise: stream of this batch.

    Returns:
        (B, n) indices into the n tokens; of equally confident tokens the earlier one is first.
    """
    confidence = log_p + noise_scale * remaining * noise.gumbel(*log_p.shape)
    return confidence.argsort(dim=1, descending=True, stable=True)


def guidance_at(scale: float, kind: Literal["linear", "constant"], stop: int, length: int) -> float:
    """Guidance scale of the step after which `stop` of `length` tokens are known.

    Constant: `scale`. Linear: 1 + (scale - 1) (L - m)/L, where m tokens are masked after the step. The published code
    has m at least 1, also after the last step, so the full scale is never quite reached.
    """
    match kind:
        case "constant":
            return scale
        case "linear":
            return 1 + (scale - 1) * min(stop, length - 1) / length
        case _:
            assert_never(kind)


def guidance_at_scale(scale: float, kind: str, k: int, scales: int) -> float:
    """Guidance scale for the k-th of VAR's `scales` scales, k from 0; linear: from 1 (no guidance) to `scale`.

    VAR publishes (1 + t) conditional - t null with t from 0 to "cfg", so that cfg = scale - 1.
    """
    return scale if kind == "constant" else 1 + (scale - 1) * k / (scales - 1)
