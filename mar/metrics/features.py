"""Step 1 of an evaluation: images to features and logits, kept in one .npz."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from mar.data.images import to_float
from mar.files import atomic
from mar.metrics.classifier import Classifier


@torch.no_grad()
def extract(model: Classifier, batches: Iterable[torch.Tensor], device: torch.device) -> dict[str, np.ndarray]:
    """Features float32 (N, F) and logits float32 (N, K) of batches of uint8 images (B, 3, H, W)."""
    found = [[x.cpu() for x in model(to_float(batch).to(device))] for batch in batches]
    features, logits = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return {"features": features, "logits": logits}


def write(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write features atomically; equal arrays give equal bytes."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Read features, logits, labels and the checksum of the classifier that made them.

    Raises:
        ValueError: the file is missing, damaged, or holds values that are not finite; the message names it.
    """
    if not Path(path).exists():
        raise ValueError(f"{path}: missing; the stage that writes it has not run")
    try:
        with np.load(path) as arrays:
            found = dict(arrays)
    except Exception as error:
        raise ValueError(f"{path}: no valid .npz ({error}); delete it and run its stage again") from None
    check(found, path)
    return found


def check(arrays: dict[str, np.ndarray], path: str | Path) -> None:
    """Refuse features and logits that are not finite."""
    for key in ("features", "logits"):
        bad = ~np.isfinite(arrays[key]).all(axis=1)
        if bad.any():
            raise ValueError(f"{path}: {key} of {bad.sum()} images are not finite; the first is image {bad.argmax()}")
