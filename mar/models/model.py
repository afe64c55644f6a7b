"""The model of a variant: one backbone joined with one head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mar.config import Study
from mar.heads import build_head
from mar.models.causal import Causal
from mar.models.masked import Masked
from mar.noise import Noise


class Model(nn.Module):
    """A variant: tokens -> backbone -> z -> head. Neither part knows which other one it has."""

    backbone: Any  # condition z of tokens: see Masked.forward and Masked.predict
    head: Any  # draw, loss and sample: see DiffusionLoss

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def loss(self, tokens: Tensor, labels: Tensor, order: Tensor, known: int, noise: Noise) -> Tensor:
        """Training loss of a batch.

        Args:
            tokens: (B, L, D) vectors or (B, L) ids.
            labels: (B,) classes, -1 where the label is dropped.
            order: (B, L) positions in generation order.
            known: tokens that a masked backbone sees.
            noise: stream of the head's random numbers.
        """
        z, mask = self.backbone(tokens, labels, order, known)
        return self.head.loss(z, tokens, mask, self.head.draw(mask.numel(), noise))


def build_model(study: Study, variant: str, manifest: dict[str, Any]) -> Model:
    """The untrained model of a variant, on the tokens that `manifest` describes (tokens/<tok>/train)."""
    v = study.variants[variant]
    config = study.backbones[v.backbone]
    if manifest["kind"] == "ids":
        z_proj: nn.Module = nn.Embedding(manifest["codebook_size"], config.width)
    else:
        z_proj = nn.Linear(manifest["token_dim"], config.width)
    kind = {"causal": Causal, "masked": Masked}[config.kind]
    backbone = kind(config, z_proj, manifest["tokens"], manifest["classes"])
    return Model(backbone, build_head(study.heads[v.head], config.width, manifest))
