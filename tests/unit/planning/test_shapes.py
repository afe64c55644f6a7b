"""Shapes by the short way are those that torch's meta device works out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from mar.planning.shapes import KNOWN, Shapes

META = torch.device("meta")


def of(*size: int, dtype: torch.dtype = torch.float32, grad: bool = False) -> Tensor:
    return torch.empty(size, device=META, dtype=dtype).requires_grad_(grad)


def attention() -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(of(2, 4, 6, 8, grad=True), of(2, 4, 6, 8), of(2, 4, 6, 8))


def linear() -> Tensor:
    return F.linear(of(2, 3, 8, grad=True), of(5, 8, grad=True), of(5, grad=True))


def in_half() -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return F.gelu(F.linear(of(6, 8), of(5, 8), of(5)).bfloat16())


CALLS: dict[str, Callable[[], Any]] = {
    "linear": linear,
    "in half precision": in_half,
    "layer norm": lambda: F.layer_norm(of(2, 3, 8, grad=True), (8,), of(8, grad=True), of(8, grad=True)),
    "layer norm without weights": lambda: F.layer_norm(of(2, 3, 8, grad=True), (3, 8)),
    "layer norm of weights alone": lambda: F.layer_norm(of(2, 3, 8), (8,), of(8, grad=True)),
    "group norm": lambda: F.group_norm(of(2, 8, 4, 4, grad=True), 4, of(8, grad=True), of(8, grad=True)),
    "group norm without weights": lambda: F.group_norm(of(2, 8, 4, 4, grad=True), 4),
    "group norm, channels last": lambda: F.group_norm(of(2, 8, 4, 4).to(memory_format=torch.channels_last), 4, of(8)),
    "gelu": lambda: F.gelu(of(2, 8, grad=True)),
    "tanh gelu": lambda: F.gelu(of(2, 8, grad=True), approximate="tanh"),
    "silu": lambda: F.silu(of(2, 8, grad=True)),
    "relu": lambda: F.relu(of(2, 8, grad=True)),
    "sums": lambda: of(2, 8, grad=True) + of(2, 8) - of(2, 8),
    "sums over some": lambda: of(2, 8, grad=True) + of(8, grad=True) - of(2, 1),
    "products": lambda: of(2, 8, grad=True) * of(2, 8, grad=True) / of(2, 8, grad=True) * 3 / 2,
    "products over some": lambda: of(2, 8, grad=True) * of(8, grad=True) / of(2, 1, grad=True),
    "in place": lambda: of(2, 8).mul_(of(8)).add_(1.0),
    "scaled": lambda: torch.add(of(2, 8, grad=True), of(2, 8), alpha=2),
    "of several types": lambda: of(2, 8) * of(2, 8, dtype=torch.bfloat16) + of(2, 8, dtype=torch.long),
    "of whole numbers": lambda: of(2, 8, dtype=torch.long) * 2.5 + of(2, 8, dtype=torch.long) / 3,
    "of two whole numbers": lambda: of(2, 8, dtype=torch.long) / of(2, 8, dtype=torch.long),
    "whole numbers within bounds": lambda: of(2, 8, dtype=torch.long).clamp(0.5, 1.5),
    "of one number": lambda: of() * of(2, 8) + of(),
    "transposed": lambda: of(2, 8).t() + of(8, 2) + of(2, 8).t(),
    "expanded": lambda: of(1, 8).expand(4, 8) * of(1, 8).expand(4, 8) + F.relu(of(8).expand(4, 8)),
    "powers": lambda: of(2, 8, grad=True) ** 2 + of(2, 8, grad=True).clamp(min=0.0, max=1.0) ** 0.5,
    "attention": attention,
    "softmax": lambda: torch.softmax(of(2, 3, 8, grad=True), -1),
    "dropout": lambda: torch.native_dropout(of(2, 8, grad=True), 0.1, True)[0],
    "no dropout": lambda: torch.native_dropout(of(2, 8), 0.1, False)[0],
    "bicubic": lambda: F.interpolate(of(2, 3, 8, 8), size=(5, 7), mode="bicubic"),
    "complex": lambda: of(2, 8) * 1j,
}


class Seen(TorchDispatchMode):
    """Each operation with the shapes, types and strides of its results."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Any] = []
        self.names: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.names.add(func)
        for x in out if isinstance(out, tuple | list) else (out,):
            told = (x.shape, x.dtype, x.untyped_storage().nbytes(), x.device.type) if isinstance(x, Tensor) else x
            self.results.append((str(func), told))
        return out


def run(call: Callable[[], Any], short: bool) -> Seen:
    with ExitStack() as stack:
        if short:
            stack.enter_context(Shapes())
        seen = stack.enter_context(Seen())
        out = call()
        if out.requires_grad:
            out.backward(torch.empty_like(out))
    return seen


@pytest.mark.parametrize("name", CALLS)
def test_results_are_those_of_torch(name: str) -> None:
    assert run(CALLS[name], short=True).results == run(CALLS[name], short=False).results


def test_numbers_on_a_cpu_are_computed() -> None:
    x, layer = torch.arange(12.0).view(3, 4), torch.nn.Linear(4, 2)
    calls = [
        lambda: layer(x),
        lambda: F.layer_norm(x, (4,)),
        lambda: F.relu(x - 5) + x,
        lambda: F.group_norm(x, 2),
        lambda: x.clamp(1, 2),
    ]
    for call in calls:
        with Shapes():
            found = call()
        torch.testing.assert_close(found, call(), rtol=0, atol=0)


def test_every_known_operation_takes_part() -> None:
    assert set(KNOWN) <= set().union(*(run(call, short=False).names for call in CALLS.values()))
