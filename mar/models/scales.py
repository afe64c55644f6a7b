"""Scales backbone (VAR, Tian et al. 2024, section 3.2 and figure 4): all tokens of one scale at once, scale by scale.

A token attends to its own scale and to those before it. The input at the positions of a scale is the sum of all earlier
scales, resized to it by the tokenizer's quantiser (`NextScale`); for the first scale it is the class. The class also
modulates every block (AdaLN). Names of parameters are those of the published code, so that its weights load as they
are. What the paper leaves open (attention of unit vectors, order of the modulations, initialisation) follows that code.

The ablation of Table 3 starts without AdaLN and without the norm of queries and keys. The code of those rows is not
published: its blocks are taken to be GPT-2's, as the paper says of the whole model (section 3.2).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar.models.blocks import NORM_EPS, KVCache, full_precision, run_block
from mar.models.multiscale import MultiScaleQuantizer
from mar.study.parts import ScalesBackbone

MAX_LOG_SCALE = math.log(100)  # limit of the learned logarithm of the attention scale
PLAIN_SCALE = 0.25  # of attention without the norm of queries and keys, over sqrt(size of a head), as published
ADALN_INIT = 0.5  # factor on initial scales and shifts of AdaLN; the factor on gates is the study's gate_init


class NextScale(nn.Module):
    """The input projection: ids of the first scales become the inputs of the second scale and those after it."""

    def __init__(self, quantizer: MultiScaleQuantizer | None, channels: int, width: int) -> None:
        super().__init__()
        self.word_embed = nn.Linear(channels, width)
        # In a tuple, so that it is no submodule: it belongs to the tokenizer and is neither trained nor saved here.
        # It is None where a model is built for its shapes alone.
        self._quantizer = (quantizer,)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, n), or codes (B, n, C), of the first k whole scales -> inputs (B, m, W) of scales 2 to k + 1."""
        (quantizer,) = self._quantizer
        assert quantizer is not None
        with full_precision(ids):  # published: outside of mixed precision
            features = quantizer.next_input(ids)  # (B, m, C)
        out: Tensor = self.word_embed(features)
        return out

    def codes(self, ids: Tensor) -> Tensor:
        """Codes (B, n, C) of ids (B, n)."""
        (quantizer,) = self._quantizer
        assert quantizer is not None
        return quantizer.codes(ids)

    def mixed(self, weights: Tensor) -> Tensor:
        """Sums (n, C) of all codes by weights (n, V)."""
        (quantizer,) = self._quantizer
        assert quantizer is not None
        return weights @ quantizer.embedding.weight


class Attention(nn.Module):
    """Multi-head self-attention of unit queries and keys, with one learned scale per head; keys have no bias.

    Without `unit` queries and keys are taken as they are, and the scale is a constant.
    """

    def __init__(self, width: int, heads: int, unit: bool = True) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1.0 if unit else PLAIN_SCALE / math.sqrt(width // heads)
        # logarithm of the scale of each head
        self.scale_mul_1H11 = nn.Parameter(torch.empty(1, heads, 1, 1)) if unit else None
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KVCache | None, block: int) -> Tensor:
        """(B, n, W) -> (B, n, W).

        `mask` (n, n) is True where the row may attend to the column; a cache holds the scales before x.
        """
        b, n, w = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.mat_qkv.weight, bias).view(b, n, 3, self.heads, w // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, n, size)
        if self.scale_mul_1H11 is not None:
            q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp(max=MAX_LOG_SCALE).exp()
            k = F.normalize(k, dim=-1)
        if cache is not None:
            k, v = cache.append(block, k, v)
        out = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask, scale=self.scale)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(b, n, w))
        return projected


