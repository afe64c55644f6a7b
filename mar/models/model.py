"""The model of a variant: one backbone joined with one head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from mar.models.blocks import Block
from mar.models.causal import Causal
from mar.models.heads.diffusion_loss import Denoiser
from mar.models.heads.head import build_head
from mar.models.masked import Masked
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.scales import AdaLNBlock, NextScale, PlainBlock, Scales
from mar.runtime.noise import Noise
from mar.study.parts import Backbone, Head
from mar.study.study import Study

if TYPE_CHECKING:  # diffusers takes seconds to import and only DiT needs it
    from mar.models.dit import DiT


# Graphs of one function, at most: torch's limit of 8 counts those of all blocks and the denoiser together, and computes
# what comes after it uncompiled.
GRAPHS = 64


class Model(nn.Module):
    """A variant: tokens -> backbone -> z -> head. Neither part knows which other one it has."""

    joint: Literal[False] = False  # True in DiT, which draws all tokens in one diffusion process
    backbone: Any  # gives the condition z of each token; methods as in Masked: forward, start, predict
    head: Any  # p(token given z); methods as in DiffusionLoss: draw, loss, sample

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def checkpoint_blocks(self) -> None:
        """From now on, compute activations inside blocks again in the backward pass instead of keeping them."""
        self.backbone.checkpointing = True

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, in the order in which they compute."""
        return [part for part in self.backbone.modules() if isinstance(part, Block | AdaLNBlock | PlainBlock)]

    def compile_blocks(self) -> None:
        """Compile the blocks and the denoiser when they are first used; parameters keep their names.

        Blocks of equal shape share one compilation. The rest of the model is not compiled: it draws random numbers, or
        its shapes depend on the mask ratio.
        """
        torch._dynamo.config.recompile_limit = GRAPHS
        for part in (*self.blocks(), *(part for part in self.head.modules() if isinstance(part, Denoiser))):
            part.compile()

    def loss(self, tokens: Tensor, labels: Tensor, order: Tensor, known: int, noise: Noise) -> Tensor:
        """Training loss of a batch.

        Args:
            tokens: (B, L, D) vectors or (B, L) ids.
            labels: (B,) classes, -1 where the label is dropped.
            order: (B, L) positions in generation order.
            known: number of tokens that a masked backbone sees.
            noise: stream of the head's random numbers.
        """
        z, targets = self.backbone(tokens, labels, order, known)  # (B, n, W) and positions (B, n)
        batch, length = order.shape
        rows = (
            targets + length * torch.arange(batch, device=targets.device)[:, None]
        ).flatten()  # (B n,) of B L tokens
        loss: Tensor = self.head.loss(
            z.flatten(0, 1), tokens.flatten(0, 1)[rows], self.head.draw(batch * length, rows, noise)
        )
        return loss


class TokenShape(Protocol):
    """What a model needs to know of its tokens; the manifest of tokens has all of it."""

    @property
    def kind(self) -> str:
        """Moments or latents, which are vectors, or ids."""

    @property
    def tokens(self) -> int:
        """Length L of the sequence."""

    @property
    def grid(self) -> int:
        """Side of the square grid of tokens."""

    @property
    def classes(self) -> int:
        """Number of classes."""

    @property
    def token_dim(self) -> int:
        """Length D of a vector; 0 with ids."""

    @property
    def codebook_size(self) -> int:
        """Number of ids; 0 with vectors."""

    @property
    def scales(self) -> tuple[int, ...]:
        """Sides of VAR's scales."""

    @property
    def code_width(self) -> int:
        """Length of a code of VAR's tokenizer."""


def build_model(
    study: Study, variant: str, tokens: TokenShape, quantizer: MultiScaleQuantizer | None = None
) -> Model | DiT:
    """The untrained model of a variant on its tokens (the manifest of tokens/<tokenizer>/train); see `build`."""
    v = study.variants[variant]
    return build(study.backbones[v.backbone], study.heads[v.head], tokens, quantizer)


def build(
    config: Backbone, head: Head, tokens: TokenShape, quantizer: MultiScaleQuantizer | None = None
) -> Model | DiT:
    """An untrained model.

    Args:
        config: the backbone.
        head: the head.
        tokens: kind, number and shape of its tokens.
        quantizer: of the multi-scale tokenizer, which makes the input of a scales backbone from ids. Without one such
            a model can be built and counted but not run.
    """
    if config.kind == "dit":
        from mar.models.dit import DiT

        return DiT(config, tokens.grid, tokens.token_dim, tokens.classes)
    backbone: nn.Module
    if config.kind == "scales":
        next_scale = NextScale(quantizer, tokens.code_width, config.width)
        backbone = Scales(config, next_scale, tokens.scales, tokens.classes)
    else:
        if tokens.kind == "ids":
            z_proj: nn.Module = nn.Embedding(tokens.codebook_size, config.width)
        else:
            z_proj = nn.Linear(tokens.token_dim, config.width)
        kind = {"causal": Causal, "masked": Masked}[config.kind]
        backbone = kind(config, z_proj, tokens.tokens, tokens.classes)
    return Model(backbone, build_head(head, config.width, tokens.token_dim, tokens.codebook_size))
