"""The two stages that judge images: `reference` once for the real ones, `evaluate` for every sample set.

FID compares with the statistics of the train split, precision and recall with its images, of very many with a sample.
Beside every number stands the same of real images: the held-out split, drawn again to as many images as a sample set
has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mar.config import Study
from mar.data.images import ImageSet, open_split
from mar.files import lock, read_json, sha256, write_json
from mar.metrics import LOOKED_AT, REAL, bootstrap, classifier, features, metrics, statistics
from mar.provenance import record
from mar.study import metrics_slice, reference_slice

BATCH = 250  # images per forward pass


def reference(study: Study, root: str | Path) -> None:
    """Write features/train.npz, features/heldout.npz and metrics/reference.json (the real-versus-real floor).

    Raises:
        ValueError: `prepare` or `classifier` has not run.
    """
    root = Path(root)
    report = root / "metrics" / "reference.json"
    model = classifier.load(root, study)
    recipe = {
        "slice": reference_slice(study),
        "classifier": sha256(root / "classifier" / "model.safetensors"),
        "data": classifier.sha256_of_data(root),
    }
    with lock(root / "metrics" / ".reference"):
        files = [root / "features" / f"{split}.npz" for split in ("train", "heldout")]
        if report.exists() and read_json(report)["inputs"] == recipe and all(file.exists() for file in files):
            print(f"{report}: complete", flush=True)
            return
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        sets = {split: open_split(study, root, split) for split in ("train", "heldout")}
        found = {}
        for file, (split, images) in zip(files, sets.items(), strict=True):
            arrays = features.extract(model.to(device), _batches(images), device)
            found[split] = arrays | {"labels": images.labels, "classifier": np.array(recipe["classifier"])}
            features.check(found[split], file)
            features.write(file, found[split])
        chosen = balanced(found["heldout"]["labels"], study.metrics.samples, seed=0)
        distances = _distances(_batches(sets["heldout"]), sets["train"])
        judged = {key: found["heldout"][key][chosen] for key in ("features", "logits", "labels")}
        values = judge(study, judged, found["train"], None if distances is None else distances[chosen])
        values["fid"] |= floor(study, found["heldout"], found["train"])
        counts = {split: len(images) for split, images in sets.items()}
        result = {"samples": study.metrics.samples, "metrics": values, "counts": counts, "inputs": recipe}
        write_json(report, result | {"provenance": record()})
        print(f"{report}: {_shown(values)}", flush=True)


def evaluate(study: Study, root: str | Path, variant: str, seed: int, setting: str) -> None:
    """Judge one sample set: writes features/V/seedK/S.npz and metrics/V/seedK/S.json.

    Raises:
        ValueError: a stage before has not run; or the samples are not whole, not of the present checkpoint, all
            equal, or give features that are not finite. The message names the file.
    """
    root = Path(root)
    where = Path(variant) / f"seed{seed}"
    report = root / "metrics" / where / f"{setting}.json"
    folder = root / "samples" / where / setting
    reference_file = root / "features" / "train.npz"
    with lock(root / "metrics" / where / f".{setting}"):
        manifest = _check_manifest(study, root, folder, where)
        train = features.read(reference_file)
        inputs = {
            "samples": sha256(folder / "manifest.json"),
            "reference": sha256(reference_file),
            "checkpoint": manifest["checkpoint"],
        }
        recipe = {"slice": metrics_slice(study), "inputs": inputs}
        kept = root / "features" / where / f"{setting}.npz"
        if report.exists() and kept.exists() and read_json(report).get("recipe") == recipe:
            print(f"{report}: complete", flush=True)
            return
        images, labels = read_samples(study, folder, manifest)
        digest = sha256(root / "classifier" / "model.safetensors")
        if str(train["classifier"]) != digest:
            raise ValueError(f"{reference_file}: made with another classifier; run `mar reference` again")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = classifier.load(root, study).to(device)
        found = features.extract(model, images.split(BATCH), device) | {
            "labels": labels,
            "classifier": np.array(digest),
        }
        features.check(found, folder)
        features.write(kept, found)
        distances = _distances([images], open_split(study, root, "train"))
        values = judge(study, found, train, distances)
        write_json(
            report,
            {
                "variant": variant,
                "seed": seed,
                "setting": setting,
                "samples": len(images),
                "metrics": values,
                "inputs": inputs,
                "recipe": recipe,
                "provenance": record(),
            },
        )
        print(f"{report}: {_shown(values)}", flush=True)


def judge(
    study: Study, judged: dict[str, np.ndarray], train: dict[str, np.ndarray], distances: np.ndarray | None
) -> dict[str, bootstrap.Metric]:
    """All metrics of one set of images.

    Args:
        judged: features (n, F), logits (n, K) and labels (n,), the classes asked for.
        train: the same of the train split.
        distances: of each image to its nearest training image (n,), or None.
    """
    draw = bootstrap.Bootstrap(judged["labels"], study.metrics.bootstrap, study.seed)
    agree = judged["logits"].argmax(axis=1) == judged["labels"]
    real = train["features"]
    if len(real) > REAL:
        real = real[np.random.default_rng(study.seed).choice(len(real), REAL, replace=False)]
    precision, recall = draw.precision_recall(judged["features"], real, study.metrics.neighbours)
    values = {
        "fid": draw.fid(judged["features"], statistics.of(train["features"])),
        "inception_score": draw.inception_score(judged["logits"]),
        "precision": precision,
        "recall": recall,
        "agreement": draw.mean(agree, higher_is_better=True),
    }
    return values if distances is None else values | {"nearest": draw.mean(distances, higher_is_better=None)}


def floor(study: Study, heldout: dict[str, np.ndarray], train: dict[str, np.ndarray]) -> dict[str, float]:
    """Real-versus-real FID: mean and 2.5 and 97.5 percentiles over resamples of the held-out split.

    Each resample has as many images as a sample set. Where the split has fewer they are drawn with replacement, which
    makes the floor rather too high than too low.
    """
    real = statistics.of(train["features"])
    root = metrics.symmetric_root(real["sigma"])
    values = []
    for seed in range(study.metrics.bootstrap):
        rows = heldout["features"][balanced(heldout["labels"], study.metrics.samples, seed)]
        values.append(metrics.frechet(statistics.of(rows), real, root))
    low, high = np.percentile(values, [2.5, 97.5])
    return {"value": float(np.mean(values)), "low": float(low), "high": float(high)}


def balanced(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices (count,) of a resample with equal classes, as in a sample set, drawn with replacement."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    wanted = np.bincount(np.arange(count) % len(classes), minlength=len(classes))
    rows = [rng.choice(np.flatnonzero(labels == c), size=n) for c, n in zip(classes, wanted, strict=True)]
    return np.concatenate(rows)


def read_samples(study: Study, folder: Path, manifest: dict[str, Any]) -> tuple[torch.Tensor, np.ndarray]:
    """All images of a sample set, uint8 (n, 3, H, W), and the classes asked for, int64 (n,).

    Raises:
        ValueError: a chunk is missing, damaged or differs from its checksum, or all images are equal.
    """
    side = study.data.image_size
    chunks = []
    for entry in manifest["chunks"]:
        path = folder / entry["file"]
        if not path.exists():
            raise ValueError(f"{path}: missing; run `mar sample` again")
        if sha256(path) != entry["sha256"]:
            raise ValueError(f"{path}: differs from its checksum in the manifest; delete it and run `mar sample` again")
        chunk = np.load(path)
        shape = (entry["count"], side, side, 3)
        if chunk.shape != shape or chunk.dtype != np.uint8:
            raise ValueError(f"{path}: holds {chunk.dtype} {chunk.shape}; accepted: uint8 {shape}")
        chunks.append(chunk)
    images = np.concatenate(chunks)
    labels_file = folder / "labels.npy"
    labels = np.load(labels_file) if labels_file.exists() else np.empty(0)
    if labels.shape != (manifest["count"],) or len(images) != manifest["count"]:
        raise ValueError(
            f"{labels_file}: {len(images)} images and labels {labels.shape}; the manifest says {manifest['count']}"
        )
    if (images == images[0]).all():
        raise ValueError(f"{folder}: all {len(images)} images are equal; the run that made them has failed")
    return torch.from_numpy(images).permute(0, 3, 1, 2), labels.astype(np.int64)


def _check_manifest(study: Study, root: Path, folder: Path, where: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    manifest: dict[str, Any] = read_json(path)
    if manifest["count"] != study.metrics.samples:
        raise ValueError(f"{path}: holds {manifest['count']} images; accepted: metrics.samples {study.metrics.samples}")
    run = root / "runs" / where / "run.json"
    checkpoint = read_json(run)["checkpoint"]
    if manifest["checkpoint"] != checkpoint:
        raise ValueError(
            f"{path}: drawn from checkpoint {manifest['checkpoint'][:12]}, {run} says {checkpoint[:12]}; "
            f"run `mar sample` again"
        )
    weights = root / "tokenizers" / study.variants[where.parts[0]].tokenizer / "model.safetensors"
    if weights.exists() and manifest["tokenizer"] != sha256(weights):
        raise ValueError(f"{path}: decoded by another tokenizer than {weights}; run `mar train` and `mar sample` again")
    return manifest


def _distances(images: Iterable[torch.Tensor], train: ImageSet) -> np.ndarray | None:
    """Distance of each image to its nearest training image; None where those are too many to look at."""
    return metrics.nearest(torch.cat(list(images)), _batches(train)) if len(train) <= LOOKED_AT else None


def _batches(images: ImageSet) -> Iterator[torch.Tensor]:
    return (images.batch(range(i, min(i + BATCH, len(images)))) for i in range(0, len(images), BATCH))


def _shown(values: dict[str, bootstrap.Metric]) -> str:
    return ", ".join(f"{key} {m['value']:.4g} ({m['low']:.4g} to {m['high']:.4g})" for key, m in values.items())
