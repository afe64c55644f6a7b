"""DINOv2's ViT-L/14 (Oquab et al. 2023), by whose features FD-DINOv2 is defined (Stein et al. 2023, dgm-eval).

The published code loads through torch.hub, which fetches and runs foreign code. Here torchvision's VisionTransformer is
the same network, after two changes to the published weights. Its blocks have no LayerScale, whose factors are therefore
multiplied into the layer before them. And the position embedding of 37 x 37 patches is resized to 16 x 16 once, where
the published code does it at every call (bicubic, by a scale of 16.1 / 37). The features are equal up to the rounding
of float32.

The images are resized as in EDM2 (calculate_metrics.py), whose FD-DINOv2 the literature on ImageNet quotes: bicubic
with antialiasing to 224 x 224, in float. dgm-eval does the same with PIL and rounds to bytes; EDM2 calls the results
almost the same. torch-fidelity's `dinov2` resizes as TensorFlow 1 does, without antialiasing, so its numbers differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import Identity, functional
from torchvision.models import VisionTransformer

SIDE, PATCH = 224, 14  # 16 x 16 patches and the class token: 257 tokens
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFSET = 0.1  # patches, added by the published code so that rounding does not lose one

# Names of a block's layers: published to torchvision's. SCALES: the LayerScale that is multiplied into a layer, by the
# published name of the layer. OUTSIDE: names of layers outside the blocks.
BLOCK = {
    "norm1.": "ln_1.",
    "attn.qkv.": "self_attention.in_proj_",
    "attn.proj.": "self_attention.out_proj.",
    "norm2.": "ln_2.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
}
SCALES = {"attn.proj.": "ls1.gamma", "mlp.fc2.": "ls2.gamma"}
OUTSIDE = {"patch_embed.proj.": "conv_proj.", "norm.": "encoder.ln."}


def build(width: int = 1024, depth: int = 24, heads: int = 16) -> VisionTransformer:
    """The network with torchvision's random weights; by default ViT-L/14, 304 million parameters."""
    network = VisionTransformer(SIDE, PATCH, depth, heads, width, 4 * width)
    network.heads = Identity()
    return network.eval().requires_grad_(False)


def random(seed: int) -> VisionTransformer:
    """ViT-L/14 with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def convert(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights under torchvision's names.

    Raises:
        KeyError: a weight is missing.
        ValueError: there are weights that a DINOv2 without registers does not have.
    """
    state = dict(published)
    del state["mask_token"]  # hides patches in training
    converted = {"class_token": state.pop("cls_token"), "encoder.pos_embedding": resize(state.pop("pos_embed"))}
    for source, target in OUTSIDE.items():
        for kind in ("weight", "bias"):
            converted[target + kind] = state.pop(source + kind)
    for i in range(1 + max((int(key.split(".")[1]) for key in state if key.startswith("blocks.")), default=-1)):
        block, converted_block = f"blocks.{i}.", f"encoder.layers.encoder_layer_{i}."
        for source, target in BLOCK.items():
            scale = state.pop(block + SCALES[source]) if source in SCALES else None
            for kind in ("weight", "bias"):
                value = state.pop(block + source + kind)
                if scale is not None:
                    value = value * (scale[:, None] if kind == "weight" else scale)
                converted[converted_block + target + kind] = value
    if state:
        raise ValueError(f"left over: {', '.join(sorted(state)[:5])}")
    return converted


def resize(embedding: Tensor) -> Tensor:
    """Resize a position embedding (1, 1 + M * M, D) of M x M patches to (1, 257, D); the class token keeps its own."""
    token, patches = embedding[:, :1], embedding[:, 1:]
    side, wanted = round(patches.shape[1] ** 0.5), SIDE // PATCH
    if side == wanted:
        return embedding
    grid = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, D, M, M)
    scale = (wanted + OFFSET) / side
    grid = functional.interpolate(grid.float(), scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([token, grid.flatten(2).transpose(1, 2)], dim=1)


def prepare(images: Tensor) -> Tensor:
    """Images uint8 (B, 3, H, W), resized and normalised for the network: float32 (B, 3, 224, 224)."""
    pixels = functional.interpolate(images.float(), size=(SIDE, SIDE), mode="bicubic", antialias=True) / 255.0
    mean, std = (pixels.new_tensor(x)[:, None, None] for x in (MEAN, STD))
    return (pixels - mean) / std


def extract(network: VisionTransformer, images: Tensor) -> dict[str, Tensor]:
    """Features of images uint8 (B, 3, H, W): the class token after the last normalisation, float32 (B, D)."""
    return {"features": network(prepare(images))}
