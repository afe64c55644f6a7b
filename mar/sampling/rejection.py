"""Rejection ("-re"): an image is drawn again until the study's rejecter is sure enough of the class asked for.

VAR's authors say of theirs only that it goes by "certain criteria". Ours: an image is accepted if the rejecter
(`mar/features/networks/rejecter.py`) gives the class asked for at least the probability `reject.threshold`; what is not
is drawn again, up to `reject.tries` times in all. Where no try is accepted, the one of the highest probability stays.
The images of a chunk whose first try is accepted are those that the setting draws without rejection.

The acceptance rate is the share of all drawn images that were accepted; an image of the set costs as many draws as its
tries.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mar.features.networks.rejecter import Acceptance
from mar.runtime import npz
from mar.runtime.files import atomic
from mar.runtime.noise import Noise
from mar.sampling.sampler import Sampler
from mar.study.parts import Sampling
from mar.study.records import Rejection


class Accepted(NamedTuple):
    """Images and how they were come by.

    Attributes:
        images: uint8 (B, 3, H, W).
        tries: how often each was drawn, int64 (B,).
        probability: what the rejecter gives the class asked for, float32 (B,).
    """

    images: Tensor
    tries: np.ndarray
    probability: np.ndarray


def draw(
    sampler: Sampler, rejecter: Acceptance, settings: Sampling, labels: Tensor, name: tuple[str | int, ...]
) -> Accepted:
    """Images of classes `labels` (B,), each drawn until it is accepted; the random numbers of try 1 have this name."""
    assert settings.reject is not None  # whoever asks rejects
    images = sampler.draw(settings, labels, Noise(*name, device=sampler.device)).cpu()
    probability = rejecter.probability(images, labels)
    tries = torch.ones(len(labels), dtype=torch.long)
    for turn in range(1, settings.reject.tries):
        rows = torch.nonzero(probability < settings.reject.threshold)[:, 0]
        if not len(rows):
            break
        again = sampler.draw(settings, labels[rows], Noise(*name, "again", turn, device=sampler.device)).cpu()
        found = rejecter.probability(again, labels[rows])
        tries[rows] += 1
        better = found > probability[rows]
        images[rows[better]], probability[rows[better]] = again[better], found[better]
    return Accepted(images, tries.numpy(), probability.numpy())


def save(path: Path, accepted: Accepted) -> None:
    """Write the tries and probabilities of a chunk."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, tries=accepted.tries, probability=accepted.probability)


def kept(path: Path, count: int) -> bool:
    """Whether a file has the tries and probabilities of so many images."""
    try:
        shapes = {name: shape for name, (shape, _) in npz.headers(path).items()}
    except (ValueError, OSError):
        return False
    return shapes == {"tries": (count,), "probability": (count,)}


def record(paths: list[Path], settings: Sampling, rejecter: str, weights: str) -> Rejection:
    """What a sample set cost, by the files of its chunks."""
    assert settings.reject is not None  # whoever asks rejects
    tries = np.concatenate([npz.read(path, "tries") for path in paths])
    sure = np.concatenate([npz.read(path, "probability") for path in paths]) >= settings.reject.threshold
    return Rejection(rejecter=rejecter, weights=weights, drawn=int(tries.sum()), accepted=int(sure.sum()))
