"""What a tokenizer loses: rFID, PSNR and codebook usage of reconstructed held-out images and training images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from mar.data.images import ImageSet, open_split, to_float, to_uint8
from mar.features.networks import extractors
from mar.metrics import bootstrap, real_images
from mar.runtime import devices
from mar.runtime.files import read, sha256, write
from mar.runtime.folders import lock
from mar.runtime.noise import Noise
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import unfinished
from mar.study import at_once, layout
from mar.study.at_once import BATCH
from mar.study.real_sets import scored
from mar.study.records import FirstScales, Metric, Rebuilt, RfidInputs, RfidRecord
from mar.study.stage_keys import rfid_key
from mar.study.study import Study
from mar.tokenizers.autoencoder import Tokenizer, load


def rfid(study: Study, root: str | Path, name: str) -> None:
    """Write tokenizers/<name>/rfid.json: what a tokenizer loses on the held-out and, under `train`, the train split.

    Both splits are compared, by the study's first extractor, with the statistics that FID compares with. The paper
    measures the rFID in its Table 2 on the train split. Of a multi-scale tokenizer it is also measured what its first
    scales alone give of the held-out images (`by_scale`). This is a stage of its own, so that after a change of the
    classifier or of the number of resamples the tokenizer is measured again, but not trained again.

    Raises:
        ValueError: `tokenizer`, `features` or `statistics` has not run, or the real features are by other weights.
    """
    root = Path(root)
    folder = layout.tokenizer(root, name)
    main, weights, report = study.metrics.extractors[0], folder / layout.WEIGHTS, folder / layout.RFID
    section = study.instances[name].section
    with lock(folder):
        if not weights.exists():
            raise ValueError(f"{weights}: missing; run `mar tokenizer` first")
        real = real_images.real(study, root, main, images=False)
        inputs = RfidInputs(
            reference=real.identity.sha256,
            extractor=real.extractor.weights,
            tokenizer=sha256(weights),
            slice=rfid_key(study),
        )

        def sound() -> bool:
            written = read(report, RfidRecord)
            scales = bool(study.instances[name].config.sides) == bool(written.by_scale)
            return written.inputs == inputs and written.train is not None and scales

        if not unfinished(report, sound):
            return
        device = devices.device()
        tokenizer = load(root, name, study).to(device)
        network = extractors.load(main, study, root, device)
        if network.weights != real.extractor.weights:
            raise ValueError(f"{main}: other weights than those of the real images; run `mar features` again")
        heldout, train = (measure(tokenizer, network, real, study, root, s, device) for s in (scored(study), "train"))
        sides, first = study.instances[name].config.sides, tuple[FirstScales, ...]()
        if sides:
            first = first_scales(tokenizer, network, real, study, root, scored(study), device, sides)
            whole = {key: metric for key, metric in heldout.metrics.items() if key in first[0].metrics}
            first = (*first, FirstScales(scales=len(sides), metrics=whole))
        record = RfidRecord(
            **dict(heldout),
            train=train,
            by_scale=first,
            encoded_at_once=at_once.encoded(study, section, BATCH),
            decoded_at_once=at_once.decoded(study, section, BATCH),
            extractor=main,
            reference=real.identity,
            inputs=inputs,
            provenance=provenance(),
        )
        write(report, record)
        for part in (heldout, train):
            print(f"{report}: {_shown(part.metrics)} ({part.split}, {part.count} images)", flush=True)
        for scales in first:
            print(f"{report}: {_shown(scales.metrics)} (first {scales.scales} of {len(sides)} scales)", flush=True)


def measure(
    tokenizer: Tokenizer,
    network: extractors.Extractor,
    real: real_images.Real,
    study: Study,
    root: Path,
    split: str,
    device: torch.device,
) -> Rebuilt:
    """What a tokenizer loses on a split, or on `metrics.rebuilt` images of it, drawn with the study's seed.

    The metrics are `rfid` (FID of the reconstructions against the real side), `floor` (FID of the originals against the
    same statistics, which no tokenizer can better; 0 if they are the whole train split and the statistics are too),
    `psnr` in decibels, with the classifier `agreement` (share of the reconstructions that it assigns to their class),
    and for a codebook `codebook_usage` (share of the codes that are used at all) and `perplexity` (exp of the
    entropy of the codes).
    """
    images = open_split(study, root, split)
    chosen = _chosen(study, images)
    errors: list[torch.Tensor] = []
    used = torch.zeros(tokenizer.vocabulary if tokenizer.tokens == "ids" else 0, dtype=torch.float64)
    rebuilt = _rebuild(tokenizer, study, images, chosen, split, device, errors, used)
    rebuilt_features = _features(network, rebuilt)
    originals = _features(network, (images.batch(chosen[i : i + BATCH]) for i in range(0, len(chosen), BATCH)))
    labels = images.labels[chosen]
    draw = bootstrap.Bootstrap(labels, study.metrics.bootstrap, study.seed)
    lost = _lost(draw, labels, rebuilt_features, errors, network, real)
    floor = {"floor": draw.fid(originals["features"], real.statistics)}
    values = {"rfid": lost.pop("rfid")} | floor | lost
    if len(used):
        share = used / used.sum()
        perplexity = math.exp(-(share * share.clamp(min=1e-300).log()).sum().item())
        values["codebook_usage"] = draw.single((share > 0).double().mean().item(), higher_is_better=True)
        values["perplexity"] = draw.single(perplexity, higher_is_better=True)
    return Rebuilt(metrics=values, split=split, count=len(chosen))


@torch.no_grad()
def first_scales(
    tokenizer: Tokenizer,
    network: extractors.Extractor,
    real: real_images.Real,
    study: Study,
    root: Path,
    split: str,
    device: torch.device,
    sides: tuple[int, ...],
) -> tuple[FirstScales, ...]:
    """What each number of first scales but all gives of the images of `measure`: rFID, PSNR and agreement.

    Args are those of `measure`, and the sides of the scales.
    """
    images = open_split(study, root, split)
    chosen = _chosen(study, images)
    edges = np.cumsum(np.square(sides))[:-1].tolist()  # tokens of so many scales
    looks: list[list[dict[str, torch.Tensor]]] = [[] for _ in edges]
    errors: list[list[torch.Tensor]] = [[] for _ in edges]
    progress = Progress(f"rfid {split} by scale", len(chosen))
    for start in range(0, len(chosen), BATCH):
        batch = images.batch(chosen[start : start + BATCH])
        ids = tokenizer.encode(to_float(batch).to(device))
        for k, edge in enumerate(edges):
            rebuilt = to_uint8(tokenizer.decode_ids(ids[:, :edge])).cpu()
            errors[k].append(_errors(rebuilt, batch))
            looks[k].append(network(rebuilt))
        progress.update(len(batch))
    labels = images.labels[chosen]
    draw = bootstrap.Bootstrap(labels, study.metrics.bootstrap, study.seed)
    return tuple(
        FirstScales(scales=k + 1, metrics=_lost(draw, labels, _joined(looks[k]), errors[k], network, real))
        for k in range(len(edges))
    )


def _chosen(study: Study, images: ImageSet) -> np.ndarray:
    """Ascending indices (N,) of the images of a split that are rebuilt: all, or `metrics.rebuilt` of them."""
    if len(images) <= study.metrics.rebuilt:
        return np.arange(len(images))
    return np.sort(np.random.default_rng(study.seed).choice(len(images), study.metrics.rebuilt, replace=False))


def _lost(
    draw: bootstrap.Bootstrap,
    labels: np.ndarray,
    rebuilt: dict[str, np.ndarray],
    errors: list[torch.Tensor],
    network: extractors.Extractor,
    real: real_images.Real,
) -> dict[str, Metric]:
    """rFID, PSNR and, by the classifier, agreement of reconstructions with these features and squared errors."""
    # PSNR of each image in dB, with peak 255; the mean squared error counts as at least 1e-10 squared grey levels
    psnr = 10.0 * torch.log10(255.0**2 / torch.cat(errors).clamp(min=1e-10)).numpy()
    values = {"rfid": draw.fid(rebuilt["features"], real.statistics), "psnr": draw.mean(psnr, higher_is_better=True)}
    if network.name == "classifier":
        values["agreement"] = draw.share(rebuilt["logits"].argmax(1) == labels, higher_is_better=True)
    return values


def _shown(metrics: dict[str, Metric]) -> str:
    return ", ".join(f"{key} {metric.value:.4g}" for key, metric in metrics.items())


def _errors(rebuilt: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image in squared grey levels, (B,)."""
    return (rebuilt.double() - batch.double()).square().mean(dim=(1, 2, 3))


