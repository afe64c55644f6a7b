"""Heads: the distribution of one token given its condition z. One interface: draw, loss, sample."""

from __future__ import annotations

from torch import nn

from mar.models.heads.categorical import Categorical
from mar.models.heads.diffusion_loss import DiffusionLoss
from mar.models.heads.mean_squared_error import MeanSquaredError
from mar.models.heads.mixture import Mixture
from mar.study.parts import Head


def build_head(config: Head, width: int, token_dim: int = 0, codebook_size: int = 0) -> nn.Module:
    """The head of a variant.

    Args:
        config: its section of the study.
        width: width W of the backbone, that is of z.
        token_dim: numbers in a token, for heads on continuous tokens.
        codebook_size: number of ids, for the categorical head.
    """
    if config.kind == "categorical":
        return Categorical(config, width, codebook_size)
    continuous = {"diffusion": DiffusionLoss, "mse": MeanSquaredError, "mixture": Mixture}
    return continuous[config.kind](config, width, token_dim)
