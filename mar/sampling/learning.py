"""Curves of learning: what the weight averages that a training kept on its way have learned.

Losses are measured at each of them (`mar/training/held_out.py`). Where the study asks for samples, images are drawn
too, all with the same random numbers, and compared with held-out images: a diagnosis, from which no claim takes a
number. Of models to which power laws are fitted a few images are kept as a picture, for a grid as in VAR's Figure 7:
all models draw them with the same random numbers at all points.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from mar.data.heldout import rows_of
from mar.data.tokens import TokenSet
from mar.features import features
from mar.features.features import Features
from mar.features.networks import extractors
from mar.features.networks.extractors import Extractor
from mar.metrics import jackknife, moments
from mar.metrics.bootstrap import Bootstrap
from mar.metrics.moments import Statistics
from mar.runtime import devices
from mar.runtime.files import atomic, read, sha256, write
from mar.runtime.noise import Noise
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import stage
from mar.sampling.sampler import Sampler, chunk_labels
from mar.study import at_once, layout
from mar.study.chosen_settings import resolved
from mar.study.parts import Sampling
from mar.study.products import learning_setting, pictured_setting
from mar.study.real_sets import PARTS, validation
from mar.study.records import Fall, LearningPoint, LearningRecipe, LearningRecord, Metric, RunRecord
from mar.study.stage_keys import learning_key
from mar.study.study import Study
from mar.training import held_out

PICTURED = 10  # images of a row of the picture
LAST = (0.7, 0.9)  # where a point begins the last quarter: between these shares of the training; the one nearest 0.75
Found = tuple[float, np.ndarray]  # FID of a set, and what each of its images moves it, (n,)


def learning(study: Study, root: Path, variant: str, seed: int, operations: float) -> None:
    """Write runs/<variant>/seed<k>/learning.json.

    Args:
        study: the study.
        root: its results folder.
        variant: a variant whose recipe has `evaluate_at`.
        seed: training seed.
        operations: operations of one image in training, which the record keeps for figures.

    Raises:
        ValueError: the recipe keeps no averages, an earlier stage has not run, or an average is missing.
    """
    points = study.recipes[study.variants[variant].recipe].points
    if not points or study.variants[variant].pretrained:
        raise ValueError(
            f"--variant {variant}: keeps no averages; accepted: a trained one whose recipe has evaluate_at"
        )
    tokenizer, setting = study.tokenizer_of(variant, seed), learning_setting(study, variant)
    splits = {"heldout": heldout_tokens(root, tokenizer), "train": TokenSet.open(layout.tokens(root, tokenizer))}
    rows = {"heldout": validation_rows(study, splits["heldout"])}
    run, report = read(layout.run_record(root, variant, seed), RunRecord), layout.learning(root, variant, seed)
    inputs = {"checkpoint": run.checkpoint, **run.averages}
    inputs |= {f"tokens {name}": split.sha256 for name, split in splits.items()}
    used, real = None, None
    if setting:
        used, real = resolved(study, root, variant, setting), validation_features(study, root)
        inputs |= {"real": real.sha256, "sampling": used.model_dump_json(exclude_defaults=True)}
    pictured = pictured_setting(study, variant) if seed == study.variants[variant].seeds[0] else None
    shown_by = resolved(study, root, variant, pictured) if pictured else None
    if shown_by:
        inputs["pictures"] = shown_by.model_dump_json(exclude_defaults=True)
    recipe = LearningRecipe(slice=learning_key(study, variant), inputs=inputs)
    place, picture = report.with_name(".learning"), layout.pictures(root, variant, seed)

    def sound() -> bool:
        written = read(report, LearningRecord)
        kept = picture.exists() and sha256(picture) == written.pictures
        return written.recipe == recipe and (kept or shown_by is None)

    with stage(report, sound, folder=place) as unfinished:
        if not unfinished:
            return
        found, fids, drawn = [], dict[int, Found](), []
        judge = judge_of(study, root, real) if real else None
        for images in points:
            sampler = Sampler(study, root, variant, seed, images)
            numbers: dict[str, Any] = {name: losses(sampler, split, rows.get(name)) for name, split in splits.items()}
            if study.variants[variant].order.by_scale:
                numbers["scales"] = by_scale(sampler, splits["heldout"], rows["heldout"])
            if used and judge:
                try:
                    metrics, fids[images] = judged(sampler, used, *judge)
                    numbers |= metrics
                except ValueError as error:
                    numbers["error"] = str(error)
            if shown_by:
                drawn.append(pictures(sampler, shown_by))
            found.append(LearningPoint(images=images, checkpoint=sampler.checkpoint, **numbers))
            print(f"{variant} seed {seed} after {images} images: {shown(found[-1])}", flush=True)
        if drawn:
            with atomic(picture) as temporary:
                Image.fromarray(np.concatenate(drawn)).save(temporary, format="PNG")
        record = LearningRecord(
            variant=variant,
            seed=seed,
            split=validation(study),
            operations=operations,
            setting=setting,
            sampling=used,
            samples=study.learning.samples if study.learning and setting else 0,
            extractor=study.metrics.extractors[0] if setting else "",
            drawn_at_once=at_once.drawn(study, variant, used, study.metrics.chunk) if used else None,
            points=tuple(found),
            fall=fall(fids, points[-1]),
            pictures=sha256(picture) if drawn else None,
            recipe=recipe,
            provenance=provenance(),
        )
        write(report, record)
        print(f"{report}: {len(found)} points", flush=True)


def heldout_tokens(root: Path, tokenizer: str) -> TokenSet:
    """Tokens of all held-out images."""
    return TokenSet.open(layout.tokens(root, tokenizer, "heldout"))


def validation_rows(study: Study, heldout: TokenSet) -> np.ndarray | None:
    """Rows of the held-out images that tell how a training goes on (`mar.study.real_sets`); None for all of them."""
    name = validation(study)
    return rows_of(heldout.labels.numpy(), name) if name in PARTS else None


def validation_features(study: Study, root: Path) -> Features:
    """Features of the same images by the first extractor."""
    return features.read(root, study.metrics.extractors[0], validation(study), "real")


def judge_of(study: Study, root: Path, real: Features) -> tuple[Extractor, Statistics]:
    """The first extractor, and the statistics of its features of real images.

    Raises:
        ValueError: these features are by other weights.
    """
    device = devices.device()
    network = extractors.load(study.metrics.extractors[0], study, root, device)
    if network.weights != real.manifest.extractor.weights:
        raise ValueError(f"{real.folder}: features by other weights than {network.name} has; run `mar features` again")
    return network, moments.of(real.array("features"))


def losses(sampler: Sampler, tokens: TokenSet, rows: np.ndarray | None = None) -> dict[str, Metric]:
    """Loss on a split, or on some rows of it, by mask ratio, with intervals over the images."""
    study, variant = sampler.study, sampler.study.variants[sampler.variant]
    masked = study.backbones[variant.backbone].masks
    found = held_out.losses(sampler.model, tokens, variant.order, masked, study.seed, rows)
    return _means(sampler, found, tokens, rows)


def by_scale(sampler: Sampler, tokens: TokenSet, rows: np.ndarray | None) -> dict[str, Metric]:
    """VAR's loss and token error, of the last scale and of all, with intervals over the images."""
    found = held_out.by_scale(sampler.model, tokens, sampler.study.seed, rows)
    return _means(sampler, found, tokens, rows)


