"""Distance to the bound: the share of this core's rate of matrix products that sampling and a training step reach.

The rate is that of the fastest square product of this machine, float32, one thread. A share is the counted operations
of matrix products (those of attention too) over CPU seconds and that rate, so what is missing is all else: norms,
activations, calls, and products too small or too narrow to be fast. The rate is measured in turn with each model, so
that a machine that slows down slows both. Sampling: 8 autoregressive and 25 diffusion steps, guidance 3.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.tables import Parts, Table
from mar.models.heads.head import build_head
from mar.models.masked import Masked
from mar.models.model import Model
from mar.models.order import draw_order
from mar.planning import costs
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import DiffusionHead, MaskedBackbone, Sampling

SIZES = (  # tokens, numbers a token, width, depth, images that are drawn, images of a training step
    (16, 8, 128, 3, 64, 64),
    (64, 16, 256, 4, 16, 32),
    (256, 16, 512, 4, 1, 2),
)
SQUARES, ROUNDS, CLASSES = (512, 1024, 2048), 3, 10
SETTINGS = Sampling(steps=8, diffusion_steps=25, guidance=3.0)


def report() -> Parts:
    """The rate of matrix products, and a row for each size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        side = max(SQUARES, key=lambda n: max(rate(n) for _ in range(ROUNDS)))
        head = ["", "parameters, millions", "sampling, GFLOP/s", "share", "training, GFLOP/s", "share"]
        found, rates = Table(head=head, form=["", ".1f", ".0f", ".0%", ".0f", ".0%"], rows=[]), list[float]()
        for tokens, dim, width, depth, drawn, batch in SIZES:
            model = made(tokens, dim, width, depth)
            cells = []
            for action in (sampling(model, tokens, dim, drawn), training(model, tokens, dim, batch)):
                reached, shares = [], []
                work = costs.operations(action)  # calls it once, uncounted
                for _ in range(ROUNDS):
                    rates.append(rate(side))
                    reached.append(work / seconds(action) / 1e9)
                    shares.append(reached[-1] / rates[-1])
                cells += [reached, shares]
            name = f"{tokens} tokens, width {width}, {depth} + {depth} blocks"
            found.rows.append([name, costs.count_parameters(model) / 1e6, *cells])
        middle = statistics.median(rates)
        return [found, f"Products of {side} x {side} matrices, one thread: {middle:.0f} GFLOP/s."]
    finally:
        torch.set_num_threads(threads)


def rate(side: int) -> float:
    """GFLOP/s of the product of two square matrices."""
    a, b = torch.randn(2, side, side, generator=torch.Generator().manual_seed(0))
    times = max(1, 2 * 2048**3 // (2 * side**3))  # as much work for each side
    return 2 * side**3 * times / seconds(lambda: [a @ b for _ in range(times)]) / 1e9


def seconds(action: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    action()
    return time.process_time() - start


def made(tokens: int, dim: int, width: int, depth: int) -> Model:
    """A masked backbone with Diffusion Loss as wide."""
    backbone = MaskedBackbone.of(kind="masked", width=width, depth=depth, heads=4, buffer=16, dropout=0.0)
    head = DiffusionHead.of(kind="diffusion", width=width, depth=3, noise_draws=4)
    return Model(Masked(backbone, nn.Linear(dim, width), tokens, CLASSES), build_head(head, width, dim))


def sampling(model: Model, tokens: int, dim: int, batch: int) -> Callable[[], object]:
    """Draws so many images."""
    noise = Noise("bound")
    labels, order = noise.integers(CLASSES, batch), draw_order("random", batch, tokens, noise)
    return lambda: generate(model.eval(), labels, order, torch.zeros(tokens, dim), SETTINGS, Noise("draw"))


def training(model: Model, tokens: int, dim: int, batch: int) -> Callable[[], object]:
    """Loss, gradients and the optimizer's step of so many images, of which 85% of the tokens are masked."""
    noise = Noise("bound")
    x, labels = noise.normal(batch, tokens, dim), noise.integers(CLASSES, batch)
    order, known = draw_order("random", batch, tokens, noise), round(0.15 * tokens)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        model.train().loss(x, labels, order, known, Noise("step")).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
