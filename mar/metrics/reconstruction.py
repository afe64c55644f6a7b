"""Measuring what a tokenizer loses: rFID, PSNR, codebook usage, on held-out images and on those it was trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from mar.data.images import ImageSet, open_split, to_float, to_uint8
from mar.features.networks import extractors
from mar.metrics import bootstrap, evaluate
from mar.runtime.files import read, sha256, write
from mar.runtime.folders import lock
from mar.runtime.noise import Noise
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import unfinished
from mar.study import layout
from mar.study.limits import REBUILT
from mar.study.records import Rebuilt, RfidInputs, RfidRecord
from mar.study.stage_keys import metrics_key
from mar.study.study import Study
from mar.tokenizers.autoencoder import Tokenizer, load

BATCH = 250  # images per forward pass


def rfid(study: Study, root: str | Path, name: str) -> None:
    """Measure tokenizer `name`; writes tokenizers/<name>/rfid.json: the held-out split, and under "train" the other.

    Both compare, by the study's first extractor, with the statistics that FID compares with. The paper's Table 2 has
    its rFID on the train split. A stage of its own: a new classifier or another number of resamples measures again and
    trains nothing again.

    Raises:
        ValueError: `tokenizer`, `features` or `statistics` has not run, or the features are of other weights.
    """
    root = Path(root)
    folder = layout.tokenizer(root, name)
    main, weights, report = study.metrics.extractors[0], folder / layout.WEIGHTS, folder / layout.RFID
    with lock(folder):
        if not weights.exists():
            raise ValueError(f"{weights}: missing; run `mar tokenizer` first")
        there = evaluate.real(study, root, main, images=False)
        inputs = RfidInputs(
            reference=there.identity.sha256,
            extractor=there.extractor.weights,
            tokenizer=sha256(weights),
            slice=metrics_key(study),
        )

        def sound() -> bool:
            done = read(report, RfidRecord)
            return done.inputs == inputs and done.train is not None

        if not unfinished(report, sound):
            return
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        tokenizer = load(root, name, study).to(device)
        judge = extractors.load(main, study, root, device)
        if judge.weights != there.extractor.weights:
            raise ValueError(f"{main}: other weights than those of the real images; run `mar features` again")
        heldout, train = (measure(tokenizer, judge, there, study, root, s, device) for s in ("heldout", "train"))
        found = RfidRecord(
            **dict(heldout),
            train=train,
            extractor=main,
            reference=there.identity,
            inputs=inputs,
            provenance=provenance(),
        )
        write(report, found)
        for part in (heldout, train):
            shown = ", ".join(f"{key} {m.value:.4g}" for key, m in part.metrics.items())
            print(f"{report}: {shown} ({part.split}, {part.count} images)", flush=True)


def measure(
    tokenizer: Tokenizer,
    judge: extractors.Extractor,
    there: evaluate.Real,
    study: Study,
    root: Path,
    split: str,
    device: torch.device,
) -> Rebuilt:
    """rFID, PSNR, agreement and codebook usage on a split, or on REBUILT images of it, drawn once and for all.

    "floor" is the FID of the same images, not rebuilt, against the same statistics: what no tokenizer can better. It
    is 0 where they are the whole train split, which those statistics are of.
    """
    images = open_split(study, root, split)
    chosen = np.arange(len(images))
    if len(chosen) > REBUILT:
        chosen = np.sort(np.random.default_rng(study.seed).choice(len(chosen), REBUILT, replace=False))
    errors: list[torch.Tensor] = []
    used = torch.zeros(tokenizer.net.quantize.n_e if tokenizer.tokens == "ids" else 0, dtype=torch.float64)
    rebuilt = _rebuild(tokenizer, study, images, chosen, split, device, errors, used)
    found = _judged(judge, rebuilt)
    same = _judged(judge, (images.batch(chosen[i : i + BATCH]) for i in range(0, len(chosen), BATCH)))["features"]
    # per image, 255 the peak; a perfect image counts as 1e-10 squared grey levels
    psnr = 10.0 * torch.log10(255.0**2 / torch.cat(errors).clamp(min=1e-10)).numpy()
    labels = images.labels[chosen]
    draw = bootstrap.Bootstrap(labels, study.metrics.bootstrap, study.seed)
    values = {
        "rfid": draw.fid(found["features"], there.statistics),
        "floor": draw.fid(same, there.statistics),
        "psnr": draw.mean(psnr, higher_is_better=True),
    }
    if judge.name == "classifier":
        values["agreement"] = draw.share(found["logits"].argmax(1) == labels, higher_is_better=True)
    if len(used):
        share = used / used.sum()
        perplexity = math.exp(-(share * share.clamp(min=1e-300).log()).sum().item())
        values["codebook_usage"] = draw.single((share > 0).double().mean().item(), higher_is_better=True)
        values["perplexity"] = draw.single(perplexity, higher_is_better=True)
    return Rebuilt(metrics=values, split=split, count=len(chosen))


def _judged(judge: extractors.Extractor, batches: Iterable[torch.Tensor]) -> dict[str, np.ndarray]:
    """Features and logits of batches of images."""
    found = [judge(batch) for batch in batches]
    return {key: torch.cat([part[key] for part in found]).numpy() for key in found[0] if key != "spatial"}


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
    """Rebuilt images, uint8 (B, 3, H, W), batch by batch; fills in squared errors and how often each code was used."""
    progress = Progress(f"rfid {split}", len(chosen))
    for start in range(0, len(chosen), BATCH):
        batch = images.batch(chosen[start : start + BATCH])
        tokens = tokenizer.encode(to_float(batch).to(device))
        noise = Noise("rfid", study.seed, split, start, device=device)
        rebuilt = to_uint8(tokenizer.decode(tokens, noise)).cpu()
        errors.append((rebuilt.double() - batch.double()).square().mean(dim=(1, 2, 3)))
        if len(used):
            used += torch.bincount(tokens.flatten().cpu(), minlength=len(used))
        progress.update(len(batch))
        yield rebuilt
