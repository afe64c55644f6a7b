"""Encoding: the images of both splits become token shards, once, so that training reads no image.

Of a kl tokenizer the moments of the posterior are stored, and training draws new latents from them at every step, as
MAR does. Latents before a quantiser, pixels and ids are stored themselves. Latents are multiplied by a scale when they
are read: the study's, or 1/std of the latents of the train split. The mean is not subtracted (as in MAR and DiT).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mar.data.images import SPLITS, ImageSet, open_split, to_float
from mar.data.latents import sample_posterior
from mar.data.read_ahead import WORKER_IMAGES, read_ahead
from mar.data.tokens import QUANTIZER, TokenSet, shard_dtype, shard_shape
from mar.runtime import devices
from mar.runtime.files import atomic, read, save_array, sha256, whole, write
from mar.runtime.folders import begun
from mar.runtime.progress import Progress
from mar.runtime.shards import Recipe, Share, fill, finish, stage
from mar.study import at_once, layout
from mar.study.at_once import BATCH
from mar.study.records import DataManifest, Piece, TokenManifest, Tokens
from mar.study.stage_keys import tokenizer_key
from mar.study.study import Study
from mar.tokenizers import autoencoder
from mar.tokenizers.autoencoder import Tokenizer

SHARD = 10_000  # images per shard; of KL-16 moments of 256x256 images and their mirror images, 650 MB


def encode(study: Study, root: str | Path, name: str, shard: tuple[int, int] = (0, 1)) -> None:
    """Write tokens/<name>/{train,heldout}/{shard-*.npy,labels.npy,manifest.json}, or a share of the shards.

    Complete shards on disk are not made again; the manifest of a split is written last.

    Args:
        study: the study.
        root: its results folder.
        name: a tokenizer of the study, by its name on disk.
        shard: (i, n) for worker i of n, which makes the shards i, i + n, i + 2 n, ... counted over both splits. The
            worker that completes a split writes its manifest.

    Raises:
        ValueError: the data or the tokenizer is missing, or a latent is not finite.
    """
    root = Path(root)
    recipe: dict[str, str | int] = {
        "slice": tokenizer_key(study, name),
        "data": sha256(layout.data_manifest(root)),
        "tokenizer": _digest(layout.tokenizer_weights(root, name)),
        "shard": SHARD,
        **at_once.of_tokens(study, study.instances[name].section),
    }
    tokenizer = cache(lambda: autoencoder.load(root, name, study).to(devices.device()))
    splits = read(layout.data_manifest(root), DataManifest).splits
    earlier = 0  # shards of the splits before this one
    for split in SPLITS:
        count = math.ceil(splits[split].count / SHARD)
        _encode_split(study, root, name, split, recipe, ((shard[0] - earlier) % shard[1], shard[1]), tokenizer)
        earlier += count


def _encode_split(
    study: Study,
    root: Path,
    name: str,
    split: str,
    recipe: Recipe,
    share: Share,
    tokenizer: Callable[[], Tokenizer],
) -> None:
    """Encode a share of a split. The held-out split is finished after the train split, because it takes its scale."""
    folder = layout.tokens(root, name, split)
    report, train = folder / layout.MANIFEST, layout.token_manifest(root, name, "train")
    twin = layout.twin(study, root, folder)
    recipe = begun(folder, recipe, (at_once.ENCODED,), folder.glob("shard-*.npy"), twin)
    with stage(report, lambda: _sound(folder), recipe, twin) as left:
        if not left:
            return
    images = open_split(study, root, split)
    tokenizer().encoded = partial(at_once.groups, most=int(recipe.get(at_once.ENCODED, BATCH)))
    tokens = _describe(study, name, recipe, images, tokenizer().tokens)
    shape, dtype = shard_shape(tokens), shard_dtype(tokens)
    shards = _shards(folder, len(images))
    files = [path for path, _ in shards]

    def is_complete(number: int) -> bool:
        return whole(files[number], (len(shards[number][1]), *shape), dtype)

    def write_manifest() -> None:
        _write_manifest(folder, tokens, images, tokenizer(), study, name)
        print(f"{report}: complete", flush=True)

    workers = torch.get_num_threads() if study.data.decoded else 0
    make = partial(_encode, shards, range(share[0], len(files), share[1]), tokens, images, tokenizer(), workers)
    fill(folder, recipe, files, share, is_complete, make)
    # The worker that completes the train split goes on to the held-out split, so that one is finished too.
    if split == "train" or train.exists():
        finish(report, recipe, files, is_complete, write_manifest)


def _write_manifest(
    folder: Path, tokens: Tokens, images: ImageSet, tokenizer: Tokenizer, study: Study, name: str
) -> None:
    """Write labels, quantiser and, last, the manifest beside the shards, which must all be complete."""
    values: dict[str, Any] = tokens.model_dump(exclude_unset=True)
    with atomic(folder / layout.LABELS) as temporary:
        save_array(temporary, images.labels)
    values["labels_sha256"] = sha256(folder / layout.LABELS)
    if tokens.scales:  # a scales backbone makes its inputs with it
        weights = {name: weight.cpu() for name, weight in tokenizer.net.quantize.state_dict().items()}
        with atomic(folder / QUANTIZER) as temporary:
            save_file(weights, temporary)
        values["quantizer_sha256"] = sha256(folder / QUANTIZER)
    shards = _shards(folder, len(images))
    values["shards"] = tuple(Piece(file=path.name, count=len(rows), sha256=sha256(path)) for path, rows in shards)
    if tokens.kind != "ids":
        values["scale"] = study.instances[name].config.scale or (1.0 if study.instances[name].config.unscaled else None)
        if not values["scale"] and folder.name != "train":
            values["scale"] = read(folder.with_name("train") / layout.MANIFEST, TokenManifest).scale
        values["scale"] = values["scale"] or _scale([path for path, _ in shards], tokens.kind == "moments", study.seed)
    write(folder / layout.MANIFEST, TokenManifest(**values))


def _digest(path: Path) -> str:
    if not path.exists():
        raise ValueError(f"{path}: missing; run `mar tokenizer` first")
    return sha256(path)


def _sound(folder: Path) -> bool:
    """Whether all files of a finished folder agree with its manifest; if not, name and delete those that do not."""
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


def _describe(study: Study, name: str, recipe: Recipe, images: ImageSet, kind: Any) -> Tokens:
    section, config, _ = study.instances[name]
    values: dict[str, Any] = {"codebook_size": config.codes}
    if at_once.ENCODED in recipe:
        values["encoded_at_once"] = recipe[at_once.ENCODED]
    if kind != "ids":
        values = {"token_dim": config.token_dim}
    if config.sides:
        values |= {"scales": config.sides, "code_width": config.latent_channels}
    return Tokens(
        kind=kind,
        count=len(images),
        classes=len(images.classes),
        class_names=tuple(images.classes),
        views=2 if study.data.flip else 1,
        grid=config.sides[-1] if config.sides else math.isqrt(study.tokens(section)),
        tokens=study.tokens(section),
        group=config.group,
        tokenizer=str(recipe["tokenizer"]),
        data=str(recipe["data"]),
        **values,
    )


def _shards(folder: Path, count: int) -> list[tuple[Path, range]]:
    """The shards of a split of `count` images: path, and indices of its images."""
    firsts = range(0, count, SHARD)
    return [(folder / f"shard-{i:05d}.npy", range(count)[first : first + SHARD]) for i, first in enumerate(firsts)]


def _encode(
    shards: list[tuple[Path, range]],
    share: range,
    tokens: Tokens,
    images: ImageSet,
    tokenizer: Tokenizer,
    workers: int,
    missing: list[int],
) -> Iterator[tuple[int, Callable[[Path], None]]]:
    """Yield each missing shard as (number, function that writes it to a path).

    Args:
        shards: path and images of every shard of the split.
        share: numbers of the shards that this worker is responsible for, for the progress line.
        tokens: what a shard holds.
        images: the split.
        tokenizer: makes the tokens.
        workers: processes that decode images ahead, at most.
        missing: numbers of the shards to write.
    """
    shape, dtype = shard_shape(tokens), shard_dtype(tokens)
    device = next(tokenizer.parameters(), torch.empty(0)).device  # pixels have no parameters
    total, left = (sum(len(shards[number][1]) for number in numbers) for numbers in (share, missing))
    rows_of = [shards[number][1] for number in missing]
    batches = [rows[start : start + BATCH] for rows in rows_of for start in range(0, len(rows), BATCH)]
    pixels = read_ahead(images.arrays, batches, min(workers, left // WORKER_IMAGES))
    progress = Progress(f"encode {shards[0][0].parent.name}", total, total - left)

    @torch.no_grad()
    def write_shard(temporary: Path, path: Path, rows: range) -> None:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=(len(rows), *shape))
        with open(temporary, "r+b") as file:  # a full disk is an error here; when writing to the map it would be SIGBUS
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        for start in range(0, len(rows), BATCH):
            batch = to_float(torch.from_numpy(next(pixels)).permute(0, 3, 1, 2).contiguous()).to(device)
            views = [batch] if tokens.views == 1 else [batch, batch.flip(3)]
            encoded = torch.stack([tokenizer.encode(view) for view in views], dim=1).cpu()
            if not torch.isfinite(encoded).all():
                raise ValueError(f"{path}: the tokenizer gave values that are not finite")
            out[start : start + len(batch)] = encoded.numpy()
            progress.update(len(batch))
        out.flush()

    for number in missing:
        path, rows = shards[number]
        yield number, partial(write_shard, path=path, rows=rows)


def _scale(shards: list[Path], moments: bool, seed: int) -> float:
    """1/std over all numbers of the latents of the train split, in float64; moments are sampled once first."""
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
