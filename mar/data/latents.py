"""Latents and tokens: patches of a grid, and draws from the posterior of a kl tokenizer."""

from __future__ import annotations

import torch


def patchify(latents: torch.Tensor, group: int) -> torch.Tensor:
    """Latents (B, C, h, w) to tokens (B, L, C*g*g), L = (h/g)(w/g), g = `group`.

    As published: tokens are in raster order, and within a token the channel varies slowest.
    """
    batch, channels, height, width = latents.shape
    split = latents.reshape(batch, channels, height // group, group, width // group, group)
    return split.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * group**2)


def unpatchify(tokens: torch.Tensor, group: int, channels: int) -> torch.Tensor:
    """Tokens (B, L, C*g*g) back to latents (B, C, h, w); the grid is square."""
    batch, count, _ = tokens.shape
    side = round(count**0.5)
    split = tokens.reshape(batch, side, side, channels, group, group)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, side * group, side * group)


def sample_posterior(moments: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Draw latents (B, C, h, w) from a posterior: mean + std * noise.

    Args:
        moments: (B, 2C, h, w), mean and log variance.
        noise: (B, C, h, w), standard normal.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    return mean + torch.exp(0.5 * log_variance.clamp(-30.0, 20.0)) * noise
