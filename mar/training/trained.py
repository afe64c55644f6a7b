"""The model of a finished run, read back from its files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mar.models.model import Model, build_model
from mar.models.multiscale import load_quantizer
from mar.runtime import devices
from mar.runtime.checkpoint import load_weights
from mar.runtime.files import read, sha256
from mar.runtime.folders import recipe_of
from mar.study import layout
from mar.study.records import RunRecord, TokenManifest
from mar.study.stage_keys import train_key
from mar.study.study import Study

if TYPE_CHECKING:
    from mar.models.dit import DiT


def load_trained(
    study: Study, root: Path, variant: str, seed: int, manifest: TokenManifest, images: int | None = None
) -> tuple[Model | DiT, str]:
    """The averaged model of a finished run, in eval mode, and the SHA-256 of its weights file.

    With `images` the weights are the average after so many images, which the run kept on its way.

    Raises:
        ValueError: the run is not finished, was trained by another recipe, or its weights are not those that run.json
            names or do not fit the model.
    """
    folder = layout.run(root, variant, seed)
    run = read(folder / layout.RECORD, RunRecord)
    weights, checkpoint = folder / layout.AVERAGE, run.checkpoint
    if images is not None and images != run.images:
        weights, checkpoint = layout.kept_average(folder, images), run.averages.get(str(images), "")
    if recipe_of(folder).get("train") != train_key(study, variant, seed):
        raise ValueError(f"{folder}: was trained by another recipe than the study has now; train again")
    if not weights.exists() or sha256(weights) != checkpoint:
        raise ValueError(f"{weights}: missing or not the weights that {folder / 'run.json'} names; train again")
    device = devices.device()
    quantizer = load_quantizer(layout.tokens(root, study.tokenizer_of(variant, seed)), manifest)
    with torch.device("meta"):
        model = build_model(study, variant, manifest, quantizer.to(device) if quantizer else None)
    load_weights(model, weights, f"move {folder} away and train again", assign=True)
    return model.to(device).eval(), checkpoint
