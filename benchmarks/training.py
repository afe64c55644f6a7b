"""A training step with Diffusion Loss against the published one: the same gradients, in less time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import baseline
from benchmarks.models import TOKENS, build, inputs
from benchmarks.paired import operations, paired
from benchmarks.tables import Pairs, Parts
from mar.runtime.noise import Noise
from mar.training.trainer import parameter_groups, start_average

BATCH, PAIRS, RATE = 8, 5, 1e-4
KNOWN = 38  # of 256 tokens: the mean mask ratio of training, 0.85


def report() -> Parts:
    """The table of the training step, and the counted operations."""
    published, ours = published_step(), our_step()
    rows = [paired("step: loss, gradients, AdamW, weight average", published, ours, PAIRS)]
    what = f"{BATCH} images, {TOKENS} tokens of which {KNOWN} are known, 4 noise draws a token."
    return [what, Pairs(rows=rows), f"{operations(published, ours)}."]


def published_step() -> Callable[[], None]:
    """A step as in the published code."""
    model, batch = build("masked").train(), inputs(BATCH)
    return step_by_parameter(model, lambda: baseline.loss(model, *batch, KNOWN, Noise("loss")))


def our_step() -> Callable[[], None]:
    """A step as `mar.training.trainer.Trainer` does it."""
    model, batch = build("masked").train(), inputs(BATCH)
    return step_at_once(model, lambda: model.loss(*batch, KNOWN, Noise("loss")))


def step_by_parameter(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step that updates and averages every parameter by itself."""
    average = start_average(model, None)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.02), lr=RATE, betas=(0.9, 0.95))

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad()
        baseline.update_average(average, model, 0.9999)

    return step


def step_at_once(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """A step that updates and averages all parameters together."""
    average = list(start_average(model, None).values())
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.02), lr=RATE, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, list(model.parameters()), 1 - 0.9999)

    return step
