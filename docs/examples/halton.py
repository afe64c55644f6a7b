"""An order of one's own: the positions by Halton's sequence, which spreads any number of first tokens evenly."""

from typing import ClassVar

import torch
from pydantic import Field

from mar.study.parts import Order


class Halton(Order):
    """What a variant says: `order: "halton.py:Halton"`, or a mapping with `kind` and these keys."""

    implementation: ClassVar[str] = "halton"
    label: ClassVar[str] = "Halton"

    bases: tuple[int, int] = Field((2, 3))


def halton(order, rows, length, noise):
    """Positions (B, L) in generation order, the same for all images.

    Args:
        order: the options.
        rows: number of images B.
        length: number of tokens L, a square.
        noise: stream of random numbers, and the device.
    """
    side, positions, step = round(length**0.5), {}, 1
    while len(positions) < length:
        y, x = (int(side * inverse(step, base)) for base in order.bases)
        positions.setdefault(y * side + x)
        step += 1
    return torch.tensor(list(positions), device=noise.device).expand(rows, length)


def inverse(number, base):
    """The digits of a number in a base, mirrored at the point: 6 = 110 in base 2 gives 0.011 = 3/8."""
    value, share = 0.0, 1.0
    while number:
        share /= base
        number, digit = divmod(number, base)
        value += digit * share
    return value