def _means(
    sampler: Sampler, found: dict[str, np.ndarray], tokens: TokenSet, rows: np.ndarray | None
) -> dict[str, Metric]:
    """Means of groups of images, by name."""
    study = sampler.study
    count = min(len(tokens) if rows is None else len(rows), held_out.LEARNED)
    draw = Bootstrap(np.zeros(len(next(iter(found.values()))), np.int64), study.metrics.bootstrap, study.seed)
    means = {name: draw.mean(groups, higher_is_better=False) for name, groups in found.items()}
    return {name: metric.model_copy(update={"n": count}) for name, metric in means.items()}


def judged(
    sampler: Sampler, settings: Sampling, network: Extractor, real: Statistics
) -> tuple[dict[str, Metric], Found]:
    """FID and Inception score of images drawn with an average, and what each image moves FID.

    All points and trainings draw by the same random numbers.

    Raises:
        ValueError: images or features are not finite.
    """
    study = sampler.study
    assert study.learning is not None  # asked for samples
    labels = chunk_labels(0, study.learning.samples, sampler.manifest.classes)
    progress = Progress(f"learning {sampler.variant} seed {sampler.seed}", len(labels))
    arrays = sampler.looked_at(network, settings, labels, ("learning", study.seed, "samples"), progress.update)
    draw = Bootstrap(labels.numpy(), study.metrics.bootstrap, study.seed)
    numbers = {"fid": draw.fid(arrays["features"], real)}
    if "logits" in arrays:
        numbers["inception_score"] = draw.inception_score(arrays["logits"])
    value, moves = jackknife.fid(arrays["features"], real)
    return numbers, (value, within_classes(moves, labels.numpy()))


def pictures(sampler: Sampler, settings: Sampling) -> np.ndarray:
    """PICTURED images side by side, uint8 (H, PICTURED W, 3), of classes spread evenly over all.

    All points and models draw by the same random numbers.
    """
    labels = torch.arange(PICTURED) * sampler.manifest.classes // PICTURED
    images = sampler.draw(settings, labels, Noise("laws", sampler.study.seed, "pictures", device=sampler.device))
    return np.concatenate(list(images.permute(0, 2, 3, 1).cpu().numpy()), axis=1)


def within_classes(moves: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What each image moves a metric (n,), without the class means: a set has equally many images of each class."""
    centred = moves.copy()
    for label in np.unique(labels):
        rows = labels == label
        count = int(rows.sum())
        if count > 1:
            centred[rows] = (moves[rows] - moves[rows].mean()) * math.sqrt(count / (count - 1))
    return centred


def fall(fids: dict[int, Found], end: int) -> Fall | None:
    """How FID changed in the last quarter of a training that ends after `end` images; None without points there.

    The images of both points are paired, since they are drawn with the same random numbers: the standard error is that
    of the differences of what each image moves log FID.
    """
    starts = [images for images in fids if LAST[0] <= images / end <= LAST[1]]
    if end not in fids or not starts:
        return None
    since = min(starts, key=lambda images: abs(images / end - 0.75))
    effect, error = change(fids[since], fids[end])
    return Fall(since=since, effect=effect, error=error)


def change(before: Found, after: Found) -> tuple[float, float]:
    """log(FID after / FID before) of two sets whose images are paired, and its standard error."""
    (first, moved_first), (second, moved_second) = before, after
    moves = moved_second / second - moved_first / first
    return math.log(second / first), float(moves.std(ddof=1) / math.sqrt(len(moves)))


def shown(point: LearningPoint) -> str:
    """The losses of a point, and its FID."""
    parts = [f"held-out loss {', '.join(f'{metric.value:.4g} ({r})' for r, metric in point.heldout.items())}"]
    parts += [f"FID {point.fid.value:.4g} ({point.fid.low:.4g} to {point.fid.high:.4g})"] if point.fid else []
    return "; ".join([*parts, *([point.error] if point.error else [])])
