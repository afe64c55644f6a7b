"""A causal backbone with its key-value cache against the loop that computes the whole sequence for every token."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.models import TOKEN_DIM, TOKENS, build, inputs
from benchmarks.paired import paired
from benchmarks.tables import Pairs, Parts
from mar.models.model import Model
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Sampling

BATCH, PAIRS = 4, 2


def report() -> Parts:
    """The table of the two loops, and the time of a token early and late in the sequence."""
    model, (_, labels, order) = build("causal").eval(), inputs(BATCH)
    blank = torch.zeros(TOKENS, TOKEN_DIM)

    def draw(cached: bool) -> None:
        settings = Sampling(steps=TOKENS, diffusion_steps=25, guidance=1.0, kv_cache=cached)
        generate(model, labels, order, blank, settings, Noise("draw"))

    rows = [paired("AR, without and with key-value cache", lambda: draw(False), lambda: draw(True), PAIRS)]
    first, last = quarters(model, lambda: draw(True))
    return [
        f"{BATCH} images, {TOKENS} tokens, one a step, 25 diffusion steps.",
        Pairs(rows=rows),
        f"With the cache the backbone takes {first:.2f} ms a token in the first quarter and {last:.2f} in the last "
        f"({last / first:.2f} times; CPU, one thread, median).",
    ]


def quarters(model: Model, draw: Callable[[], object]) -> tuple[float, float]:
    """Median CPU milliseconds of the backbone for a token of the first and of the last quarter."""
    predict, seconds = model.backbone.predict, []

    def timed(*arguments: Any) -> Tensor:
        start = time.process_time()
        z: Tensor = predict(*arguments)
        seconds.append(time.process_time() - start)
        return z

    threads = torch.get_num_threads()
    # mypy allows no method of an instance in the place of its class's.
    model.backbone.predict = timed  # type: ignore[assignment,method-assign]
    torch.set_num_threads(1)
    try:
        draw()
    finally:
        torch.set_num_threads(threads)
        del model.backbone.predict  # removes the attribute of this instance; the method of its class stays
    quarter = TOKENS // 4
    by_token = np.array(seconds) * 1000
    return float(np.median(by_token[:quarter])), float(np.median(by_token[-quarter:]))
