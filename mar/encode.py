"""Encoding: every image of both splits to token shards, once, so that training reads no image.

Continuous tokens are stored as posterior moments and sampled again at every training step, as MAR does. The
latent scale is 1/std of latents sampled over the train split; the mean is not removed (MAR, DiT).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mar import tokenizers
from mar.config import Study
from mar.data.images import SPLITS, ImageSet, open_split, to_float
from mar.data.tokens import TokenSet, sample_posterior, shard_dtype, shard_shape
from mar.files import atomic, claim, lock, read_json, sha256, write_json
from mar.progress import Progress
from mar.study import tokenizer_slice
from mar.tokenizers import Tokenizer

SHARD = 10_000  # images per shard: 650 MB of KL-16 moments with the mirror images of 256x256
BATCH = 250  # images per forward pass


def encode(study: Study, root: str | Path, name: str) -> None:
    """Write tokens/<name>/{train,heldout}/{shard-*.npy,labels.npy,manifest.json}; goes on at the first missing shard.

    Raises:
        ValueError: the data or the tokenizer is missing, or a latent is not finite.
    """
    root = Path(root)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer: Tokenizer | None = None
    scale: float | None = None
    recipe = {
        "slice": tokenizer_slice(study, name),
        "data": sha256(root / "data" / "manifest.json"),
        "tokenizer": _digest(root / "tokenizers" / name / "model.safetensors"),
        "shard": SHARD,
    }
    for split in SPLITS:
        folder = root / "tokens" / name / split
        with lock(folder):
            claim(folder, recipe)
            manifest = folder / "manifest.json"
            if not _complete(folder):
                if tokenizer is None:
                    tokenizer = tokenizers.load(root, name, study).to(device)
                images = open_split(study, root, split)
                record = _describe(study, name, recipe, images)
                _write_labels(folder, images)
                record["labels_sha256"] = sha256(folder / "labels.npy")
                record["shards"] = _write_shards(folder, record, images, tokenizer, device)
                if record["kind"] == "moments":
                    record["scale"] = _scale(folder, record, study.seed) if split == "train" else scale
                write_json(manifest, record)
            scale = read_json(manifest).get("scale")
            print(f"{manifest}: complete", flush=True)


def _digest(path: Path) -> str:
    if not path.exists():
        raise ValueError(f"{path}: missing; run `mar tokenizer` first")
    return sha256(path)


def _complete(folder: Path) -> bool:
    """Whether the folder is finished and sound; a bad file is named, and made again."""
    if not (folder / "manifest.json").exists():
        return False
    try:
        TokenSet.open(folder)
    except ValueError as error:
        print(f"{error}\n{folder}: making the bad files again", flush=True)
        for entry in read_json(folder / "manifest.json")["shards"]:
            file = folder / entry["file"]
            if file.exists() and sha256(file) != entry["sha256"]:
                file.unlink()
        (folder / "manifest.json").unlink()
        return False
    return True


def _describe(study: Study, name: str, recipe: dict[str, Any], images: ImageSet) -> dict[str, Any]:
    config = study.tokenizers[name]
    kind = {"kl": "moments", "vq": "ids"}[config.kind]
    record = {
        "kind": kind,
        "count": len(images),
        "classes": len(images.classes),
        "class_names": images.classes,
        "views": 2 if study.data.flip else 1,
        "grid": math.isqrt(study.tokens(name)),
        "tokens": study.tokens(name),
        "group": config.group,
        "tokenizer": recipe["tokenizer"],
        "data": recipe["data"],
    }
    return record | ({"token_dim": config.token_dim} if kind == "moments" else {"codebook_size": config.codebook_size})


def _write_labels(folder: Path, images: ImageSet) -> None:
    with atomic(folder / "labels.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, images.labels)


@torch.no_grad()
def _write_shards(
    folder: Path, manifest: dict[str, Any], images: ImageSet, tokenizer: Tokenizer, device: torch.device
) -> list[dict[str, Any]]:
    shape, dtype = shard_shape(manifest), shard_dtype(manifest)
    shards: list[dict[str, Any]] = []
    progress = Progress(f"encode {folder.name}", len(images))
    for number, first in enumerate(range(0, len(images), SHARD)):
        path = folder / f"shard-{number:05d}.npy"
        count = min(SHARD, len(images) - first)
        if _whole(path, (count, *shape), dtype):
            progress.update(count)
        else:
            with atomic(path) as temporary:
                out = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(count, *shape))
                for start in range(0, count, BATCH):
                    stop = min(start + BATCH, count)
                    batch = to_float(images.batch(range(first + start, first + stop))).to(device)
                    views = [batch] if manifest["views"] == 1 else [batch, batch.flip(3)]
                    tokens = torch.stack([tokenizer.encode(view) for view in views], dim=1).cpu()
                    if not torch.isfinite(tokens).all():
                        raise ValueError(f"{path}: the tokenizer gave values that are not finite")
                    out[start:stop] = tokens.numpy()
                    progress.update(stop - start)
                out.flush()
                del out
        shards.append({"file": path.name, "count": count, "sha256": sha256(path)})
    return shards


def _whole(path: Path, shape: tuple[int, ...], dtype: str) -> bool:
    """Whether an earlier attempt left this shard; it was renamed into place when it was complete."""
    try:
        shard = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        return False
    except (ValueError, OSError, EOFError) as error:
        print(f"{path}: truncated or no .npy file ({error}); making it again", flush=True)
        return False
    return bool(shard.shape == shape and shard.dtype == dtype)


def _scale(folder: Path, manifest: dict[str, Any], seed: int) -> float:
    """1/std of latents sampled from the posteriors, over all numbers of the train split in float64."""
    generator = torch.Generator().manual_seed(seed)
    count, total, squares = 0, 0.0, 0.0
    for entry in manifest["shards"]:
        shard = np.load(folder / entry["file"], mmap_mode="r")
        for start in range(0, len(shard), BATCH):
            moments = torch.from_numpy(np.array(shard[start : start + BATCH])).flatten(0, 1)  # (B*views, 2C, h, w)
            noise = torch.randn(moments.chunk(2, dim=1)[0].shape, generator=generator)
            latents = sample_posterior(moments, noise).double()
            count += latents.numel()
            total += latents.sum().item()
            squares += latents.square().sum().item()
    return (squares / count - (total / count) ** 2) ** -0.5