class FFN(nn.Module):
    """Two linear layers with a tanh GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, W) -> (B, n, W)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return out


class AdaLNBlock(nn.Module):
    """Transformer block (AdaLN): the class gives a gate, a scale and a shift to each of its two branches.

    They come from a linear layer of the block, or with `shared_aln` from one layer for all blocks plus an offset.
    """

    def __init__(self, config: ScalesBackbone, drop: float) -> None:
        super().__init__()
        width, shared_aln = config.width, config.shared_aln
        self.width, self.drop = width, drop
        self.attn = Attention(width, config.heads, config.attention_norm)
        self.ffn = FFN(width, int(width * config.mlp_ratio))
        self.ada_gss = nn.Parameter(torch.empty(1, 1, 6, width)) if shared_aln else None
        self.ada_lin: Any = None if shared_aln else nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(
        self, x: Tensor, condition: Tensor, mask: Tensor | None = None, cache: KVCache | None = None, block: int = 0
    ) -> Tensor:
        """(B, n, W) -> (B, n, W); condition: class embedding (B, W), or with shared_aln modulations (B, 1, 6, W)."""
        if self.ada_gss is not None:
            modulations = self.ada_gss + condition
        else:
            modulations = self.ada_lin(condition).view(-1, 1, 6, self.width)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = modulations.unbind(2)  # (B, 1, W) each
        drop = self.drop if self.training else 0.0
        x = x + drop_path(self.attn(norm(x) * (1 + scale1) + shift1, mask, cache, block) * gamma1, drop)
        return x + drop_path(self.ffn(norm(x) * (1 + scale2) + shift2) * gamma2, drop)

    def shrink(self, depth: int, gates: float) -> None:
        """Scale down the initial weights, as published: branches by 1/sqrt(2 depth), gates by `gates`, AdaLN by 0.5."""
        self.attn.proj.weight.div_(math.sqrt(2 * depth))
        self.ffn.fc2.weight.div_(math.sqrt(2 * depth))
        if self.ada_gss is not None:
            nn.init.normal_(self.ada_gss, std=self.width**-0.5)
            weights = self.ada_gss[0, 0]  # (6, W), gates first
        else:
            weights = self.ada_lin[1].weight.view(6, -1)  # (6, W W), gates first
        weights[:2].mul_(gates)
        weights[2:].mul_(ADALN_INIT)


class PlainBlock(nn.Module):
    """Transformer block without AdaLN, as GPT-2's: norms with weights of their own, and no gates."""

    def __init__(self, config: ScalesBackbone, drop: float) -> None:
        super().__init__()
        self.drop = drop
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, eps=NORM_EPS) for _ in range(2))
        self.attn = Attention(config.width, config.heads, config.attention_norm)
        self.ffn = FFN(config.width, int(config.width * config.mlp_ratio))

    def forward(
        self, x: Tensor, condition: Tensor, mask: Tensor | None = None, cache: KVCache | None = None, block: int = 0
    ) -> Tensor:
        """(B, n, W) -> (B, n, W); the condition acts through the first token alone."""
        drop = self.drop if self.training else 0.0
        x = x + drop_path(self.attn(self.norm1(x), mask, cache, block), drop)
        return x + drop_path(self.ffn(self.norm2(x)), drop)

    def shrink(self, depth: int, gates: float) -> None:
        """Scale down the initial weights of the branches by 1/sqrt(2 depth); there are no gates."""
        self.attn.proj.weight.div_(math.sqrt(2 * depth))
        self.ffn.fc2.weight.div_(math.sqrt(2 * depth))


def drop_path(y: Tensor, rate: float) -> Tensor:
    """Stochastic depth: zero a branch (B, n, W) of this share of the images and scale up the others."""
    if not rate:
        return y
    return y * (torch.rand(len(y), 1, 1, device=y.device) < 1 - rate) / (1 - rate)


class AdaLNBeforeHead(nn.Module):
    """The last norm: its scale and shift come from the class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin: Any = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, n, W) and class embeddings (B, W) -> (B, n, W)."""
        scale, shift = self.ada_lin(condition)[:, None].chunk(2, dim=2)
        out: Tensor = norm(x) * (1 + scale) + shift
        return out


class PlainNorm(nn.LayerNorm):
    """The last norm without AdaLN: it has weights of its own, and the condition has no effect."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=NORM_EPS)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:  # type: ignore[override]
        """(B, n, W) -> (B, n, W)."""
        return super().forward(x)


def norm(x: Tensor) -> Tensor:
    """LayerNorm of (B, n, W) without weights."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS)


