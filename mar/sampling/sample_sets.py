"""Sample sets, written in chunks. A chunk is a function of (seed, chunk id) alone, whoever draws it, in any order."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from mar.runtime.files import atomic, read, sha256, whole, write_json
from mar.runtime.folders import claim, lock, still_ours
from mar.runtime.progress import Progress
from mar.runtime.provenance import record
from mar.sampling.sampler import Sampler, chunk_labels
from mar.study import layout
from mar.study.chosen_settings import resolved
from mar.study.parts import Sampling
from mar.study.records import RunRecord, TokenManifest
from mar.study.stage_keys import sample_slice
from mar.study.study import Study


def sample(study: Study, root: Path, variant: str, seed: int, setting: str, shard: tuple[int, int] = (0, 1)) -> None:
    """Draw a sample set, or one shard of its chunks; chunks on disk are kept, the manifest comes last.

    Args:
        study: the study.
        root: its results folder.
        variant: a variant with a finished run of this seed.
        seed: training seed.
        setting: sampling setting.
        shard: (i, n) draws chunks i, i + n, i + 2 n, ...; whoever completes the set writes the manifest.

    Raises:
        ValueError: the run is not finished, its tokens are missing, or the sweep of the setting has not run.
    """
    used = resolved(study, root, variant, setting)
    folder = layout.samples(root, layout.sample_set(variant, seed, setting))
    run = read(layout.run_record(root, variant, seed), RunRecord)
    tokens = layout.token_manifest(root, study.variants[variant].tokenizer)
    recipe = {
        "sample": sample_slice(study, variant, setting, used),
        "checkpoint": run.checkpoint,
        "tokens": sha256(tokens),
    }
    with lock(folder):
        claim(folder, recipe, "manifest.json", layout.twin(study, root, folder))
    count = study.metrics.samples // study.metrics.chunk
    start = time.monotonic()

    def there(number: int) -> bool:
        return whole(folder / chunk_name(number), (study.metrics.chunk,), "uint8")

    with lock(folder / f"shard-{shard[0]}-of-{shard[1]}"):
        missing = [c for c in range(shard[0], count, shard[1]) if not there(c)]
        if missing:
            sampler = Sampler(study, root, variant, seed)
            progress = Progress(f"sample {variant} seed {seed} {setting}", len(missing) * study.metrics.chunk)
            for number in missing:
                images, _ = sampler.chunk(setting, number)
                still_ours(folder, recipe)
                with atomic(folder / chunk_name(number)) as temporary, open(temporary, "wb") as file:
                    np.save(file, images)
                progress.update(len(images))
    with lock(folder):
        if not (folder / layout.MANIFEST).exists() and all(there(c) for c in range(count)):
            seconds = time.monotonic() - start
            write_manifest(study, folder, variant, seed, setting, used, run.checkpoint, tokens, seconds)


def chunk_name(number: int) -> str:
    """File of a chunk."""
    return f"chunk-{number:05d}.npy"


def write_manifest(
    study: Study,
    folder: Path,
    variant: str,
    seed: int,
    setting: str,
    used: Sampling,
    checkpoint: str,
    tokens: Path,
    seconds: float,
) -> None:
    """Write labels.npy and, last, manifest.json with the checksum of every chunk."""
    size, manifest = study.metrics.chunk, read(tokens, TokenManifest)
    count = study.metrics.samples // size
    labels = torch.cat([chunk_labels(c, size, manifest.classes) for c in range(count)])
    with atomic(folder / layout.LABELS) as temporary, open(temporary, "wb") as file:
        np.save(file, labels.numpy())
    chunks = [{"file": chunk_name(c), "count": size, "sha256": sha256(folder / chunk_name(c))} for c in range(count)]
    write_json(
        folder / layout.MANIFEST,
        {
            "variant": variant,
            "seed": seed,
            "setting": setting,
            "count": count * size,
            "chunks": chunks,
            "labels_sha256": sha256(folder / layout.LABELS),
            "checkpoint": checkpoint,
            "tokenizer": manifest.tokenizer,
            "sampling": used.model_dump(mode="json"),
            "seconds": round(seconds, 3),
            "provenance": record(),
        },
    )
