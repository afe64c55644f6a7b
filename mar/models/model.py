"""The model of a variant: one backbone joined with one head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from mar.models.blocks import Block
from mar.models.causal import Causal
from mar.models.heads.diffusion_loss import Denoiser
from mar.models.heads.head import build_head
from mar.models.masked import Masked
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.scales import AdaLNBlock, NextScale, Scales
from mar.runtime.noise import Noise
from mar.study.parts import Backbone, Head
from mar.study.study import Study

if TYPE_CHECKING:  # diffusers takes seconds to import and only DiT needs it
    from mar.models.dit import DiT


class Model(nn.Module):
    """A variant: tokens -> backbone -> z -> head. Neither part knows which other one it has."""

    joint: Literal[False] = False  # as DiT is
    backbone: Any  # condition z of tokens: see Masked.forward and Masked.predict
    head: Any  # draw, loss and sample: see DiffusionLoss

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def checkpoint_blocks(self) -> None:
        """Keep no activations inside blocks from now on: they are computed again in the backward pass."""
        self.backbone.checkpointing = True

    def compile_blocks(self) -> None:
        """Compile the blocks and the denoiser when they are first used; parameters keep their names.

        Equal blocks are compiled once. What is left out draws random numbers or has shapes that depend on the mask.
        """
        for part in self.modules():
            if isinstance(part, Block | AdaLNBlock | Denoiser):
                part.compile()

    def loss(self, tokens: Tensor, labels: Tensor, order: Tensor, known: int, noise: Noise) -> Tensor:
        """Training loss of a batch.

        Args:
            tokens: (B, L, D) vectors or (B, L) ids.
            labels: (B,) classes, -1 where the label is dropped.
            order: (B, L) positions in generation order.
            known: tokens that a masked backbone sees.
            noise: stream of the head's random numbers.
        """
        z, where = self.backbone(tokens, labels, order, known)
        batch, length = order.shape
        rows = (where + length * torch.arange(batch, device=where.device)[:, None]).flatten()  # of all B L tokens
        loss: Tensor = self.head.loss(
            z.flatten(0, 1), tokens.flatten(0, 1)[rows], self.head.draw(batch * length, rows, noise)
        )
        return loss


def build_model(
    study: Study, variant: str, manifest: dict[str, Any], quantizer: MultiScaleQuantizer | None = None
) -> Model | DiT:
    """The untrained model of a variant, on the tokens that `manifest` describes (tokens/<tok>/train); see `build`."""
    v = study.variants[variant]
    return build(study.backbones[v.backbone], study.heads[v.head], manifest, quantizer)


def build(
    config: Backbone, head: Head, manifest: dict[str, Any], quantizer: MultiScaleQuantizer | None = None
) -> Model | DiT:
    """An untrained model.

    A scales backbone takes what the tokenizer's `quantizer` makes of ids; without one it has shapes only.
    """
    if config.kind == "dit":
        from mar.models.dit import DiT

        return DiT(config, manifest["grid"], manifest["token_dim"], manifest["classes"])
    backbone: nn.Module
    if config.kind == "scales":
        next_scale = NextScale(quantizer, manifest["code_width"], config.width)
        backbone = Scales(config, next_scale, tuple(manifest["scales"]), manifest["classes"])
    else:
        if manifest["kind"] == "ids":
            z_proj: nn.Module = nn.Embedding(manifest["codebook_size"], config.width)
        else:
            z_proj = nn.Linear(manifest["token_dim"], config.width)
        kind = {"causal": Causal, "masked": Masked}[config.kind]
        backbone = kind(config, z_proj, manifest["tokens"], manifest["classes"])
    return Model(backbone, build_head(head, config.width, manifest))
