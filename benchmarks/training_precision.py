"""A training step with the backbone in bf16, and one with torch.compile, against the step in fp32.

Not part of `make bench`, as torch.compile takes minutes for each size.

One thread, CPU seconds, pairs in alternating order: forward, backward, AdamW, weight average. Head and loss stay in
fp32 (`head_dtype: fp32` of a recipe). Sizes: `digits` is that of the study; `small` has 4.4M parameters and 16 tokens
an image, batch 128; `large` 10.9M and 64 tokens, batch 32; `few` is small with batch 8. The processor decides: its
avx512_bf16 multiplies pairs of bf16 at twice the rate of fp32 at best, amx_bf16 many times faster, and one with neither
emulates bf16.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.tables import Parts, Table
from benchmarks.training import step_at_once
from mar.models.heads.head import build_head
from mar.models.masked import Masked
from mar.models.model import Model
from mar.models.order import draw_order
from mar.runtime.noise import Noise
from mar.runtime.precision import autocast
from mar.study.parts import DiffusionHead, MaskedBackbone

DIM, CLASSES, PAIRS = 16, 10, 7
# width, depth, tokens, batch
SIZES = {"digits": (128, 3, 16, 32), "few": (192, 4, 16, 8), "small": (192, 4, 16, 128), "large": (256, 6, 64, 32)}
WAYS: dict[str, dict[str, Any]] = {"backbone in bf16": {"dtype": "bf16"}, "torch.compile": {"compiled": True}}
CPU = torch.device("cpu")


def step(size: str, dtype: str = "fp32", compiled: bool = False) -> tuple[Callable[[], None], int]:
    """A training step of a size with half of the tokens known, and the number of parameters."""
    width, depth, tokens, batch = SIZES[size]
    torch.manual_seed(0)
    backbone = MaskedBackbone.of(kind="masked", width=width, depth=depth, heads=4, buffer=16, dropout=0.0)
    head = DiffusionHead.of(kind="diffusion", width=width, depth=3, noise_draws=4)
    model = Model(Masked(backbone, nn.Linear(DIM, width), tokens, CLASSES), build_head(head, width, DIM)).train()
    model.head_dtype = "fp32" if dtype != "fp32" else None
    if compiled:
        model.compile_blocks()
    noise = Noise("benchmark")
    inputs = (
        noise.normal(batch, tokens, DIM),
        noise.integers(CLASSES, batch),
        draw_order("random", batch, tokens, noise),
    )

    def loss() -> torch.Tensor:
        with autocast(CPU, dtype):
            return model.loss(*inputs, tokens // 2, Noise("loss"))

    return step_at_once(model, loss), sum(parameter.numel() for parameter in model.parameters())


def compared(baseline: Callable[[], None], ours: Callable[[], None]) -> tuple[list[float], list[float]]:
    """Seconds of both in each pair."""
    pairs: list[tuple[float, float]] = []
    for i in range(PAIRS + 1):  # the first is not counted
        seconds = {}
        for action in (ours, baseline) if i % 2 else (baseline, ours):
            start = time.process_time()
            action()
            seconds[action] = time.process_time() - start
        pairs.append((seconds[baseline], seconds[ours]))
    return [a for a, _ in pairs[1:]], [b for _, b in pairs[1:]]


def instructions() -> str:
    """What this processor has for bf16."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8").split() if info.exists() else []
    return ", ".join(name for name in ("avx512_bf16", "amx_bf16") if name in flags) or "nothing for bf16"


def report() -> Parts:
    """What the processor has, and the table."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        head = ["", "parameters, millions", "fp32, CPU s", "so, CPU s", "ratio", "smallest to largest"]
        found = Table(head=head, form=["", ".1f", ".3g", ".3g", ".2f", ""], rows=[])
        for name, options in WAYS.items():
            for size in SIZES:
                (fp32, parameters), (ours, _) = step(size), step(size, **options)
                a, b = compared(fp32, ours)
                ratios = [one / other for one, other in zip(a, b, strict=True)]
                spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
                found.rows.append([f"{size}, {name}", parameters / 1e6, a, b, ratios, spread])
        said = f"{torch.backends.cpu.get_cpu_capability()}, {instructions()}; {PAIRS} pairs in alternating order."
        return [found, said]
    finally:
        torch.set_num_threads(threads)
