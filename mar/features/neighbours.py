"""Nearest neighbours among images, exactly, and whether a copy or a fresh image would have them.

*Search.* Images are compared by their pixels. Let P project the pixels on a few orthonormal axes and r be the length of
what P leaves out. Then |a - b|^2 >= |P a - P b|^2 + (r_a - r_b)^2, whatever the axes; with the first principal axes of
the searched images this bound is close. It needs a matrix product of 256 numbers an image. Only images whose
bound is below the best distance found so far are compared by all pixels, so the result is that of brute force.

*Three samples.* The generated images are compared with M training images and m held-out ones (Meehan, Chaudhuri and
Dasgupta, AISTATS 2020). `mar/metrics/copies.py` makes a share of copies of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mar.study.limits import AXES

LEARNED = 2000  # images from which the axes are computed
FIRST = 8  # images of lowest bound that are compared first
BLOCK = 256  # images that are looked up at a time
MANY = 1 / 64  # share of all pairs from which on one product of all is faster than a comparison of each
PAIRS = 4096  # pairs that are compared by all pixels at a time
SLACK = 2e-5  # bound on the rounding of the bound in float32, in units of the squared lengths of both images


class Searched:
    """Images among which nearest ones are looked for.

    Of grey images, whose channels are equal, one channel is kept. Axes that are equal in all channels are then those of
    one channel, and a coordinate of such an image is sqrt(C) times that of its channel.

    Args:
        images: uint8 (M, C, ...).
        labels: class of each, (M,).
    """

    def __init__(self, images: Tensor, labels: np.ndarray) -> None:
        grey = bool((images == images[:, :1]).all())
        self.images, self.labels = (images[:, :1] if grey else images).flatten(1), labels  # (M, D)
        self._channels = images.shape[1] if grey else 1  # how many channels each number kept stands for
        step = max(1, len(images) // LEARNED)
        learned = self.images[::step].float()
        self._mean = learned.mean(0)
        self._axes = _principal(learned - self._mean)
        kept = [self._project(rows[:, None]) for rows in self.images.split(PAIRS)]
        self._coordinates = torch.cat(kept)  # (M, A + 1)
        self._squares = self._coordinates.square().sum(1)  # (M,)
        pixels = self.images.numpy()
        lengths = np.einsum("md,md->m", pixels, pixels, dtype=np.int64)
        self._lengths = torch.from_numpy(lengths).double() * self._channels  # (M,)

    def nearest(self, images: Tensor, own: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The nearest of the searched images to each of other images.

        Args:
            images: uint8 (N, C, ...).
            own: index of each among the searched images, which is then not its neighbour, (N,).

        Returns:
            Distance: root mean square difference of pixel values in [0, 1], float64 (N,). Index of the neighbour, the
            first one of equals, int64 (N,).
        """
        rows, found = images.reshape(len(images), self._channels, -1), []  # (N, C or 1, D)
        for block in torch.arange(len(rows)).split(BLOCK):
            found.append(self._nearest(rows[block], None if own is None else own[block]))
        squares, which = (torch.cat(parts) for parts in zip(*found, strict=True))
        return (squares / rows[0].numel()).sqrt().numpy() / 255.0, which.numpy()

    def _nearest(self, rows: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """Squared distance in units of pixel values, float64 (B,), and index of the neighbour of each row."""
        ours, lengths = self._project(rows), rows.double().square().sum((1, 2))
        sums = rows.sum(1, dtype=torch.float64)  # (B, D)
        squares = ours.square().sum(1)  # (B,)
        bound = torch.addmm(self._squares[None], ours, self._coordinates.T, alpha=-2.0).add_(squares[:, None])  # (B, M)
        everyone = torch.arange(len(rows))
        if own is not None:
            bound[everyone, own] = torch.inf

        def compared(who: Tensor, which: Tensor) -> Tensor:
            """Squared distances of pairs (row, searched image), exact: sums of whole numbers in float64."""
            pairs = zip(who.split(PAIRS), which.split(PAIRS), strict=True)
            products = torch.cat([(sums[a] * self.images[b]).sum(1) for a, b in pairs])
            return lengths[who] + self._lengths[which] - 2.0 * products

        first = bound.topk(min(FIRST, bound.shape[1]), largest=False)[1]  # (B, FIRST)
        best = compared(everyone.repeat_interleave(first.shape[1]), first.flatten()).view(first.shape).amin(1)
        limit = best.float() + SLACK * (squares + self._squares.max())
        near = bound <= limit[:, None]
        who, which = near.nonzero(as_tuple=True)  # sorted by row, then by index
        if len(who) < MANY * near.numel():
            exact = compared(who, which)
        else:  # images unlike all that are searched have bounds that exclude few
            exact = lengths[who] + self._lengths[which] - 2.0 * self._products(sums)[near]
        least = best.scatter_reduce(0, who, exact, "amin")
        hit = exact == least[who]
        index = torch.full((len(rows),), len(self.images)).scatter_reduce(0, who[hit], which[hit], "amin")
        return least, index

    def _products(self, sums: Tensor) -> Tensor:
        """Products of images, summed over their channels (B, D), with all that are searched, exact: float64 (B, M)."""
        return torch.cat([sums @ rows.double().T for rows in self.images.split(PAIRS)], 1)

    def _project(self, rows: Tensor) -> Tensor:
        """Coordinates on the axes and the length of what they leave out, (B, A + 1), of images (B, C or 1, D).

        One channel for C equal ones is enough.
        """
        centred = rows.float() - self._mean
        on_axes = centred.mean(1) @ self._axes * self._channels**0.5
        rest = centred.square().sum(2).mean(1) * self._channels - on_axes.square().sum(1)
        return torch.cat([on_axes, rest.clamp(min=0.0).sqrt()[:, None]], 1)


def _principal(rows: Tensor) -> Tensor:
    """About the first principal axes of centred rows (N, D): orthonormal, (D, A), by subspace iteration."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.randn(rows.shape[1], min(AXES, *rows.shape), generator=generator)
    for _ in range(3):
        axes = torch.linalg.qr(rows.T @ (rows @ axes))[0]
    return axes


@dataclass(frozen=True)
class Seen:
    """The two sets of real images of the three-sample test.

    Attributes:
        train: the M training images.
        unseen: m images that no model was trained on; None if there are none.
    """

    train: Searched
    unseen: Searched | None

    def arrays(self, images: Tensor, own: Tensor | None = None) -> dict[str, np.ndarray]:
        """What the metrics need to know of the neighbours of images, one number for each image.

        `nearest` is the distance to the nearest training image. Among all M + m images together, `neighbour` is the
        index of the nearest one (training images first), `from_train` is 1 if that is a training image and 0 if not,
        and `expected` is the share of training images in its class, which is the probability of `from_train` where
        nothing is copied. Where a training and a held-out image are equally near, `from_train` is that probability.

        Args:
            images: uint8 (N, ...).
            own: index of each among the held-out images, if they are those, (N,).
        """
        nearest, which = self.train.nearest(images)
        if self.unseen is None:
            return {"nearest": nearest}
        other, index = self.unseen.nearest(images, own)
        seen = nearest <= other
        classes = 1 + max(self.train.labels.max(), self.unseen.labels.max())
        counts = [np.bincount(side.labels, minlength=classes) for side in (self.train, self.unseen)]
        label = np.where(seen, self.train.labels[which], self.unseen.labels[index])
        unseen = counts[1][label].astype(np.float64)
        if own is not None:  # an image is not its own neighbour
            unseen -= self.unseen.labels[own.numpy()] == label
        expected = counts[0][label] / (counts[0][label] + unseen)
        return {
            "nearest": nearest,
            "neighbour": np.where(seen, which, len(self.train.images) + index),
            "from_train": np.where(nearest == other, expected, seen.astype(np.float64)),
            "expected": expected,
        }
