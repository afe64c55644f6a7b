"""Randomness by name: every random number comes from a generator seeded by what the number is for.

A stream of random numbers is named ("train", seed, micro-batch index) or ("sample", seed, chunk id), never by a rank, a
worker or the place in a program. That makes a resumed run equal to an uninterrupted one, and samples independent of how
they were split among processes. The numbers of a stream are those of one model of device: torch's generators on a CPU
and on a GPU differ, and on GPUs the numbers of a large tensor depend on how many threads run at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def seed_of(*name: str | int) -> int:
    """A 63-bit seed that is a function of the name only."""
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8]) >> 1


def seed_default(seed: int, device: torch.device) -> None:
    """Seed torch's default generator, which dropout draws from, at every step of a training.

    `torch.manual_seed` seeds those of all kinds of devices. For each kind that is not there it notes the call with a
    traceback, which takes a millisecond.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class Noise:
    """One named stream of random numbers on one device; on the meta device there are shapes and no numbers."""

    def __init__(self, *name: str | int, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.kept, self.count = slice(None), 1  # images of a group that draws, of as many that are drawn for
        self.generator: torch.Generator | None = None
        if self.device.type != "meta":  # which has no generators
            self.generator = torch.Generator(self.device).manual_seed(seed_of(*name))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return self._rows(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return self._rows(torch.rand, shape)

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel numbers."""
        return -torch.log(-torch.log(self.uniform(*shape).clamp(min=1e-20)))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high)."""
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    def groups(self, count: int, size: int) -> list[Noise]:
        """This stream for each group of `size` of `count` images; the last may be smaller.

        A group draws what all images would draw together and keeps its own rows: an image gets the same numbers
        whatever the size. Axis 0 of what is drawn must be images, or rows in the order of images.
        """
        if size >= count:
            return [self]
        return [self._group(slice(first, min(first + size, count)), count) for first in range(0, count, size)]

    def _group(self, kept: slice, count: int) -> Noise:
        group = object.__new__(Noise)
        group.device, group.kept, group.count, group.generator = self.device, kept, count, None
        if self.generator is not None:
            group.generator = torch.Generator(self.device)
            group.generator.set_state(self.generator.get_state())
        return group

    def _rows(self, draw: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        """Numbers (n, ...) of which axis 0 is that of this group's images."""
        numbers = {"generator": self.generator, "device": self.device}
        if self.kept == slice(None):
            return draw(shape, **numbers)
        each, rest = divmod(shape[0], self.kept.stop - self.kept.start)  # rows of an image
        assert not rest, f"{shape[0]} rows of {self.kept.stop - self.kept.start} images"
        all_rows = draw((each * self.count, *shape[1:]), **numbers)
        return all_rows[each * self.kept.start : each * self.kept.stop].clone()

    def permutations(self, rows: int, length: int) -> Tensor:
        """Independent uniform permutations of 0 to length - 1, one in each row: (rows, length) int64."""
        return self.uniform(rows, length).argsort(dim=1)
