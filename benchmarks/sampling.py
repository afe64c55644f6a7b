"""Sampling at published settings against the published algorithm: the same tokens, in less time."""

from __future__ import annotations

import torch

from benchmarks import baseline
from benchmarks.models import TOKEN_DIM, TOKENS, build, inputs
from benchmarks.paired import operations, paired
from benchmarks.tables import Pairs, Parts
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Sampling

BATCH, PAIRS = 2, 5


def report() -> Parts:
    """The table of both guidance scales, and the counted operations."""
    model, (_, labels, order) = build("masked").eval(), inputs(BATCH)
    blank, rows, counts = torch.zeros(TOKENS, TOKEN_DIM), [], []
    for guidance in (3.0, 1.0):
        settings = Sampling(steps=16, diffusion_steps=25, guidance=guidance)
        published, ours = (
            lambda draw=draw, settings=settings: draw(model, labels, order, blank, settings, Noise("draw"))
            for draw in (baseline.generate, generate)
        )
        rows.append(paired(f"sampling, guidance {guidance}", published, ours, PAIRS))
        counts.append(f"Guidance {guidance}: {operations(published, ours)}.")
    what = f"{BATCH} images, {TOKENS} tokens, 16 autoregressive steps, 25 diffusion steps."
    return [what, Pairs(rows=rows), "\n".join(counts)]
