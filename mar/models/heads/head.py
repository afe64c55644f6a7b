"""Heads: the distribution of one token given its condition z. One interface: draw, loss, sample."""

from __future__ import annotations

from typing import Any

from torch import nn

from mar.models.heads.categorical import Categorical
from mar.models.heads.diffusion_loss import DiffusionLoss
from mar.models.heads.mean_squared_error import MeanSquaredError
from mar.models.heads.mixture import Mixture
from mar.study.parts import Head


def build_head(config: Head, width: int, manifest: dict[str, Any]) -> nn.Module:
    """The head of a variant for backbone width `width`, on the tokens that `manifest` describes."""
    if config.kind == "categorical":
        return Categorical(config, width, manifest["codebook_size"])
    continuous = {"diffusion": DiffusionLoss, "mse": MeanSquaredError, "mixture": Mixture}
    return continuous[config.kind](config, width, manifest["token_dim"])
