"""Sample sets, written in chunks. A chunk is a function of (seed, chunk id) alone, whoever draws it, in any order."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mar import tokenizers
from mar.config import Sampling, Study
from mar.data.images import to_uint8
from mar.data.tokens import unpatchify
from mar.files import atomic, claim, lock, read_json, sha256, still_ours, whole, write_json
from mar.noise import Noise
from mar.order import draw_order
from mar.progress import Progress
from mar.provenance import record
from mar.sampling import generate
from mar.slices import sample_slice, twin
from mar.sweep import resolved
from mar.train import load_trained


class Sampler:
    """A trained variant with its tokenizer, ready to draw images."""

    def __init__(self, study: Study, root: Path, variant: str, seed: int) -> None:
        self.study, self.root, self.variant, self.seed = study, root, variant, seed
        name = study.variants[variant].tokenizer
        self.manifest: dict[str, Any] = read_json(root / "tokens" / name / "train" / "manifest.json")
        self.model, self.checkpoint = load_trained(study, root, variant, seed, self.manifest)
        self.device = next(self.model.parameters()).device
        self.tokenizer = tokenizers.load(root, name, study).to(self.device)

    @torch.no_grad()
    def draw(self, settings: Sampling, labels: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Images of classes `labels` (B,): uint8 (B, 3, H, W), decoding included.

        Raises:
            ValueError: they are not finite.
        """
        manifest, length = self.manifest, self.manifest["tokens"]
        order = draw_order(self.study.variants[self.variant].order, len(labels), length, noise)
        ids = manifest["kind"] == "ids"
        shape = (length,) if ids else (length, manifest["token_dim"])
        blank = torch.zeros(shape, dtype=torch.long if ids else torch.float32, device=self.device)
        # Decoding is under autocast too, as published.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.dtype == "bf16"):
            tokens = generate(self.model, labels.to(self.device), order, blank, settings, noise)
            if ids:
                images = self.tokenizer.decode_ids(tokens).float()
            else:
                channels = manifest["token_dim"] // manifest["group"] ** 2
                latents = unpatchify(tokens, manifest["group"], channels) / manifest["scale"]
                images = self.tokenizer.decode_latents(latents, noise).float()
        bad = int((~torch.isfinite(images).flatten(1).all(1)).sum())
        if bad:
            raise ValueError(
                f"{self.variant} seed {self.seed}: {bad} of {len(labels)} images are not finite, drawn with "
                f"{settings.model_dump_json(exclude_defaults=True)}; accepted: settings that this model can draw with"
            )
        return to_uint8(images)

    def chunk(self, setting: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Chunk `number` of the sample set: images uint8 (n, H, W, 3) and labels int64 (n,), classes balanced."""
        labels = chunk_labels(number, self.study.metrics.chunk, self.manifest["classes"])
        settings = resolved(self.study, self.root, self.variant, setting)
        named = (settings.seed,) if settings.seed else ()  # seed 0 has the name from before there were others
        noise = Noise("sample", self.study.seed, self.seed, number, *named, device=self.device)
        images = self.draw(settings, labels, noise)
        return images.permute(0, 2, 3, 1).cpu().numpy(), labels.numpy()


def chunk_labels(number: int, size: int, classes: int) -> torch.Tensor:
    """Labels of a chunk: image i of the whole set has class i mod classes, so every class is asked for equally."""
    return torch.arange(number * size, (number + 1) * size) % classes


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
    folder = root / "samples" / variant / f"seed{seed}" / setting
    run = read_json(root / "runs" / variant / f"seed{seed}" / "run.json")
    tokens = root / "tokens" / study.variants[variant].tokenizer / "train" / "manifest.json"
    recipe = {
        "sample": sample_slice(study, variant, setting, used),
        "checkpoint": run["checkpoint"],
        "tokens": sha256(tokens),
    }
    with lock(folder):
        claim(folder, recipe, "manifest.json", twin(study, root, folder))
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
        if not (folder / "manifest.json").exists() and all(there(c) for c in range(count)):
            seconds = time.monotonic() - start
            write_manifest(study, folder, variant, seed, setting, used, run["checkpoint"], tokens, seconds)


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
    size, manifest = study.metrics.chunk, read_json(tokens)
    count = study.metrics.samples // size
    labels = torch.cat([chunk_labels(c, size, manifest["classes"]) for c in range(count)])
    with atomic(folder / "labels.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, labels.numpy())
    chunks = [{"file": chunk_name(c), "count": size, "sha256": sha256(folder / chunk_name(c))} for c in range(count)]
    write_json(
        folder / "manifest.json",
        {
            "variant": variant,
            "seed": seed,
            "setting": setting,
            "count": count * size,
            "chunks": chunks,
            "labels_sha256": sha256(folder / "labels.npy"),
            "checkpoint": checkpoint,
            "tokenizer": manifest["tokenizer"],
            "sampling": used.model_dump(mode="json"),
            "seconds": round(seconds, 3),
            "provenance": record(),
        },
    )
