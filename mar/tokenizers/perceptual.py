"""The perceptual term of LDM's tokenizers: LPIPS with VGG-16 (Zhang et al. 2018), by torch-fidelity.

A training never fetches the two files of weights: compute nodes often have no network, and a training whose loss
silently lacked a term would follow another recipe.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from mar.runtime.files import sha256
from mar.study import layout

# Name in config/assets.csv, and address. In torch's hub cache a file has the last part of its address as its name.
FILES = {
    "vgg16": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "lpips-vgg16": "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-vgg16-lpips.pth",
}


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


def distance(lpips: Any, rebuilt: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Mean LPIPS of two batches of images (B, 3, H, W) in [-1, 1]."""
    distances: torch.Tensor = lpips((rebuilt + 1.0) * 127.5, (images + 1.0) * 127.5)  # (B,)
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
        f"{places[0]}: missing, and {places[1]} too; perceptual_weight needs this part of LPIPS. Put {url} at either "
        "place; or set perceptual_weight: 0, which leaves the term out and is then not the recipe of LDM"
    )
