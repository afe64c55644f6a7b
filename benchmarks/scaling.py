"""How cost grows: exponents of a fit of log seconds to log size, beside those of the counted operations.

CPU seconds with one thread, median of three walks through all sizes. Intervals are those of the fit's slope at 95 %.
Sampling: masked backbone (2 + 2 blocks), Diffusion Loss, 8 autoregressive and 4 diffusion steps, without guidance.
Where a size is small, costs that do not grow (64 buffer tokens, calls of functions) keep the measured exponent below.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.stats import linregress
from scipy.stats import t as student
from torch import nn

from benchmarks.tables import Parts, Table
from mar.metrics import formulas
from mar.metrics.moments import Moments
from mar.models.heads.head import build_head
from mar.models.masked import Masked
from mar.models.model import Model
from mar.models.order import draw_order
from mar.planning import costs
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import DiffusionHead, MaskedBackbone, Sampling

TOKENS, BATCHES, WIDTHS, IMAGES = (
    (64, 144, 256, 576, 1024),
    (1, 2, 4, 8, 16),
    (64, 128, 256, 512),
    (1000, 2000, 4000, 8000),
)
DIM, CLASSES, FEATURES, WALKS = 16, 10, 256, 3
SETTINGS = Sampling(steps=8, diffusion_steps=4, guidance=1.0)

Point = tuple[int, Callable[[], object], float]  # size, what is timed, its operations


def report() -> Parts:
    """Exponents, measured and counted, and seconds of the smallest and the largest size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        axes: dict[str, list[Point]] = {
            "sampling: tokens": [sampling(count, 2, 128) for count in TOKENS],
            "sampling: batch": [sampling(256, batch, 128, of=batch) for batch in BATCHES],
            "sampling: width": [sampling(256, 2, width, of=width) for width in WIDTHS],
            "training step: tokens": [training(count, 4) for count in TOKENS],
            "mean and covariance: images": [moments(count) for count in IMAGES],
            "precision and recall: images": [neighbours(count) for count in IMAGES[:3]],
        }
        head = ["", "sizes", "CPU s: smallest", "largest", "exponent measured", "of the operations"]
        found = Table(head=head, form=["", "", ".4f", ".4f", "", ".2f"], rows=[])
        for name, points in axes.items():
            sizes, seconds = [size for size, _, _ in points], timed([action for _, action, _ in points])
            slope, half = fitted(sizes, [statistics.median(walks) for walks in seconds])
            counted = fitted(sizes, [operations for _, _, operations in points])[0]
            measured = f"**{slope:.2f}** ({slope - half:.2f} to {slope + half:.2f})"
            found.rows.append(
                [name, f"{sizes[0]:,} to {sizes[-1]:,}", seconds[0], seconds[-1], measured, counted],
            )
        return [found]
    finally:
        torch.set_num_threads(threads)


def timed(actions: list[Callable[[], object]]) -> list[list[float]]:
    """CPU seconds of each in every walk through all of them, after one that is not counted."""
    walks: list[list[float]] = []
    for _ in range(WALKS + 1):
        walks.append([])
        for action in actions:
            start = time.process_time()
            action()
            walks[-1].append(time.process_time() - start)
    return [list(of) for of in zip(*walks[1:], strict=True)]


def fitted(sizes: list[int], values: list[float]) -> tuple[float, float]:
    """Slope of log values over log sizes, and half the width of its interval."""
    fit = linregress(np.log(sizes), np.log(values))
    return float(fit.slope), float(student.ppf(0.975, len(sizes) - 2) * fit.stderr)


def model(tokens: int, width: int) -> Model:
    """A masked backbone with Diffusion Loss."""
    backbone = MaskedBackbone.of(kind="masked", width=width, depth=2, heads=4, buffer=64, dropout=0.0)
    head = DiffusionHead.of(kind="diffusion", width=width, depth=2, noise_draws=1)
    return Model(Masked(backbone, nn.Linear(DIM, width), tokens, CLASSES), build_head(head, width, DIM))


def inputs(tokens: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (B,) and random orders (B, L)."""
    noise = Noise("scaling")
    return noise.integers(CLASSES, batch), draw_order("random", batch, tokens, noise)


def sampling(tokens: int, batch: int, width: int, of: int = 0) -> Point:
    """A batch drawn; its size is the number of tokens, or what is said."""
    made, (labels, order) = model(tokens, width), inputs(tokens, batch)

    def draw() -> None:
        generate(made.eval(), labels, order, torch.zeros(tokens, DIM), SETTINGS, Noise("draw"))

    return of or tokens, draw, costs.operations(draw)


def training(tokens: int, batch: int) -> Point:
    """Loss and gradients of a batch of which three quarters are masked."""
    made, (labels, order) = model(tokens, 128), inputs(tokens, batch)
    x, known = torch.randn(batch, tokens, DIM, generator=torch.Generator().manual_seed(0)), tokens // 4

    def step() -> None:
        made.train().zero_grad()
        made.loss(x, labels, order, known, Noise("step")).backward()

    return tokens, step, costs.operations(step)


def moments(count: int) -> Point:
    """Statistics of features."""
    return count, partial(add, drawn(count)), 2.0 * count * FEATURES**2


def add(rows: np.ndarray) -> None:
    """Mean and covariance of rows."""
    found = Moments()
    found.add(rows)
    found.statistics()


def neighbours(count: int) -> Point:
    """Precision and recall of two sets."""
    rows = drawn(2 * count)
    action = partial(formulas.precision_recall, rows[:count], rows[count:], 3)
    return count, action, 4.0 * 2.0 * FEATURES * count**2


def drawn(count: int) -> np.ndarray:
    """Features, float32 (N, 256)."""
    return np.random.default_rng(0).standard_normal((count, FEATURES), dtype=np.float32)
