"""Encoding: every image of both splits to token shards, once, so that training reads no image.

Continuous tokens of a posterior are stored as its moments and sampled again at every training step, as MAR does;
latents before a quantiser and pixels are stored as they are. The latent scale is the study's, or 1/std of latents
over the train split; the mean is not removed (MAR, DiT).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mar.data.images import SPLITS, ImageSet, open_split, to_float
from mar.data.latents import sample_posterior
from mar.data.read_ahead import WORKER_IMAGES, read_ahead
from mar.data.tokens import QUANTIZER, TokenSet, shard_dtype, shard_shape
from mar.runtime.files import atomic, read, sha256, whole, write
from mar.runtime.folders import claim, lock, still_ours
from mar.runtime.progress import Progress
from mar.study import layout
from mar.study.records import Piece, TokenManifest, Tokens
from mar.study.stage_keys import tokenizer_slice
from mar.study.study import Study
from mar.tokenizers import autoencoder
from mar.tokenizers.autoencoder import Tokenizer

SHARD = 10_000  # images per shard: 650 MB of KL-16 moments with the mirror images of 256x256
BATCH = 250  # images per forward pass


def encode(study: Study, root: str | Path, name: str, shard: tuple[int, int] = (0, 1)) -> None:
    """Write tokens/<name>/{train,heldout}/{shard-*.npy,labels.npy,manifest.json}, or a share beside other workers.

    Files on disk are kept, the manifests come last.

    Args:
        study: the study.
        root: its results folder.
        name: a tokenizer of the study.
        shard: (i, n) makes files i, i + n, i + 2 n, ... of both splits; whoever completes a split writes its manifest.

    Raises:
        ValueError: the data or the tokenizer is missing, or a latent is not finite.
    """
    root = Path(root)
    recipe: dict[str, str | int] = {
        "slice": tokenizer_slice(study, name),
        "data": sha256(layout.data_manifest(root)),
        "tokenizer": _digest(layout.tokenizer_weights(root, name)),
        "shard": SHARD,
    }
    folders = [layout.tokens(root, name, split) for split in SPLITS]
    complete = []
    for folder in folders:
        with lock(folder):
            claim(folder, recipe, "manifest.json", layout.twin(study, root, folder))
            complete.append(_complete(folder))
    if not all(complete):
        tokenizer = autoencoder.load(root, name, study).to("cuda" if torch.cuda.is_available() else "cpu")
        splits = [open_split(study, root, split) for split in SPLITS]
        records = [_describe(study, name, recipe, images, tokenizer.tokens) for images in splits]
        parts = list(zip(folders, splits, records, strict=True))
        workers = torch.get_num_threads() if study.data.kind == "imagefolder" else 0
        with lock(root / "tokens" / name / f"shard-{shard[0]}-of-{shard[1]}"):
            before = 0  # files of the splits before this one: a share goes over both
            for folder, images, record in parts:
                shards = _shards(folder, images)
                mine = shards[(shard[0] - before) % shard[1] :: shard[1]]
                before += len(shards)
                if not (folder / layout.MANIFEST).exists():
                    _write_shards(folder, mine, recipe, record, images, tokenizer, workers)
        scale = study.tokenizers[name].scale or (1.0 if tokenizer.kind == "pixels" else None)
        for folder, images, record in parts:
            with lock(folder):
                _finish(folder, recipe, record, images, tokenizer, scale, study.seed)
    for folder in folders:
        if (folder / layout.MANIFEST).exists():
            print(f"{folder / 'manifest.json'}: complete", flush=True)


def _finish(
    folder: Path,
    recipe: dict[str, Any],
    tokens: Tokens,
    images: ImageSet,
    tokenizer: Tokenizer,
    scale: float | None,
    seed: int,
) -> None:
    """Write labels and manifest once all shards are there, whoever made them; the held-out split after the train split.

    The worker that writes the last shard of all comes here after it, so both manifests are written.
    """
    still_ours(folder, recipe)
    manifest, train = folder / layout.MANIFEST, folder.with_name("train") / layout.MANIFEST
    shards = _shards(folder, images)
    shape, dtype = shard_shape(tokens), shard_dtype(tokens)
    if manifest.exists() or not all(whole(path, (len(rows), *shape), dtype) for path, rows in shards):
        return
    if train != manifest and not train.exists():
        return
    with atomic(folder / layout.LABELS) as temporary, open(temporary, "wb") as file:
        np.save(file, images.labels)
    values: dict[str, Any] = tokens.model_dump(exclude_unset=True)
    if tokens.scales:  # what a scales backbone needs of the tokenizer
        weights = {name: weight.cpu() for name, weight in tokenizer.net.quantize.state_dict().items()}
        with atomic(folder / QUANTIZER) as temporary:
            save_file(weights, temporary)
        values["quantizer_sha256"] = sha256(folder / QUANTIZER)
    values["labels_sha256"] = sha256(folder / layout.LABELS)
    values["shards"] = tuple(Piece(file=path.name, count=len(rows), sha256=sha256(path)) for path, rows in shards)
    if tokens.kind != "ids":
        scale = scale or (read(train, TokenManifest).scale if train != manifest else None)
        values["scale"] = scale or _scale([path for path, _ in shards], tokens.kind == "moments", seed)
    write(manifest, TokenManifest(**values))


def _digest(path: Path) -> str:
    if not path.exists():
        raise ValueError(f"{path}: missing; run `mar tokenizer` first")
    return sha256(path)


def _complete(folder: Path) -> bool:
    """Whether the folder is finished and sound; a bad file is named, and made again."""
    if not (folder / layout.MANIFEST).exists():
        return False
    try:
        TokenSet.open(folder)
    except ValueError as error:
        print(f"{error}\n{folder}: making the bad files again", flush=True)
        for entry in read(folder / layout.MANIFEST, TokenManifest).shards:
            file = folder / entry.file
            if file.exists() and sha256(file) != entry.sha256:
                file.unlink()
        (folder / layout.MANIFEST).unlink()
        return False
    return True


def _describe(study: Study, name: str, recipe: dict[str, Any], images: ImageSet, kind: Any) -> Tokens:
    config = study.tokenizers[name]
    values: dict[str, Any] = {"codebook_size": config.codebook_size}
    if kind != "ids":
        values = {"token_dim": config.token_dim}
    if config.scales:
        values |= {"scales": config.scales, "code_width": config.latent_channels}
    return Tokens(
        kind=kind,
        count=len(images),
        classes=len(images.classes),
        class_names=tuple(images.classes),
        views=2 if study.data.flip else 1,
        grid=config.scales[-1] if config.scales else math.isqrt(study.tokens(name)),
        tokens=study.tokens(name),
        group=config.group,
        tokenizer=recipe["tokenizer"],
        data=recipe["data"],
        **values,
    )


def _shards(folder: Path, images: ImageSet) -> list[tuple[Path, range]]:
    """Files of a split, and the images in each."""
    firsts = range(0, len(images), SHARD)
    return [
        (folder / f"shard-{i:05d}.npy", range(len(images))[first : first + SHARD]) for i, first in enumerate(firsts)
    ]


@torch.no_grad()
def _write_shards(
    folder: Path,
    shards: list[tuple[Path, range]],
    recipe: dict[str, Any],
    record: Tokens,
    images: ImageSet,
    tokenizer: Tokenizer,
    workers: int,
) -> None:
    """Write those of these shards that are not there yet."""
    shape, dtype = shard_shape(record), shard_dtype(record)
    device = next(tokenizer.parameters(), torch.empty(0)).device  # pixels have no parameters
    missing = [(path, rows) for path, rows in shards if not whole(path, (len(rows), *shape), dtype)]
    total, left = (sum(len(rows) for _, rows in some) for some in (shards, missing))
    batches = [rows[start : start + BATCH] for _, rows in missing for start in range(0, len(rows), BATCH)]
    pixels = read_ahead(images.arrays, batches, min(workers, left // WORKER_IMAGES))
    progress = Progress(f"encode {folder.name}", total, total - left)
    for path, rows in missing:
        with atomic(path) as temporary:
            out = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(len(rows), *shape))
            with open(temporary, "r+b") as file:  # a full disk is an error now; in the map it would be a SIGBUS
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
            for start in range(0, len(rows), BATCH):
                batch = to_float(torch.from_numpy(next(pixels)).permute(0, 3, 1, 2).contiguous()).to(device)
                views = [batch] if record.views == 1 else [batch, batch.flip(3)]
                tokens = torch.stack([tokenizer.encode(view) for view in views], dim=1).cpu()
                if not torch.isfinite(tokens).all():
                    raise ValueError(f"{path}: the tokenizer gave values that are not finite")
                out[start : start + len(batch)] = tokens.numpy()
                progress.update(len(batch))
            out.flush()
            del out
            still_ours(folder, recipe)


def _scale(shards: list[Path], moments: bool, seed: int) -> float:
    """1/std of the latents, sampled where they have a posterior, over all numbers of the train split in float64."""
    generator = torch.Generator().manual_seed(seed)
    count, total, squares = 0, 0.0, 0.0
    for path in shards:
        shard = np.load(path, mmap_mode="r")
        for start in range(0, len(shard), BATCH):
            stored = torch.from_numpy(np.array(shard[start : start + BATCH])).flatten(0, 1)  # (B*views, C or 2C, h, w)
            if moments:
                noise = torch.randn(stored.chunk(2, dim=1)[0].shape, generator=generator)
                stored = sample_posterior(stored, noise)
            latents = stored.double()
            count += latents.numel()
            total += latents.sum().item()
            squares += latents.square().sum().item()
    return (squares / count - (total / count) ** 2) ** -0.5
