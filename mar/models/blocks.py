"""Transformer blocks shared by the backbones: pre-norm attention and MLP, with dropout where the paper has it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mar.runtime.precision import autocast, computed

NORM_EPS = 1e-6  # every LayerNorm of the published models adds this to the variance


class KVCache:
    """Keys and values of the tokens that a backbone has seen, for every block: (blocks, B, heads, length, size) each.

    New tokens attend to the slots up to their own (a causal backbone, or one that works scale by scale). With
    `attend_all` they attend to all `length` slots, which must have been filled before.
    """

    def __init__(
        self, blocks: int, batch: int, heads: int, length: int, size: int, like: Tensor, attend_all: bool = False
    ) -> None:
        # Attention would round them to the type of its products anyway.
        shape, dtype = (blocks, batch, heads, length, size), computed(like)
        self.keys, self.values = like.new_empty(shape, dtype=dtype), like.new_empty(shape, dtype=dtype)
        self.length, self.attend_all = 0, attend_all  # length: slots that are filled

    def append(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (B, heads, n, size) of n new tokens; returns those to attend to, (B, heads, m, size).

        The caller moves `self.length` on when all blocks have stored theirs.
        """
        end = self.length + k.shape[2]
        self.keys[block, :, :, self.length : end], self.values[block, :, :, self.length : end] = k, v
        visible = None if self.attend_all else end
        return self.keys[block, :, :, :visible], self.values[block, :, :, :visible]


def dropout(x: Tensor, rate: float) -> Tensor:
    """Zero this share of the numbers of x and scale up the others, so that the mean stays.

    On a CPU `F.dropout` draws a random number for each number of x: an eighth to a fifth of the time of training a
    small model. There 16 random bits decide, four decisions from one draw, and the share is the multiple of 1/65536
    nearest to `rate`.
    """
    if not rate or x.device.type != "cpu":
        return F.dropout(x, rate)
    dropped = min(round(rate * 2**16), 2**16 - 1)  # of 2**16 values
    bits = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 4),)).view(torch.int16)
    # Written as numbers at once: torch is slow in making and reading truth values.
    kept = torch.ge(bits[: x.numel()].view(x.shape), dropped - 2**15, out=torch.empty_like(x, requires_grad=False))
    return x * kept.mul_(2**16 / (2**16 - dropped))


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, rate: float) -> Tensor:
    """Attention (B, heads, n, size) of queries (B, heads, n, size) to keys and values (B, heads, m, size).

    With `causal`, n = m and row i attends to rows 0 to i. This share of the weights is dropped; where `dropout` draws
    by itself the weights are computed here, since torch has no faster way with dropout on a CPU.
    """
    if not rate or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=causal)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, n, m)
    if causal:
        weights = weights + weights.new_full(weights.shape[-2:], -torch.inf).triu(1)
    return dropout(weights.softmax(-1), rate) @ v


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        causal: bool = False,
        cache: KVCache | None = None,
        block: int = 0,
        queries: Tensor | None = None,
    ) -> Tensor:
        """(B, N, W) -> (B, N, W).

        With a cache, x holds the newest tokens only, which attend to those in the cache too. With `queries` (B, n),
        only the rows at these positions are computed, and they attend to all N: the result is (B, n, W).
        """
        b, n, w = x.shape
        size = w // self.heads  # q, k, v are (B, heads, rows, size)
        if queries is None:
            q, k, v = self.qkv(x).view(b, n, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(gather(x, queries), weight[:w], bias[:w]).view(b, -1, self.heads, size).transpose(1, 2)
            k, v = F.linear(x, weight[w:], bias[w:]).view(b, n, 2, self.heads, size).permute(2, 0, 3, 1, 4)
        if cache is not None:
            k, v = cache.append(block, k, v)
        rate = self.dropout if self.training else 0.0
        out = attend(q, k, v, causal and cache is None, rate)
        return dropout(self.proj(out.transpose(1, 2).reshape(b, -1, w)), rate)


class MLP(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, W) -> (B, N, W)."""
        rate = self.dropout if self.training else 0.0
        return dropout(self.fc2(dropout(F.gelu(self.fc1(x)), rate)), rate)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, int(width * mlp_ratio), dropout)

    def forward(
        self,
        x: Tensor,
        causal: bool = False,
        cache: KVCache | None = None,
        block: int = 0,
        queries: Tensor | None = None,
    ) -> Tensor:
        """(B, N, W) -> (B, N, W), or (B, n, W) at the positions `queries` (B, n); see Attention."""
        y = self.attn(self.norm1(x), causal, cache, block, queries)
        x = (x if queries is None else gather(x, queries)) + y
        return x + self.mlp(self.norm2(x))


def run_block(block: nn.Module, x: Tensor, checkpointing: bool, /, **kwargs: Any) -> Tensor:
    """One block on x (B, N, W); `checkpointing` keeps only x and computes the rest again in the backward pass."""
    if checkpointing and torch.is_grad_enabled():  # torch restores the generator, so that dropout repeats
        out: Tensor = checkpoint(block, x, use_reentrant=False, **kwargs)
    else:
        out = block(x, **kwargs)
    return out


def initialise(module: nn.Module) -> None:
    """Published initialisation of a backbone: xavier-uniform linear layers, normal (std 0.02) for all else."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
    for parameter in module.parameters(recurse=False):  # position tables, mask token, null class
        nn.init.normal_(parameter, std=0.02)


def full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No mixed precision on the device of x, whatever is on outside."""
    out: AbstractContextManager[None] = autocast(x.device, "fp32")
    return out


def rows_of(table: Tensor, positions: Tensor) -> Tensor:
    """Rows at positions (B, n) of a table (1, L, W) that was expanded to (B, L, W): (B, n, W).

    On a GPU a backward pass that gives equal bits each time is slow for `gather` and fast for an embedding. On a CPU
    both repeat, and `gather` adds in the order in which trainings so far have added.
    """
    return F.embedding(positions, table[0]) if table.is_cuda else gather(table, positions)


def gather(x: Tensor, positions: Tensor) -> Tensor:
    """Rows of x (B, L, W) at positions (B, n): (B, n, W)."""
    return torch.gather(x, 1, positions[:, :, None].expand(-1, -1, x.shape[2]))
