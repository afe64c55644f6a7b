"""Seconds per image, by a stated protocol: the warm-up batch is dropped, decoding included, the device synchronised."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import torch

from mar.features.networks.rejecter import Acceptance
from mar.metrics import timed as timings
from mar.runtime.files import read, write
from mar.runtime.folders import lock
from mar.runtime.noise import Noise
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import unfinished
from mar.sampling import rejection
from mar.sampling.sampler import Sampler, chunk_labels
from mar.study import layout
from mar.study.chosen_settings import resolved
from mar.study.parts import Sampling
from mar.study.products import speed_settings
from mar.study.records import Range, SpeedRecipe, SpeedRecord, Timing, TimingProtocol
from mar.study.stage_keys import speed_key
from mar.study.study import Study

WARMUP = 1  # batches that are drawn first and not timed


def measure(study: Study, root: Path, variant: str) -> None:
    """Write speed/<variant>.json: seconds per image of each setting that is timed, with the first seed's weights.

    A setting's number is the median over batches of (seconds of the batch) / (its images), with the interval of
    `mar/metrics/timed.py`. `head_share` is the share of a batch's time in which the head draws tokens, from the least
    to the largest of the batches. Batches of all settings and of the yardstick alternate, so that a machine that
    becomes slower slows all of them.
    """
    # MKL takes fewer threads where it sees fit, until it is asked for a number, as a forked process does and one that
    # started anew does not.
    torch.set_num_threads(torch.get_num_threads())
    seed = study.variants[variant].seeds[0]
    batch, repeats = study.speed.batch, study.speed.batches
    file = layout.speed(root, variant)
    place = file.with_name(f".{variant}")
    with lock(place):
        sampler = Sampler(study, root, variant, seed)
        settings = {name: resolved(study, root, variant, name) for name in speed_settings(study, variant)}
        chosen = {s: (used.guidance, used.temperature) for s, used in settings.items() if study.sampling[s].sweep}
        recipe = SpeedRecipe(
            speed=speed_key(study, variant),
            threads=torch.get_num_threads(),
            checkpoint=sampler.checkpoint,
            chosen=chosen,
        )
        if not unfinished(file, lambda: read(file, SpeedRecord).recipe == recipe, folder=place):
            return
        labels = chunk_labels(0, batch, sampler.manifest.classes)
        rejecter = Acceptance(study, root, sampler.device) if any(used.reject for used in settings.values()) else None
        seconds: dict[str, list[float]] = {setting: [] for setting in settings}
        shares: dict[str, list[float]] = {setting: [] for setting in settings}
        yardsticks: list[float] = []
        progress = Progress(f"speed {variant}", len(settings) * (repeats + WARMUP) * batch)
        for repeat in range(repeats + WARMUP):
            for setting in settings:
                elapsed, head = timed(sampler, settings[setting], labels, ("speed", study.seed, repeat), rejecter)
                if repeat >= WARMUP:
                    seconds[setting].append(elapsed / batch)
                    shares[setting].append(head / elapsed)
                progress.update(batch)
            if repeat >= WARMUP:
                yardsticks.append(yardstick(sampler.device))
        machine = provenance()
        record = SpeedRecord(
            variant=variant,
            protocol=TimingProtocol(
                batch=batch,
                batches=repeats,
                warmup_batches=WARMUP,
                threads=machine.threads,
                dtype=", ".join(sorted({used.dtype for used in settings.values()})),
                device=machine.device,
                machine=machine.machine,
                torch=machine.torch,
                decode=True,
            ),
            yardsticks=tuple(yardsticks),
            points={
                s: _timing(seconds[s], shares[s], used.steps, sampler.at_once(used, batch))
                for s, used in settings.items()
            },
            checkpoint=sampler.checkpoint,
            recipe=recipe,
            provenance=machine,
        )
        write(file, record)


def _timing(seconds: list[float], shares: list[float], steps: int, at_once: int) -> Timing:
    share = Range(value=statistics.median(shares), low=min(shares), high=max(shares))
    middle, low, high = timings.median(seconds)
    return Timing(
        seconds_per_image=middle,
        low=low,
        high=high,
        head_share=share,
        steps=steps,
        drawn_at_once=at_once,
        batches=tuple(seconds),
    )


def yardstick(device: torch.device) -> float:
    """Seconds of a fixed piece of work, by which a slower machine is told from a slower model: matrix products."""
    side, products = (4096, 8) if device.type == "cuda" else (512, 16)
    rows = torch.ones(side, side, device=device)
    torch.mm(rows, rows)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(products):
        torch.mm(rows, rows)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timed(
    sampler: Sampler,
    settings: Sampling,
    labels: torch.Tensor,
    name: tuple[str | int, ...],
    rejecter: Acceptance | None = None,
) -> tuple[float, float]:
    """Wall seconds of one batch until its images are in main memory, and how many of them the head took to draw.

    Of a setting that rejects the further draws and the rejecter count; `name`: of the random numbers.
    """
    head, cuda = getattr(sampler.model, "head", None), sampler.device.type == "cuda"  # DiT has no head
    calls: list[tuple[Any, Any]] = []

    def now() -> Any:
        """A point in time: on a GPU an event in its queue, since to wait for it here would slow down what is timed."""
        if not cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def counted(draw: Any) -> Any:
        def call(*inputs: Any) -> Any:
            begin = now()
            drawn = draw(*inputs)
            calls.append((begin, now()))
            return drawn

        return call

    draws = [method for method in ("sample", "mixture") if hasattr(head, method)]  # mixture: VAR's more_smooth
    for method in draws:
        setattr(head, method, counted(getattr(head, method)))
    try:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        if settings.reject and rejecter:
            rejection.draw(sampler, rejecter, settings, labels, name)
        else:
            sampler.draw(settings, labels, Noise(*name, device=sampler.device)).cpu()
        elapsed = time.perf_counter() - start
        return elapsed, sum(a.elapsed_time(b) / 1000 if cuda else b - a for a, b in calls)
    finally:
        for method in draws:
            delattr(head, method)  # the attribute of this instance that hides the method of its class
