"""Seconds per image by a stated protocol: warm-up batch dropped, decoding included, device synchronised."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from mar.config import Study
from mar.files import lock, read_json, write_json
from mar.noise import Noise
from mar.progress import Progress
from mar.provenance import record
from mar.sample import Sampler, chunk_labels
from mar.study import speed_settings, speed_slice

WARMUP = 1  # batches that are drawn and not counted


def measure(study: Study, root: Path, variant: str) -> None:
    """Time each sampling setting of a variant that the trade-off figure shows; first seed; writes speed/<variant>.json.

    The figure of a point is the median over batches of batch time / batch size, its range the fastest and the
    slowest batch. Settings are interleaved, so that a machine that slows down slows all of them.
    """
    seed = study.variants[variant].seeds[0]
    batch, repeats = study.speed.batch, study.speed.batches
    file = root / "speed" / f"{variant}.json"
    with lock(root / "speed" / f".{variant}"):
        sampler = Sampler(study, root, variant, seed)
        recipe = {
            "speed": speed_slice(study, variant),
            "threads": torch.get_num_threads(),
            "checkpoint": sampler.checkpoint,
        }
        if file.exists() and read_json(file).get("recipe") == recipe:
            print(f"{file}: complete", flush=True)
            return
        labels = chunk_labels(0, batch, sampler.manifest["classes"])
        settings = speed_settings(study, variant)
        seconds: dict[str, list[float]] = {setting: [] for setting in settings}
        progress = Progress(f"speed {variant}", len(settings) * (repeats + WARMUP) * batch)
        for repeat in range(repeats + WARMUP):
            for setting in settings:
                noise = Noise("speed", study.seed, repeat, device=sampler.device)
                elapsed = timed(sampler, setting, labels, noise)
                if repeat >= WARMUP:
                    seconds[setting].append(elapsed / batch)
                progress.update(batch)
        made = record()
        write_json(
            file,
            {
                "variant": variant,
                "protocol": {
                    "batch": batch,
                    "batches": repeats,
                    "warmup_batches": WARMUP,
                    "threads": made["threads"],
                    "dtype": "fp32",
                    "device": made["device"],
                    "machine": made["machine"],
                    "torch": made["torch"],
                    "decode": True,
                },
                "points": {
                    setting: {
                        "seconds_per_image": statistics.median(times),
                        "low": min(times),
                        "high": max(times),
                        "steps": study.sampling[setting].steps,
                    }
                    for setting, times in seconds.items()
                },
                "checkpoint": sampler.checkpoint,
                "recipe": recipe,
                "provenance": made,
            },
        )


def timed(sampler: Sampler, setting: str, labels: torch.Tensor, noise: Noise) -> float:
    """Wall seconds of one batch, images back in main memory."""
    if sampler.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    sampler.draw(setting, labels, noise).cpu()
    return time.perf_counter() - start
