"""The networks that judge images, behind one call: uint8 images in, features out.

| name | network | how it is shown an image |
|---|---|---|
| classifier | the study's own | as it is |
| inception | Inception of 2015 (torch-fidelity), as FID and the ADM suite use it | resized as TensorFlow 1 does |
| clean | the same network and weights | resized as clean-fid does |
| dinov2 | ViT-L/14 of DINOv2 | resized as EDM2 does |

clean-fid itself runs NVIDIA's TorchScript file of the same TensorFlow graph. Code is not loaded from files here, so the
same weights come from torch-fidelity's file instead.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from mar.data import published
from mar.data.published import WEIGHTS
from mar.runtime.files import sha256
from mar.study import at_once, layout
from mar.study.study import Study

SEED = 0  # seed of random weights


@dataclass(frozen=True)
class Extractor:
    """A network whose features judge images, in eval mode on its device.

    Attributes:
        name: one of `mar.study.sections.EXTRACTORS`.
        weights: SHA-256 of its file of weights, or "random".
        note: what a reader of its numbers must know, or nothing.
        network: the network itself.
        extract: function from images, uint8 (B, 3, H, W) on the device, to the tensors that a call returns.
        device: where the network computes.
        chunk: how many images the network sees at once, so that memory stays below 2 GB.
    """

    name: str
    weights: str
    note: str
    network: nn.Module
    extract: Callable[[Tensor], dict[str, Tensor]]
    device: torch.device
    chunk: int

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images.

        Args:
            images: uint8 (B, 3, H, W).

        Returns:
            float32 tensors on the CPU: "features" (B, F); where the network has them "logits" (B, K) for the Inception
            score and "spatial" (B, 2023) for sFID.

        Raises:
            ValueError: `images` are of another type or shape.
        """
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 3 or not len(images):
            found = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
            raise ValueError(f"{self.name}: found images {found}; accepted: uint8 (B, 3, H, W)")
        # TF32, torch's default for convolutions on a GPU, changes features by a thousandth.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            # Images that were stored as (B, H, W, 3) keep that order in memory, for which torch has other kernels that
            # round differently: hence `contiguous`.
            parts = [self.extract(part.to(self.device).contiguous()) for part in images.split(self.chunk)]
            return {key: torch.cat([part[key].float().cpu() for part in parts]) for key in parts[0]}


def load(name: str, study: Study | None, root: Path | None, device: torch.device, random: bool = False) -> Extractor:
    """The extractor of that name, ready for images.

    Args:
        name: one of `mar.study.sections.EXTRACTORS`.
        study: needed by `classifier`.
        root: folder of the study's results, needed by `classifier`. Published weights lie in `assets` beside it, by
            default in results/assets, or in torch's hub cache.
        device: where the network computes.
        random: take seeded random weights; the note says so.

    Raises:
        ValueError: there is no such extractor, or its weights are missing or not the file that config/assets.csv names.
    """
    if name == "classifier":
        return _classifier(study, root, device, random)
    if name not in WEIGHTS:
        raise ValueError(f"extractor {name}: accepted: classifier, {', '.join(WEIGHTS)}")
    if random:
        network, note = _network(name, None), f"{name} with random weights: its numbers say nothing about the images"
        return _extractor(name, "random", note, network, device, study)
    folder = layout.assets(root) if root else published.FOLDER
    file, digest = published.locate(WEIGHTS[name], published.TABLE, folder)
    return _extractor(name, digest, "", _network(name, file), device, study)


def _network(name: str, file: Path | None) -> Any:
    """The network with the weights of a file, or with random ones."""
    from mar.features.networks import dinov2, inception

    if file is None:
        return dinov2.random(SEED) if name == "dinov2" else inception.random(SEED)
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
        if name == "dinov2":
            with torch.device("meta"):  # so that 1.2 GB of weights are in memory only once
                network = dinov2.build()
            network.load_state_dict(dinov2.convert(state), assign=True)
            return network.requires_grad_(False)
        network = inception.Inception()
        network.load_state_dict(state)
        return network
    except Exception as error:
        message = shorten(f"{type(error).__name__}: {error}", 200)  # torch lists the name of every tensor
        raise ValueError(f"{file}: not the weights of {name} ({message}); delete it and fetch it again") from None


def _extractor(
    name: str, weights: str, note: str, network: Any, device: torch.device, study: Study | None
) -> Extractor:
    """The extractor of a published network, which is on `device` afterwards."""
    from mar.features.networks import dinov2, inception

    resize = inception.clean if name == "clean" else inception.bilinear

    def extract(images: Tensor) -> dict[str, Tensor]:
        return dinov2.extract(network, images) if name == "dinov2" else inception.extract(network, resize(images))

    return Extractor(name, weights, note, network.to(device), extract, device, at_once.judged(study, name))


def _classifier(study: Study | None, root: Path | None, device: torch.device, random: bool) -> Extractor:
    from mar.data.images import to_float
    from mar.features.networks import classifier

    if study is None or root is None:
        raise ValueError(f"extractor classifier: belongs to a study; without one: {', '.join(WEIGHTS)}")
    if random:
        raise ValueError(
            f"extractor classifier with random weights: the study trains it; accepted: {', '.join(WEIGHTS)}"
        )
    network = classifier.load(root, study).to(device)

    def extract(images: Tensor) -> dict[str, Tensor]:
        features, logits = network(to_float(images))
        return {"features": features, "logits": logits}

    return Extractor(
        "classifier",
        sha256(layout.classifier(root) / layout.WEIGHTS),
        "",
        network,
        extract,
        device,
        at_once.judged(study, "classifier"),
    )
