"""Randomness by name: every random number comes from a generator seeded by what the number is for.

A stream of random numbers is named ("train", seed, micro-batch index) or ("sample", seed, chunk id), never by a rank, a
worker or the place in a program. That makes a resumed run equal to an uninterrupted one, and samples independent of how
they were split among processes. The numbers of a stream are those of one model of device: torch's generators on a CPU
and on a GPU differ, and on GPUs the numbers of a large tensor depend on how many threads run at once.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seed_of(*name: str | int) -> int:
    """A 63-bit seed that is a function of the name only."""
    return int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8]) >> 1


class Noise:
    """One named stream of random numbers on one device; on the meta device there are shapes and no numbers."""

    def __init__(self, *name: str | int, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.generator: torch.Generator | None = None
        if self.device.type != "meta":  # which has no generators
            self.generator = torch.Generator(self.device).manual_seed(seed_of(*name))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return torch.rand(shape, generator=self.generator, device=self.device)

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel numbers."""
        return -torch.log(-torch.log(self.uniform(*shape).clamp(min=1e-20)))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high)."""
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    def permutations(self, rows: int, length: int) -> Tensor:
        """Independent uniform permutations of 0 to length - 1, one in each row: (rows, length) int64."""
        return self.uniform(rows, length).argsort(dim=1)
