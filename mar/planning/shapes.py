"""Shapes of what torch computes, for the operations whose results its meta device works out in Python.

For a linear layer, a norm or an activation the meta device takes up to a millisecond, a hundred times as long as for
other operations: it goes through their definitions by smaller ones. Here the result is an empty tensor of the same
shape and type, so that what is counted of it is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten


class Shapes(TorchDispatchMode):
    """Answers the operations of KNOWN on meta tensors, others are torch's; enter it before the modes that count."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = KNOWN.get(func)
        if known is not None and not kwargs and args[0].device.type == "meta" and (out := known(*args)) is not None:
            return out
        return func(*args, **(kwargs or {}))


def _addmm(bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


def _pointwise(x: Tensor, *others: Any) -> Tensor | None:
    """Of real numbers, and other tensors that are alike; what changes type or shape is left to torch."""
    for other in others:
        if isinstance(other, Tensor):
            if (x.shape, x.dtype, x.stride()) != (other.shape, other.dtype, other.stride()):
                return None
        elif isinstance(other, complex):
            return None
    return torch.empty_like(x) if x.is_floating_point() else None


def _like(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _dropout(x: Tensor, share: float, training: bool | None) -> tuple[Tensor, Tensor] | None:
    return (torch.empty_like(x), torch.empty_like(x, dtype=torch.bool)) if training else None


def _layer_norm(x: Tensor, over: Sequence[int], weight: Any, bias: Any, eps: float) -> tuple[Tensor, ...]:
    rows = (*x.shape[: x.ndim - len(over)], *(1 for _ in over))
    return x.new_empty(x.shape), x.new_empty(rows), x.new_empty(rows)


def _layer_norm_backward(
    grad: Tensor, x: Tensor, over: Any, mean: Any, deviation: Any, weight: Any, bias: Any, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    return _wanted((x, weight, bias), wanted)


def _group_norm(
    x: Tensor, weight: Any, bias: Any, n: int, channels: int, positions: int, groups: int, eps: float
) -> tuple[Tensor, ...]:
    return x.new_empty(x.shape), x.new_empty(n, groups), x.new_empty(n, groups)


def _group_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Any,
    deviation: Any,
    weight: Any,
    n: int,
    channels: int,
    positions: int,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    return _wanted((x, x.new_empty(channels), x.new_empty(channels)), wanted)


def _resized(x: Tensor, size: Sequence[int], *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:2], *size)


def _wanted(of: Sequence[Tensor | None], wanted: Sequence[bool]) -> tuple[Tensor | None, ...]:
    """Gradients of the tensors for which they are wanted."""
    return tuple(x.new_empty(x.shape) if yes and x is not None else None for x, yes in zip(of, wanted, strict=True))


KNOWN: dict[Any, Callable[..., Any]] = {
    aten.addmm.default: _addmm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    aten.native_group_norm.default: _group_norm,
    aten.native_group_norm_backward.default: _group_norm_backward,
    aten.gelu.default: _pointwise,
    aten.add.Tensor: _pointwise,
    aten.sub.Tensor: _pointwise,
    aten.mul.Tensor: _pointwise,
    aten.mul.Scalar: _pointwise,
    aten.div.Tensor: _pointwise,
    aten.gelu_backward.default: _pointwise,
    aten.silu.default: _pointwise,
    aten.silu_backward.default: _pointwise,
    aten.pow.Tensor_Scalar: _pointwise,
    aten.clamp.default: _pointwise,
    aten.relu.default: _pointwise,
    aten.threshold_backward.default: _pointwise,
    aten._safe_softmax.default: _like,
    aten._softmax_backward_data.default: _like,
    aten.native_dropout.default: _dropout,
    aten.native_dropout_backward.default: _like,
    aten.upsample_bicubic2d.default: _resized,
}
