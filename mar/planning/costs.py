"""Parameters and floating point operations of models, by formula: without torch, so that a plan costs no time.

A multiplication and its addition are two operations. Linear layers, convolutions and the two products of attention
count; norms, activations, softmax and tables do not, which together are below a hundredth at the paper's sizes.

- A linear layer from i to o numbers: 2 i o for each row.
- Attention on n tokens of width W: Q K^T and the weighted sum of V, 2 n^2 W each. Causal attention counts the whole
  square too: the triangle is what a kernel may save.
- A transformer block on n tokens: 2 n (4 W^2 + 2 W H) + 4 n^2 W, with H the width of its MLP.
- A backward pass has two products where its forward has one (gradients of the input and of the weights), so training
  costs 3 forwards: 6 for each weight and token. Gradient checkpointing computes the blocks once more: 4 forwards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from mar.models.order import by_scale, schedule
from mar.planning.convolutions import classifier_costs, linear, phi_flops
from mar.study.parts import Backbone, Head, Recipe, Sampling
from mar.study.study import Study

FREQUENCIES = 256  # sinusoidal timestep features of Diffusion Loss and DiT
TIMESTEPS = 1000  # of their training processes

# Published networks that judge: parameters, operations for one image, and the numbers that are kept of it. Inception is
# shown 299 x 299 pixels (5.7e9 multiply-adds, counted on the network; Szegedy et al. 2016 say 5e9 of theirs); DINOv2's
# ViT-L/14 16 x 16 patches of 224 x 224 and a class token.
INCEPTION: dict[str, float] = {
    "parameters": 23_850_960,
    "forward": 11_426_464_960,
    "features": 2048,
    "logits": 1008,
    "spatial": 2023,
}
VIT_L = Backbone(kind="masked", width=1024, depth=24, heads=16, buffer=1)


@dataclass(frozen=True)
class Tokens:
    """The tokens of one image, as a model sees them."""

    count: int
    dim: int  # numbers in a token
    codebook: int | None  # number of ids, where tokens are ids
    side: int  # of the grid of tokens
    classes: int
    scales: tuple[int, ...] = ()  # sides of VAR's scales

    @classmethod
    def of(cls, study: Study, tokenizer: str, classes: int) -> Tokens:
        """The tokens of a tokenizer of the study."""
        config, count = study.tokenizers[tokenizer], study.tokens(tokenizer)
        codebook = config.codebook_size if config.ids else None
        scales = config.scales or ()
        return cls(count, config.token_dim, codebook, scales[-1] if scales else math.isqrt(count), classes, scales)


def model_parameters(backbone: Backbone, head: Head, tokens: Tokens) -> int:
    """Parameters of a variant: backbone and head."""
    if backbone.kind == "dit":
        return _dit_parameters(backbone, tokens)
    if backbone.kind == "scales":
        return _scales_parameters(backbone, tokens) + head_parameters(head, backbone.width, tokens)
    w, hidden = backbone.width, int(backbone.width * backbone.mlp_ratio)
    block = 4 * w + linear(w, 3 * w) + linear(w, w) + linear(w, hidden) + linear(hidden, w)
    total = 2 * backbone.depth * block + (tokens.classes + 1) * w  # class table, null condition
    total += tokens.codebook * w if tokens.codebook else linear(tokens.dim, w)
    if backbone.kind == "masked":
        # norms after the input, encoder and decoder; two position tables, mask token, decoder_embed
        total += 6 * w + 2 * (backbone.buffer + tokens.count) * w + w + linear(w, w)
    else:
        total += 4 * w + (1 + 2 * tokens.count) * w  # two norms; positions with [cls], target positions
    return total + tokens.count * w + head_parameters(head, w, tokens)  # positions for the head


def head_parameters(head: Head, width: int, tokens: Tokens) -> int:
    """Parameters of a head on conditions of that width."""
    if head.kind == "categorical":
        return linear(width, tokens.codebook or 0)
    if head.kind == "mse":
        return linear(width, tokens.dim)
    if head.kind == "mixture":
        return linear(width, (head.components or 0) * (1 + 2 * tokens.dim))
    m = head.width or 0
    outer = linear(FREQUENCIES, m) + linear(m, m) + linear(width, m) + linear(tokens.dim, m)
    block = 2 * m + 2 * linear(m, m) + linear(m, 3 * m)
    return outer + (head.depth or 0) * block + linear(m, 2 * m) + linear(m, 2 * tokens.dim)


def _dit_parameters(backbone: Backbone, tokens: Tokens) -> int:
    w, patch = backbone.width, (backbone.patch or 1) ** 2 * tokens.dim
    embedders = linear(FREQUENCIES, w) + linear(w, w) + (tokens.classes + 1) * w + linear(patch, w)
    block = linear(w, 6 * w) + 4 * linear(w, w) + linear(w, 4 * w) + linear(4 * w, w)
    return embedders + backbone.depth * block + linear(w, 2 * w) + linear(w, 2 * patch)


def _scales_parameters(backbone: Backbone, tokens: Tokens) -> int:
    w, hidden = backbone.width, int(backbone.width * backbone.mlp_ratio)
    block = 3 * w * w + 2 * w + backbone.heads + linear(w, w) + linear(w, hidden) + linear(hidden, w)
    modulations = linear(w, 6 * w)
    # of all blocks one layer, and a table in each; or a layer in each
    total = modulations + 6 * w * backbone.depth if backbone.shared_aln else modulations * backbone.depth
    tables = tokens.classes + 1 + tokens.scales[0] ** 2 + tokens.count + len(tokens.scales)
    return total + backbone.depth * block + linear(tokens.dim, w) + tables * w + linear(w, 2 * w)


def block_flops(backbone: Backbone, n: float, context: float | None = None) -> float:
    """One transformer block on n tokens which attend to `context` tokens (default: to each other)."""
    w = backbone.width
    weights = 4 * w * w + 2 * w * int(w * backbone.mlp_ratio)
    return 2 * n * weights + 4 * n * (n if context is None else context) * w


def masked_flops(backbone: Backbone, tokens: Tokens, known: float, wanted: float | None = None) -> tuple[float, float]:
    """Forward of a masked backbone with `known` tokens: in blocks, and in the layers around them.

    The encoder sees buffer + known tokens, the decoder buffer + all. With `wanted`, its last block has queries, and
    what follows them, for that many tokens alone; keys and values of all.
    """
    w, seen, whole = backbone.width, backbone.buffer + known, backbone.buffer + tokens.count
    decoder = backbone.depth * block_flops(backbone, whole)
    if wanted is not None:
        decoder += block_flops(backbone, wanted, whole) - block_flops(backbone, whole) + 4 * (whole - wanted) * w * w
    blocks = backbone.depth * block_flops(backbone, seen) + decoder
    return blocks, 2 * seen * w**2 + _embed(backbone, tokens, known)


def causal_flops(backbone: Backbone, tokens: Tokens, n: int) -> tuple[float, float]:
    """Forward of a causal backbone on [cls] and n - 1 tokens: in blocks, and around them."""
    return 2 * backbone.depth * block_flops(backbone, n), _embed(backbone, tokens, n - 1)


def dit_flops(backbone: Backbone, tokens: Tokens) -> tuple[float, float]:
    """Forward of DiT: in blocks, and around them; each block also turns the condition of the image to 6 vectors."""
    w, p = backbone.width, backbone.patch or 1
    n, patch = tokens.count // p**2, p**2 * tokens.dim
    blocks = backbone.depth * (block_flops(backbone, n) + 2 * 6 * w * w)
    return blocks, 2 * (FREQUENCIES * w + w * w) + 4 * w * w + 2 * n * (patch * w + 2 * patch * w)


def scales_flops(backbone: Backbone, tokens: Tokens, known: int, new: int, context: int) -> tuple[float, float, float]:
    """Forward of a scales backbone on `new` tokens that attend to `context`, with `known` scales before.

    In blocks with what modulates them; around them; and, which needs no gradient, in the tokenizer's convolutions that
    make the input of the next scale of each.
    """
    w, layers = backbone.width, 1 if backbone.shared_aln else backbone.depth
    blocks = backbone.depth * block_flops(backbone, new, context) + layers * 2.0 * 6 * w * w
    rows = sum(side**2 for side in tokens.scales[1 : known + 1])  # whose input is made
    return blocks, 2.0 * rows * tokens.dim * w + 4.0 * w * w, known * phi_flops(tokens.dim, tokens.side)


def _embed(backbone: Backbone, tokens: Tokens, n: float) -> float:
    return 0.0 if tokens.codebook else 2.0 * n * tokens.dim * backbone.width


def head_flops(head: Head, width: int, tokens: Tokens, calls: int = 1) -> float:
    """Forward of a head on one token: of Diffusion Loss the condition once, and `calls` of the denoiser.

    Embeddings of timesteps are left out: in sampling they are one for all tokens, in training see `training_flops`.
    """
    if head.kind == "joint":
        return 0.0
    if head.kind != "diffusion":
        return (
            2.0
            * width
            * {
                "categorical": tokens.codebook or 0,
                "mse": tokens.dim,
                "mixture": (head.components or 0) * (1 + 2 * tokens.dim),
            }[head.kind]
        )
    m = head.width or 0
    return 2.0 * (width * m + calls * (3 * tokens.dim * m + (head.depth or 0) * 5 * m * m + 2 * m * m))


def mean_mask_ratio(low: float) -> float:
    """Mean of the training mask ratio: a normal (1, 0.25) truncated to [low, 1]."""
    edge = (low - 1.0) / 0.25
    mass = 0.5 - 0.5 * (1.0 + math.erf(edge / math.sqrt(2.0)))
    if mass == 0.0:
        return 1.0
    return 1.0 - 0.25 * (1.0 - math.exp(-0.5 * edge * edge)) / math.sqrt(2.0 * math.pi) / mass


def training_flops(backbone: Backbone, head: Head, recipe: Recipe, tokens: Tokens) -> float:
    """One image in training, backward included."""
    rows: float = tokens.count
    if backbone.kind == "masked":
        rows = min(tokens.count, tokens.count * mean_mask_ratio(recipe.mask_ratio_min) + 0.5)  # rounded up
        blocks, around = masked_flops(backbone, tokens, tokens.count - rows, rows)
    elif backbone.kind == "causal":
        blocks, around = causal_flops(backbone, tokens, tokens.count)
    elif backbone.kind == "scales":
        known, n = len(tokens.scales) - 1, tokens.count
        blocks, around, given = scales_flops(backbone, tokens, known, n, n)
        around -= (2 * given + 2.0 * (n - tokens.scales[0] ** 2) * tokens.dim * backbone.width) / 3  # need no gradient
        around += given
    else:
        blocks, around = dit_flops(backbone, tokens)
    draws, m = head.noise_draws or 1, head.width or 0
    around += rows * head_flops(head, backbone.width, tokens, draws)
    # One embedding for each timestep of the batch, drawn or possible, whichever are the fewer.
    times = min(rows * draws, TIMESTEPS / (recipe.micro_batch or recipe.batch)) if head.kind == "diffusion" else 0.0
    around += times * 2.0 * (FREQUENCIES * m + m * m)
    # What goes in from outside needs no gradient: noisy tokens and features of the timestep.
    outside = 2.0 * (rows * draws * tokens.dim + times * FREQUENCIES) * m
    return (4 if recipe.gradient_checkpointing else 3) * blocks + 3 * around - outside


def sampling_flops(backbone: Backbone, head: Head, settings: Sampling, tokens: Tokens) -> float:
    """Tokens of one image: every step of the backbone and, for each token, of the head; twice with guidance."""
    calls = (settings.diffusion_steps or 1) if head.kind in ("diffusion", "joint") else 1
    branches = 1 if settings.guidance == 1.0 else 2
    if backbone.kind == "dit":
        return branches * calls * sum(dit_flops(backbone, tokens))
    every, rows = _steps(backbone, tokens, settings)
    return every + branches * rows * head_flops(head, backbone.width, tokens, calls)


@cache
def _steps(backbone: Backbone, tokens: Tokens, settings: Sampling) -> tuple[float, int]:
    """All autoregressive steps of a backbone, and the rows that the head gets (confidence: all that is left)."""
    total, rows, before = 0.0, 0, 0
    if backbone.kind == "scales":
        for k, (start, stop) in enumerate(by_scale([side**2 for side in tokens.scales])):
            new = stop - start if settings.kv_cache else stop
            total += sum(scales_flops(backbone, tokens, k, new, stop)) * (1 if settings.guidance == 1.0 else 2)
        return total, tokens.count
    for k, (start, stop) in enumerate(schedule(tokens.count, settings.steps, settings.late_steps)):
        null = settings.guidance != 1.0 and k % (settings.condition_cache or 1) == 0
        drawn = tokens.count - start if settings.order == "confidence" else stop - start
        if backbone.kind == "masked" and not settings.token_cache:
            every = null and settings.condition_cache  # the conditions of all that is unknown
            step = sum(masked_flops(backbone, tokens, start, tokens.count - start if every else drawn))
            null = null and (start > 0 or bool(every))  # the first of all images is the same, computed once
        elif backbone.kind == "masked" and k % (settings.token_cache or 1) == 0:
            step = sum(masked_flops(backbone, tokens, start))
        elif backbone.kind == "masked":  # what the step before drew, and in the decoder what is predicted too
            new, buffer = start - before, backbone.buffer
            encoder = block_flops(backbone, new, buffer + start)
            decoder = block_flops(backbone, stop - before, buffer + tokens.count)
            step = backbone.depth * (encoder + decoder) + 2 * new * backbone.width**2 + _embed(backbone, tokens, new)
        elif settings.kv_cache:
            step = 2 * backbone.depth * block_flops(backbone, 1, stop) + _embed(backbone, tokens, min(start, 1))
        else:
            step = sum(causal_flops(backbone, tokens, stop))
        total += step * (2 if null else 1)
        rows += drawn
        before = start
    return total, rows


def extractor_costs(study: Study, extractor: str, classes: int) -> dict[str, float]:
    """Parameters of a network that judges, operations for one image, and how many numbers of each kind it gives."""
    if extractor == "dinov2":
        forward = VIT_L.depth * block_flops(VIT_L, 257) + 2.0 * 256 * 14**2 * 3 * VIT_L.width
        return {"parameters": 303_178_752, "forward": forward, "features": VIT_L.width, "logits": 0, "spatial": 0}
    if extractor != "classifier":
        return INCEPTION
    assert study.classifier is not None  # checked where the study is read
    costs = classifier_costs(study.classifier, study.data.image_size, classes)
    return {**costs, "features": study.classifier.features, "logits": classes, "spatial": 0}


def parts(study: Study, variant: str, classes: int) -> Any:
    """Backbone, head, recipe and tokens of a variant."""
    v = study.variants[variant]
    tokens = Tokens.of(study, v.tokenizer, classes)
    return study.backbones[v.backbone], study.heads[v.head], study.recipes[v.recipe], tokens
