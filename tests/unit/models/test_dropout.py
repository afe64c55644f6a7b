"""Dropout drawn by bits: shares, means, independence, gradients, and attention with it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mar.models import blocks
from mar.models.blocks import attend, dropout
from mar.runtime.noise import seed_default

N = 1_000_001  # no multiple of the four decisions of one draw


def mask(rate: float, seed: int = 0, count: int = N) -> Tensor:
    torch.manual_seed(seed)
    return dropout(torch.ones(count), rate)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_share_and_mean(rate: float) -> None:
    kept = mask(rate)
    values = kept.unique()
    assert values[0] == 0 and len(values) == 2
    assert values[1].item() == pytest.approx(1 / (1 - rate), rel=1e-3)
    share = (kept == 0).double().mean().item()
    assert abs(share - rate) < 5 * math.sqrt(rate * (1 - rate) / N) + 2**-17
    assert kept.double().mean().item() == pytest.approx(1, abs=5 * math.sqrt(rate / (1 - rate) / N))


def test_no_rate_and_nearly_all() -> None:
    x = torch.randn(5, 3)
    assert torch.equal(dropout(x, 0.0), x)
    assert torch.isfinite(mask(0.9999999)).all()


@pytest.mark.parametrize("apart", [1, 2, 3, 4, 8])
def test_neighbours_are_independent(apart: int) -> None:
    """Of one draw, and of the next ones: the correlation of decisions is zero within five standard errors."""
    kept = (mask(0.1) != 0).double()
    a, b = kept[:-apart], kept[apart:]
    correlation = ((a - a.mean()) * (b - b.mean())).mean() / kept.var()
    assert abs(correlation.item()) < 5 / math.sqrt(N)


def test_seed_decides_and_threads_do_not() -> None:
    before = torch.get_num_threads()
    try:
        masks = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            masks.append(mask(0.1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*masks)
    assert not torch.equal(masks[0], mask(0.1, seed=1))
    assert torch.equal(mask(0.1, count=7), masks[0][:7])


def test_gradient_is_the_mask() -> None:
    x = torch.randn(6, 5, 4, requires_grad=True)
    torch.manual_seed(0)
    y = dropout(x, 0.3)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, y)
    assert (x.grad == 0).any()


def test_half_precision_keeps_its_type() -> None:
    assert dropout(torch.ones(9, dtype=torch.bfloat16), 0.1).dtype == torch.bfloat16


@pytest.mark.parametrize("causal", [False, True])
def test_attention_but_for_dropout_is_torch_s(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    monkeypatch.setattr(blocks, "dropout", lambda x, rate: x)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64, requires_grad=True)
    ours = attend(q, k, v, causal, 0.1)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), (q, k, v)),
        torch.autograd.grad(theirs.square().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_attention_drops_weights() -> None:
    """Its mean over many draws is attention without dropout, and its scatter is that of torch's."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 1, 6, 8)
    many = (20_000, 1, 6, 8)
    ours = attend(q.expand(many), k.expand(many), v.expand(many), False, 0.2).double()
    plain = F.scaled_dot_product_attention(q, k, v)[0].double()
    theirs = F.scaled_dot_product_attention(q.expand(many), k.expand(many), v.expand(many), dropout_p=0.2).double()
    error = (ours.mean(0) - plain) / (ours.std(0) / math.sqrt(many[0]))
    assert error.abs().max().item() < 5
    torch.testing.assert_close(ours.std(0), theirs.std(0), rtol=0.05, atol=0.0)


def test_seeding_writes_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed writes one at each call for every kind of device that is not there."""

    def format_stack() -> None:
        raise AssertionError("a traceback was written")

    monkeypatch.setattr("traceback.format_stack", format_stack)
    seed_default(2, torch.device("cpu"))
    numbers = torch.rand(4)
    torch.default_generator.manual_seed(2)
    assert torch.equal(numbers, torch.rand(4))
