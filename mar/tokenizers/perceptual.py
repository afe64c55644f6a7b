"""The perceptual term of a tokenizer's loss: LPIPS, or the distance by small networks of the study's own.

LDM has LPIPS with VGG-16 (Zhang et al. 2018), here by torch-fidelity. A training never fetches its two files of
weights: compute nodes often have no network, and a training whose loss silently lacked a term would follow another
recipe.

The study's own networks are classifiers that need nothing but labelled images. None is the judge of the study, whose
rFID it would flatter: they have other widths and other seeds, and learn from every second training image. They are the
same for every tokenizer of the same images, as LPIPS is, and several: what one of them overlooks differs between seeds,
and a tokenizer's rFID with it (docs/experiments.md).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mar.data.images import ImageSet
from mar.features.networks.classifier import Classifier, distances, fit
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.limits import OWN_NETWORKS
from mar.study.sections import Classifier as ClassifierConfig

# Name in config/assets.csv, and address. In torch's hub cache a file has the last part of its address as its name.
FILES = {
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "lpips-vgg16": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth",
}

# The study's own networks. The widths are none that a judge has here.
CHANNELS, WIDTH = (24, 48, 96), 64


class OwnNetworks(nn.Module):
    """Classifiers whose maps after each convolution are compared, each position's vector at unit length, as LPIPS.

    Called as LPIPS is: two batches of images (B, 3, H, W) in [0, 255] to distances (B,).
    """

    def __init__(self, images: int, classes: int) -> None:
        super().__init__()
        self.config = ClassifierConfig(channels=CHANNELS, features=WIDTH, images=images)
        self.classifiers = nn.ModuleList()
        for seed in OWN_NETWORKS:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.classifiers.append(Classifier(self.config, classes))
        self.requires_grad_(False)

    def learn(self, images: ImageSet, flip: bool, log: Path, device: torch.device) -> None:
        """Train the classifiers in place on every second image; `log` gets about a hundred lines of each."""
        half = np.arange(0, len(images), 2)
        log.parent.mkdir(parents=True, exist_ok=True)
        some = ImageSet(images.labels[half], images.classes, lambda rows: images.arrays(2 * rows))
        for seed, classifier in zip(OWN_NETWORKS, self.classifiers, strict=True):
            assert isinstance(classifier, Classifier)
            fit(classifier.requires_grad_(True), self.config, some, flip, seed, log, device)
        self.requires_grad_(False).zero_grad()

    def forward(self, rebuilt: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Squared distance of unit vectors, mean over the positions of a map, then over maps and networks: (B,)."""
        networks = [network for network in self.classifiers if isinstance(network, Classifier)]
        return distances(networks, rebuilt / 127.5 - 1.0, images / 127.5 - 1.0)


def load(assets: Path) -> Any:
    """LPIPS in eval mode: two batches of images (B, 3, H, W) in [0, 255] to distances (B,).

    Args:
        assets: folder of fetched files (results/assets); torch's hub cache is searched after it.

    Raises:
        ValueError: a file is missing or damaged; the message names it, its address and its place.
    """
    from torch_fidelity.sample_similarity_lpips import SampleSimilarityLPIPS

    user_hub = torch.hub.get_dir()
    files = {url: _find(name, url, assets, Path(user_hub)) for name, url in FILES.items()}
    with tempfile.TemporaryDirectory() as hub:
        (Path(hub) / "checkpoints").mkdir()
        for url, path in files.items():
            (Path(hub) / "checkpoints" / url.rpartition("/")[2]).symlink_to(path.resolve())
        torch.hub.set_dir(hub)  # the only place where torch-fidelity looks
        try:
            return SampleSimilarityLPIPS("lpips").requires_grad_(False)
        finally:
            torch.hub.set_dir(user_hub)


def distance(network: Any, rebuilt: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean distance by LPIPS or the own networks of two batches of images (B, 3, H, W) in [-1, 1]."""
    distances: torch.Tensor = network((rebuilt + 1.0) * 127.5, (images + 1.0) * 127.5)  # (B,)
    return distances.mean()


def _find(name: str, url: str, assets: Path, hub: Path) -> Path:
    file = url.rpartition("/")[2]
    places = [layout.downloads(assets) / f"{name}.pth", hub / "checkpoints" / file]
    for path in places:
        if path.exists():
            # in the names that torch gives to files, the last eight digits are the first ones of the SHA-256
            digits = Path(file).stem.rpartition("-")[2]
            if len(digits) == 8 and not sha256(path).startswith(digits):
                raise ValueError(f"{path}: its SHA-256 does not begin with {digits}, it is damaged; fetch {url} again")
            return path
    raise ValueError(
        f"{places[0]}: missing, and {places[1]} too; perceptual_weight, and tasks that no classifier of the study "
        f"judges, need this part of LPIPS. Put {url} at either place; or, for a tokenizer, set perceptual: own, or "
        "perceptual_weight: 0, which is then not the recipe of LDM"
    )
