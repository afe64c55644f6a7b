"""Heads: the distribution of one token given its condition z, built by their kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mar.study import own_code
from mar.study.kinds import implementation, opened
from mar.study.parts import Head

ASKED = ("draw", "loss", "sample", "compiled", "undecayed")  # of a head by the model


def build_head(config: Head, width: int, token_dim: int = 0, codebook_size: int = 0) -> Any:
    """The head of a variant, a `mar.models.model.Head`.

    Args:
        config: its section of the study.
        width: width W of the backbone, that is of z.
        token_dim: numbers in a token, for heads on continuous tokens.
        codebook_size: number of ids, for heads on ids.

    Raises:
        ValueError: a head of the user's lacks what a model asks of it.
    """
    part: Any = opened(config)
    head = implementation(part)(part, width, codebook_size if config.ids else token_dim)
    check_complete(head, config.kind, ASKED)
    return head


def check_complete(part: Any, kind: str, asked: Sequence[str]) -> None:
    """Refuse a part that lacks what a model asks of it.

    Raises:
        ValueError: it is no module, or has not all of these names.
    """
    if not isinstance(part, nn.Module):
        raise ValueError(f"{kind}: its implementation gave {type(part).__name__}; accepted: a torch.nn.Module")
    if missing := [name for name in asked if not hasattr(part, name)]:
        raise ValueError(f"{kind}: {type(part).__name__} has no {', '.join(missing)}; accepted: {', '.join(asked)}")


def check_loss(head: object, loss: Any) -> None:
    """Refuse a loss that cannot be trained with.

    Raises:
        ValueError: it is not one floating-point number, or has no gradient where one is wanted.
    """
    sound = isinstance(loss, Tensor) and loss.shape == () and loss.is_floating_point()
    if sound and (loss.requires_grad or not torch.is_grad_enabled()):
        return
    without = " without a gradient" if sound else ""
    raise ValueError(
        f"{own_code.called(type(head))}: loss gave {_shown(loss)}{without}; accepted: one floating-point number with a "
        "gradient, the mean over all tokens"
    )


def check_drawn(head: object, drawn: Any, shape: tuple[int, ...]) -> None:
    """Refuse drawn tokens of another shape.

    Raises:
        ValueError: they are no tensor (n, D), of ids (n,), of the n rows that were asked for.
    """
    if not isinstance(drawn, Tensor) or drawn.shape != shape:
        found = f"sample gave tokens {_shown(drawn)}"
        raise ValueError(f"{own_code.called(type(head))}: {found}; accepted: {shape}")


def _shown(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