class Scales(nn.Module):
    """Predicts the conditions z of all tokens of one scale from the scales before it."""

    checkpointing = False  # True: activations inside blocks are computed again in the backward pass
    bidirectional = False
    undecayed: tuple[str, ...] = ("pos_start", "pos_1LC", "lvl_embed.")

    def __init__(self, config: ScalesBackbone, z_proj: nn.Module, scales: tuple[int, ...], classes: int) -> None:
        """`z_proj` turns ids (B, n) of the first scales into the inputs (B, m, W) of those after the first."""
        super().__init__()
        width, self.heads, self.classes = config.width, config.heads, classes
        self.sizes = tuple(side**2 for side in scales)
        self.tokens = sum(self.sizes)
        self.z_proj = z_proj
        self.class_emb = nn.Embedding(classes + 1, width)  # the last row is the null condition
        self.pos_start = nn.Parameter(torch.empty(1, self.sizes[0], width))
        self.pos_1LC = nn.Parameter(torch.empty(1, self.tokens, width))
        self.lvl_embed = nn.Embedding(len(scales), width)
        with torch.device("cpu"):  # a constant needs values even when the model is built on the meta device
            level = torch.arange(len(scales)).repeat_interleave(torch.tensor(self.sizes))
        self.level: Tensor
        self.register_buffer("level", level, persistent=False)
        shared = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)) if config.shared_aln else None
        self.shared_ada_lin = shared
        self.blocks = nn.ModuleList(
            # the rate of stochastic depth grows linearly from 0 in the first block
            (AdaLNBlock if config.adaln else PlainBlock)(config, rate)
            for rate in (config.dropout * i / max(1, config.depth - 1) for i in range(config.depth))
        )
        self.head_nm = AdaLNBeforeHead(width) if config.adaln else PlainNorm(width)
        self._initialise(config.gate_init or 1.0)

    def _initialise(self, gates: float) -> None:
        """As published: truncated normal weights, and smaller branches and modulations (see AdaLNBlock.shrink)."""
        std = (1 / (3 * self.pos_1LC.shape[2])) ** 0.5
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(part.weight, std=std)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
            if isinstance(part, Attention):
                if part.scale_mul_1H11 is not None:
                    nn.init.constant_(part.scale_mul_1H11, math.log(4))
                nn.init.zeros_(part.q_bias)
                nn.init.zeros_(part.v_bias)
        nn.init.trunc_normal_(self.pos_start, std=std)
        nn.init.trunc_normal_(self.pos_1LC, std=std)
        with torch.no_grad():
            if isinstance(self.head_nm, AdaLNBeforeHead):
                self.head_nm.ada_lin[1].weight.mul_(ADALN_INIT)
            for block in self.blocks:
                assert isinstance(block, AdaLNBlock | PlainBlock)
                block.shrink(len(self.blocks), gates)

    def layers(self) -> list[nn.Module]:
        """The transformer blocks, in the order in which they compute."""
        return list(self.blocks)

    def condition(self, labels: Tensor) -> Tensor:
        """Class embedding (B, W); label -1 stands for the null condition."""
        out: Tensor = self.class_emb(torch.where(labels < 0, self.classes, labels))
        return out

    def embed(self, ids: Tensor, condition: Tensor) -> Tensor:
        """Inputs (B, n, W) of scales 1 to k + 1, given the ids (B, m) of the first k scales."""
        start = condition[:, None] + self.pos_start  # (B, first scale, W)
        x = torch.cat([start, self.z_proj(ids).to(start.dtype)], dim=1)
        n = x.shape[1]
        out: Tensor = x + self.lvl_embed(self.level[:n]) + self.pos_1LC[:, :n]
        return out

    def run(self, x: Tensor, condition: Tensor, cache: KVCache | None) -> Tensor:
        """z (B, n, W) from inputs (B, n, W) of all scales from the first on, or with a cache of the newest alone."""
        level = self.level[: x.shape[1]]
        mask = level[:, None] >= level if cache is None else None  # (n, n); everything in the cache may be attended to
        modulate = condition
        if self.shared_ada_lin is not None:
            modulate = self.shared_ada_lin(condition).view(len(x), 1, 6, -1)
        for i, block in enumerate(self.blocks):
            x = run_block(block, x, self.checkpointing, condition=modulate, mask=mask, cache=cache, block=i)
        if cache is not None:
            cache.length += x.shape[1]
        out: Tensor = self.head_nm(x, condition)
        return out

    def forward(self, tokens: Tensor, labels: Tensor, order: Tensor, known: int) -> tuple[Tensor, Tensor]:
        """Conditions of all tokens of all scales by teacher forcing; `known` has no meaning here.

        Args:
            tokens: (B, L) ids, scale by scale.
            labels: (B,) classes, -1 for the null condition.
            order: (B, L) positions in generation order, which is the order of storage.
            known: unused; every scale is predicted from those before it.

        Returns:
            z (B, L, W) and the positions (B, L) that its rows belong to: the order.
        """
        condition = self.condition(labels)
        return self.run(self.embed(tokens[:, : -self.sizes[-1]], condition), condition, None), order

    def start(self, batch: int) -> KVCache:
        """An empty cache for a batch of images."""
        size = self.pos_1LC.shape[2] // self.heads
        return KVCache(len(self.blocks), batch, self.heads, self.tokens, size, self.pos_1LC)

    def null_start(self, tokens: Tensor, order: Tensor, stop: int) -> Tensor:
        """Not of this backbone: the null condition runs beside the conditional one."""
        raise NotImplementedError

    def predict(
        self, tokens: Tensor, labels: Tensor, order: Tensor, start: int, stop: int, cache: KVCache | None = None
    ) -> Tensor:
        """z (B, stop - start, W) of the scale whose tokens are start to stop - 1, given the scales before it.

        Without a cache all scales so far are computed again.
        """
        condition = self.condition(labels)
        x = self.embed(tokens[:, :start], condition)  # (B, stop, W)
        if x.shape[1] != stop:
            raise ValueError(f"a scales backbone predicts a whole scale a step; asked for tokens {start} to {stop - 1}")
        return self.run(x if cache is None else x[:, start:], condition, cache)[:, start - stop :]
