"""The model of a variant: one backbone joined with one head."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from mar.models.blocks import KVCache
from mar.models.heads.head import build_head, check_complete, check_loss
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.scales import NextScale
from mar.runtime.noise import Noise
from mar.runtime.precision import autocast
from mar.study.kinds import implementation, opened
from mar.study.parts import Backbone as BackboneConfig
from mar.study.parts import Head as HeadConfig
from mar.study.parts import Sampling
from mar.study.study import Study

if TYPE_CHECKING:  # diffusers takes seconds to import and only DiT needs it
    from mar.models.dit import DiT


# Graphs of one function, at most: torch's limit of 8 counts those of all blocks and the denoiser together, and computes
# what comes after it uncompiled.
GRAPHS = 64


class Backbone(Protocol):
    """What a model asks of its backbone: the condition z of each token to be generated.

    Attributes:
        checkpointing: whether activations inside blocks are computed again in the backward pass.
        bidirectional: whether tokens that are known attend to all others, so that those in front of the order may be
            given all at once. Such a backbone has `null_start`.
        sizes: numbers of tokens of its own steps; empty: the schedule of sampling says how many.
        undecayed: names of its parameters, or how they begin, that have no weight decay.
    """

    checkpointing: bool
    bidirectional: bool
    sizes: tuple[int, ...]
    undecayed: tuple[str, ...]

    def __call__(self, tokens: Tensor, labels: Tensor, order: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """Conditions z (B, n, W) of the tokens of a training step, and the positions (B, n) of its rows."""

    def layers(self) -> list[nn.Module]:
        """The transformer blocks, in the order in which they compute."""

    def start(self, batch: int) -> KVCache | None:
        """An empty cache of keys and values, where it has any."""

    def predict(
        self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, cache: Any = None
    ) -> Tensor:
        """z (B, stop - start, W) of the tokens at `order[:, start:stop]`, given those before."""

    def null_start(self, tokens: Tensor, order: Tensor, stop: int) -> Tensor:
        """z (B, stop, W) under the null condition before any token is known; of bidirectional backbones alone."""


class Head(Protocol):
    """What a model asks of its head: p(token given z).

    Attributes:
        undecayed: names of its parameters, or how they begin, that have no weight decay.
    """

    undecayed: tuple[str, ...]

    def draw(self, count: int, rows: Tensor, noise: Noise) -> Any:
        """The random numbers of the loss of the tokens `rows` (n,) of the `count` tokens of a batch."""

    def loss(self, z: Tensor, target: Tensor, noise: Any = None) -> Tensor:
        """Loss of targets (n, D) or ids (n,) given z (n, W), with what `draw` gave."""

    def sample(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, noise: Noise
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (n, D) or ids (n,), and their log probabilities (n,) where the head says them."""

    def compiled(self) -> list[nn.Module]:
        """Its parts that torch.compile takes."""


class Model(nn.Module):
    """A variant: tokens -> backbone -> z -> head. Neither part knows which other one it has."""

    joint: Literal[False] = False  # True in DiT, which draws all tokens in one diffusion process
    backbone: Backbone
    head: Head

    def __init__(self, backbone: Any, head: Any) -> None:
        """A model of a `Backbone` and a `Head`, which are modules."""
        super().__init__()
        self.backbone, self.head = backbone, head
        self.head_dtype: str | None = None  # in `loss`, under autocast around it: of the head; None: as of the backbone

    def checkpoint_blocks(self) -> None:
        """From now on, compute activations inside blocks again in the backward pass instead of keeping them."""
        self.backbone.checkpointing = True

    def blocks(self) -> list[nn.Module]:
        """The transformer blocks, in the order in which they compute."""
        return self.backbone.layers()

    def compile_blocks(self) -> None:
        """Compile the blocks and the denoiser when they are first used; parameters keep their names.

        Blocks of equal shape share one compilation. The rest of the model is not compiled: it draws random numbers, or
        its shapes depend on the mask ratio.
        """
        torch._dynamo.config.recompile_limit = GRAPHS
        for part in (*self.blocks(), *self.head.compiled()):
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
        precision: Any = nullcontext() if self.head_dtype is None else autocast(z.device, self.head_dtype)
        if self.head_dtype == "fp32":  # without autocast its weights and what they multiply are of one type
            z = z.float()
        with precision:
            loss: Tensor = self.head.loss(
                z.flatten(0, 1), tokens.flatten(0, 1)[rows], self.head.draw(batch * length, rows, noise)
            )
        check_loss(self.head, loss)
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
    config: BackboneConfig, head: HeadConfig, tokens: TokenShape, quantizer: MultiScaleQuantizer | None = None
) -> Model | DiT:
    """An untrained model.

    Args:
        config: the backbone.
        head: the head.
        tokens: kind, number and shape of its tokens.
        quantizer: of the multi-scale tokenizer, which makes the input of a scales backbone from ids. Without one such
            a model can be built and counted but not run.

    Raises:
        ValueError: a part of an own kind lacks what a model asks of it.
    """
    part: Any = opened(config)
    made = implementation(part)
    if config.joint:
        dit: DiT = made(part, tokens.grid, tokens.token_dim, tokens.classes)
        return dit
    if config.by_scale:
        backbone = made(part, NextScale(quantizer, tokens.code_width, config.width), tokens.scales, tokens.classes)
    else:
        if tokens.kind == "ids":
            z_proj: nn.Module = nn.Embedding(tokens.codebook_size, config.width)
        else:
            z_proj = nn.Linear(tokens.token_dim, config.width)
        backbone = made(part, z_proj, tokens.tokens, tokens.classes)
    asked = ("checkpointing", "bidirectional", "sizes", "undecayed", "layers", "start", "predict")
    check_complete(backbone, config.kind, asked)
    return Model(backbone, build_head(head, config.width, tokens.token_dim, tokens.codebook_size))