def _features(network: extractors.Extractor, batches: Iterable[torch.Tensor]) -> dict[str, np.ndarray]:
    """Features (N, F) and, if the network has them, logits (N, K) of batches of images, uint8 (B, 3, H, W)."""
    return _joined([network(batch) for batch in batches])


def _joined(parts: list[dict[str, torch.Tensor]]) -> dict[str, np.ndarray]:
    return {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0] if key != "spatial"}


@torch.no_grad()
def _rebuild(
    tokenizer: Tokenizer,
    study: Study,
    images: ImageSet,
    chosen: np.ndarray,
    split: str,
    device: torch.device,
    errors: list[torch.Tensor],
    used: torch.Tensor,
) -> Iterator[torch.Tensor]:
    """Yield reconstructions batch by batch, uint8 (B, 3, H, W).

    Args:
        tokenizer: the tokenizer.
        study: the study.
        images: the split.
        chosen: indices of the images to reconstruct, (N,).
        split: name of the split.
        device: where the tokenizer is.
        errors: gets the mean squared error of each image in squared grey levels, (B,) for each batch.
        used: gets how often each code was used, (codes,).
    """
    progress = Progress(f"rfid {split}", len(chosen))
    for start in range(0, len(chosen), BATCH):
        batch = images.batch(chosen[start : start + BATCH])
        tokens = tokenizer.encode(to_float(batch).to(device))
        noise = Noise("rfid", study.seed, split, start, device=device)
        rebuilt = to_uint8(tokenizer.decode(tokens, noise)).cpu()
        errors.append(_errors(rebuilt, batch))
        if len(used):
            used += torch.bincount(tokens.flatten().cpu(), minlength=len(used))
        progress.update(len(batch))
        yield rebuilt
