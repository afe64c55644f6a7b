"""What the parity court lets in: swapped, mislabelled and copied sets are refused, as far as they can be known."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

SHUFFLES = 100  # of the labels, for what chance gives
SIGMAS = 5.0  # above chance, in standard deviations, for labels that belong to the images
COPIES = 0.5  # share of the judged images that may be bit for bit real ones


def check_roles(samples: Any, reference: Any) -> None:
    """Refuse real images as samples and generated ones as a reference, where their source says which they are."""
    for option, images, accepted in (("--samples", samples, "generated"), ("--reference", reference, "real")):
        if images.role not in (accepted, "unknown"):
            raise ValueError(
                f"{option} {images.source}: holds {images.role} images; accepted: {accepted} ones. "
                "Were --samples and --reference swapped?"
            )


def digests(images: np.ndarray) -> list[bytes]:
    """What tells one image of a batch, uint8 (B, ...), from another: 16 bytes each."""
    return [hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest() for image in images]


def check_copies(samples: str, generated: list[bytes], real: list[bytes], where: str) -> int:
    """How many of the judged images are real ones bit for bit.

    Raises:
        ValueError: at least half of them; no generator draws these.
    """
    known = set(real)
    copies = sum(digest in known for digest in generated)
    if copies >= COPIES * len(generated):
        raise ValueError(
            f"--samples {samples}: {copies} of {len(generated)} images are bit for bit images of {where}; accepted: "
            "generated images. Were --samples and --reference swapped?"
        )
    return copies


def check_names(source: str, names: list[str] | None, accepted: list[str]) -> None:
    """Refuse class folders that the study's data do not have: their images would get classes of other names."""
    unknown = sorted(set(names or ()) - set(accepted))
    if unknown:
        raise ValueError(
            f"{source}: class folders {_some(unknown)}; accepted: those of the study's data, {_some(accepted)}"
        )


def check_labels(source: str, labels: np.ndarray, logits: np.ndarray, same_classes: bool) -> str:
    """Refuse labels that have nothing to do with the images, by the network that judges them.

    The mutual information of labels and the network's most likely classes is compared with that of shuffled labels,
    which asks only that a label means one kind of image, whatever the network calls it.

    Args:
        source: of the images.
        labels: classes asked for, (n,).
        logits: of the images, (n, K).
        same_classes: the network numbers the classes as the labels do.

    Returns:
        What was found, in words.

    Raises:
        ValueError: labels tell no more about the images than shuffled ones; or they do, under other numbers.
    """
    found, classes = logits.argmax(1), np.unique(labels)
    rng = np.random.default_rng(0)
    value = information(labels, found)
    chance = np.array([information(rng.permutation(labels), found) for _ in range(SHUFFLES)])
    bar = chance.mean() + SIGMAS * chance.std()
    if bar >= min(information(labels, labels), information(found, found)):  # even right labels could not pass
        return f"labels not tested: {len(labels)} images of {len(classes)} classes are too few for it"
    said = f"labels and the network's classes share {value:.3g} nats, shuffled labels {chance.mean():.3g}"
    if value <= bar:
        raise ValueError(
            f"{source}: the labels do not belong to the images: {said}. Accepted: the labels in the order of the "
            "images (or a generator that does not ignore its class)"
        )
    if same_classes:
        right, best = _agreement(labels, found)
        if right < best / 2:
            raise ValueError(
                f"{source}: classes carry other numbers than the network's: {right:.1%} of the images are of the class "
                f"asked for, renumbered {best:.1%}; accepted: the class numbers of the study's data"
            )
        said += f"; the network names {right:.1%} of the classes asked for"
    return said


def information(labels: np.ndarray, found: np.ndarray) -> float:
    """Mutual information of two labellings of the same images (n,), in nats."""
    counts = _contingency(labels, found)
    joint = counts / counts.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / product[there])).sum())


def _agreement(labels: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Share of images of the class asked for, and the same after the best renumbering of the classes."""
    from scipy.optimize import linear_sum_assignment

    counts = _contingency(labels, found)
    best = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return float((labels == found).mean()), float(best / len(labels))


def _contingency(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    (_, rows), (_, columns) = (np.unique(x, return_inverse=True) for x in (labels, found))
    counts = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(counts, (rows, columns), 1)
    return counts


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
