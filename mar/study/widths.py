"""Denoisers that are narrower than the tokens whose noise they predict."""

from __future__ import annotations

from mar.study.parts import DiffusionHead, FlowHead
from mar.study.study import Study


def narrow(study: Study) -> list[str]:
    """A sentence for each variant whose denoiser is narrower than a token has numbers.

    The denoiser ends with a linear layer, so what it predicts of D numbers varies in as many directions as it is wide.
    The noise of the others is not taken away, and sampling amplifies it (Zheng et al. 2025, arXiv:2510.11690, state the
    loss that remains).
    """
    told = []
    for name, variant in study.variants.items():
        head, numbers = study.heads[variant.head], study.tokenizers[variant.tokenizer].token_dim
        if variant.seeds and isinstance(head, DiffusionHead | FlowHead) and head.width < numbers:
            told.append(
                f"{name}: heads.{variant.head}.width is {head.width} and a token of {variant.tokenizer} has {numbers} "
                f"numbers: what it draws keeps the noise of {numbers - head.width} directions; a width of {numbers} or "
                "more, or smaller tokens, would not."
            )
    return told
