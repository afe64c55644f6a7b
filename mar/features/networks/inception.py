"""The Inception network of 2015 by which FID is defined, as torch-fidelity has it, and how images are resized for it.

Spatial features, for sFID: the ADM suite takes the first 7 channels of `mixed_6/conv:0` of TensorFlow's graph, 17 x 17
x 7 = 2,023 numbers (guided-diffusion, evaluations/evaluator.py). That graph calls its blocks mixed, mixed_1, ...,
mixed_10 where torch has Mixed_5b, 5c, 5d, 6a, 6b, 6c, 6d, 6e, 7a, 7b, 7c, and the `conv` of a block is its 1x1 branch
after batch normalisation and ReLU; torch-fidelity's own converter of the weights maps mixed_6/conv to
Mixed_6d.branch1x1. The statistics in ADM's files have the numbers in the order row, column, channel; so they are here.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

SIDE = 299  # pixels
CHANNELS = 7  # number of channels in the spatial features
SPATIAL = "Mixed_6d.branch1x1"


class Inception(FeatureExtractorInceptionV3):
    """torch-fidelity's network. Its constructor unpickles a file of weights: here it gets an empty one of our own."""

    def __init__(self) -> None:
        empty = io.BytesIO()
        torch.save({}, empty)
        empty.seek(0)
        super().__init__("inception", ["2048", "logits_unbiased"], empty)

    def load_state_dict(self, state_dict: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Load weights, but nothing from the constructor's empty file."""
        return super().load_state_dict(state_dict, *args, **kwargs) if state_dict else None


def random(seed: int) -> Inception:
    """The network with random weights, normalised so that its features vary between images as much as they are large.

    Batch normalisation gets the statistics of a few smooth images: with those of a new network, random layers give
    nearly the same features for all images.
    """
    network, generator = Inception(), torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    coarse = (torch.randn((1, 3, 2**i, 2**i), generator=generator) for i in range(1, 9))
    images = torch.cat([functional.interpolate(127.5 + 85.0 * x, size=SIDE, mode="bilinear") for x in coarse])
    with torch.no_grad():
        network.train()
        _pooled(network, images.clamp(0.0, 255.0))
    return network.eval()


def extract(network: Inception, pixels: Tensor) -> dict[str, Tensor]:
    """Features of resized images, float32 (B, 3, 299, 299) in [0, 255].

    Returns:
        float32 tensors: "features" (B, 2048) of the last pooling, "logits" (B, 1008) without bias, as the Inception
        score takes them, and "spatial" (B, 2023).
    """
    maps: list[Tensor] = []
    hook = network.get_submodule(SPATIAL).register_forward_hook(lambda module, inputs, output: maps.append(output))
    try:
        features = _pooled(network, pixels)
    finally:
        hook.remove()
    logits = features.mm(network.fc.weight.T)
    spatial = maps[0][:, :CHANNELS].permute(0, 2, 3, 1).flatten(1)
    return {"features": features, "logits": logits, "spatial": spatial}


def _pooled(network: Inception, pixels: Tensor) -> Tensor:
    """Features (B, 2048) of pixels (B, 3, 299, 299): all layers of the network but the last, which makes logits."""
    maps = (pixels - 128.0) / 128.0
    for name, layer in network.named_children():
        if name != "fc":
            maps = layer(maps)
    return maps.flatten(1)


def bilinear(images: Tensor) -> Tensor:
    """TensorFlow 1's bilinear resize without antialiasing, which torch-fidelity and the graph of the ADM suite use."""
    resized: Tensor = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(SIDE, SIDE), align_corners=False)
    return resized


def clean(images: Tensor) -> Tensor:
    """clean-fid's resize: PIL's bicubic with antialiasing, channel by channel in float, not rounded to bytes."""
    from cleanfid.resize import build_resizer

    resize = build_resizer("clean")
    resized = np.stack([resize(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()])  # (B, 299, 299, 3)
    return torch.from_numpy(resized).permute(0, 3, 1, 2).contiguous().to(images.device)
