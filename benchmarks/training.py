"""A training step with Diffusion Loss against the published one: the same gradients, in less time.

The first model has no dropout, so that gradients can be compared; that of the study `fashion` has the published one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks import baseline
from benchmarks.models import TOKENS, build, inputs
from benchmarks.paired import operations, paired
from benchmarks.tables import Pairs, Parts
from mar.models.model import Model, build_model
from mar.models.order import draw_order
from mar.planning.costs import Tokens
from mar.runtime.noise import Noise, seed_default
from mar.study import reading as studies
from mar.training.trainer import parameter_groups, start_average

BATCH, PAIRS, RATE = 8, 5, 1e-4
STEPS = 20  # of the small model, timed together
KNOWN = 38  # of 256 tokens: the mean mask ratio of training, 0.85


def report() -> Parts:
    """The table of the training steps, and the counted operations of the first."""
    published, ours = steps(build("masked").train(), build("masked").train(), inputs(BATCH), KNOWN)
    rows = [paired("step: loss, gradients, AdamW, weight average", published, ours, PAIRS)]
    what = f"{BATCH} images, {TOKENS} tokens of which {KNOWN} are known, 4 noise draws a token."
    rows.append(paired(f"{STEPS} steps of the study fashion, with dropout", *small(), PAIRS))
    return [what, Pairs(rows=rows), f"{operations(published, ours)}."]


def steps(
    one: Model, other: Model, batch: tuple[Tensor, Tensor, Tensor], known: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step of one model as in the published code, and of the other as `mar.training.trainer.Trainer` does it."""
    return (
        step_by_parameter(one, lambda: baseline.loss(one, *batch, known, Noise("loss"))),
        step_at_once(other, lambda: other.loss(*batch, known, Noise("loss"))),
    )


def small() -> tuple[Callable[[], None], Callable[[], None]]:
    """Steps of MAR with Diffusion Loss in the study fashion, of which half of the tokens are known."""
    study, name = studies.load("config/fashion.yaml"), "mar-diffloss"
    variant = study.variants[name]
    length, dim = study.tokens(variant.tokenizer), study.tokenizers[variant.tokenizer].token_dim
    batch, noise, cpu = study.recipes[variant.recipe].batch, Noise("benchmark"), torch.device("cpu")

    def model() -> Model:
        torch.manual_seed(0)
        made = build_model(study, name, Tokens.of(study, variant.tokenizer, classes=10))
        assert isinstance(made, Model)
        return made.train()

    data = noise.normal(batch, length, dim), noise.integers(10, batch), draw_order("random", batch, length, noise)
    published, ours = steps(model(), model(), data, length // 2)

    def theirs() -> None:
        for _ in range(STEPS):
            published()

    def our_own() -> None:
        for number in range(STEPS):
            seed_default(number, cpu)  # so that a training that goes on draws as one that never stopped
            ours()

    return theirs, our_own


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
    parameters: list[Tensor] = list(model.parameters())
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.02), lr=RATE, betas=(0.9, 0.95), fused=True)

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 3.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - 0.9999)

    return step
