"""Which sets of images the parity court accepts: swapped, mislabelled and copied sets are refused where they show."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from mar.data.published import FOLDER, TABLE, table
from mar.features import features, image_sets, references
from mar.features.image_sets import Images
from mar.features.references import Reference
from mar.metrics import formulas
from mar.runtime import npz
from mar.study import layout
from mar.study.real_sets import PARTS, real_side
from mar.study.sections import Reference as ReferenceSection
from mar.study.study import Study

SPLITS = ("train", "heldout", *PARTS)
SWAPPED = "Were --samples and --reference swapped?"

SHUFFLES = 100  # random permutations of the labels, which show what chance gives
SIGMAS = 5.0  # standard deviations above chance from which on labels are taken to belong to the images
COPIES = 0.5  # from this share on, judged images that are bit for bit real ones are refused


def open_samples(source: str, study: Study | None, root: Path | None) -> Images:
    """The images to judge: a set of the study with all its checks, or what lies at a path.

    Raises:
        ValueError: the set cannot be judged, or is known to be of real images.
    """
    path = Path(source)
    if source in SPLITS and not path.exists():
        raise ValueError(f"--samples {source}: is a split of real images; accepted: generated ones. {SWAPPED}")
    if study and root and path.resolve().is_relative_to(layout.samples(root, "").resolve()):
        name = path.resolve().relative_to(layout.samples(root, "").resolve()).as_posix()
        return image_sets.of_samples(study, root, *features.name(study, name))
    images = image_sets.open_set(path)
    real = known_real(study)
    if images.role == "real" or images.sha256 in real:
        what = real.get(images.sha256, "real images")
        raise ValueError(f"--samples {source}: holds {what}; accepted: generated images. {SWAPPED}")
    if study and study.data.folder and path.resolve().is_relative_to(Path(study.data.folder).resolve()):
        raise ValueError(f"--samples {source}: is in the study's data; accepted: generated images. {SWAPPED}")
    return images


def open_reference(
    source: str, unknown_hash: bool, study: Study | None, root: Path | None, network: str
) -> tuple[Images | None, Reference | None]:
    """The real side: its images, if it has any, and the published reference, if it is one.

    Without `source` it is the real side of the study's own metrics.

    Raises:
        ValueError: the real side is missing, is another file than its checksum says, or has generated images.
    """
    path = Path(source)
    if not source or (source in SPLITS and not path.exists()):
        if study is None or root is None:
            raise ValueError(
                f"--reference {source or 'is needed'}: without --study accepted: a name in {TABLE}, a path"
            )
        side = source or real_side(study, network)
        if side == "reference":
            return _published(study.metrics.reference, root)
        return image_sets.of_split(study, root, side), None
    if path.exists() and (role := _role(path)) == "generated":
        raise ValueError(f"--reference {source}: holds {role} images; accepted: real ones. {SWAPPED}")
    try:
        return _published(ReferenceSection(file=source, unknown_hash=unknown_hash), root)
    except ValueError as error:
        hint = "" if unknown_hash or not path.exists() else " (here: --unknown-hash)"
        raise ValueError(f"{error}{hint}") from None


def _published(section: ReferenceSection | None, root: Path | None) -> tuple[Images | None, Reference]:
    assert section is not None  # a study whose real side is "reference" has the section
    reference = references.load(section, layout.assets(root) if root else FOLDER)
    return image_sets.of_reference(reference) if reference.count else None, reference


def _role(path: Path) -> str:
    """What a set of images says that its images are: generated, real or unknown."""
    if (path / layout.MANIFEST).exists():
        return image_sets.open_set(path).role
    return str(npz.read(path, "role")) if path.is_file() and "role" in npz.headers(path) else "unknown"


def known_real(study: Study | None) -> dict[str, str]:
    """Names of the published references and of the study's own, by their checksums."""
    rows = table(TABLE).values() if TABLE.exists() else []
    known = {row.sha256: f"the reference {row.name}" for row in rows if row.sha256}
    if study and study.metrics.reference and (digest := study.metrics.reference.sha256):
        known[digest] = f"the study's reference {study.metrics.reference.file}"
    return known


def class_numbers(images: Images, accepted: list[str] | None) -> np.ndarray | None:
    """Classes of the images (n,), numbered as the study's data number them; None where they are unknown.

    Raises:
        ValueError: a class folder has a name that the data do not have, or a number is not one of theirs.
    """
    if images.labels is None or accepted is None:
        return images.labels
    if images.names and images.names != accepted:
        if unknown := [name for name in images.names if name not in accepted]:
            raise ValueError(
                f"{images.source}: class folders {_some(unknown)}; accepted: classes of the study's data, "
                f"{_some(accepted)}"
            )
        return np.array([accepted.index(name) for name in images.names])[images.labels]
    least, most = images.labels.min(), images.labels.max()
    if least < 0 or most >= len(accepted):
        raise ValueError(f"{images.source}: classes {least} to {most}; accepted: 0 to {len(accepted) - 1}")
    return images.labels


def check_order(images: Images, labels: np.ndarray) -> None:
    """Refuse an .npz whose images are sorted by class, which ADM's evaluator would accept.

    Args:
        images: the images of the file.
        labels: their classes (n,) in file order; where they are unknown, those that the network finds most likely.
    """
    try:
        formulas.refuse_sorted(labels)
    except ValueError as error:
        raise ValueError(f"{images.source}: {error}, or let `mar export-adm --samples` do it") from None


def digests(images: np.ndarray) -> list[bytes]:
    """A digest of 16 bytes of each image of a batch, uint8 (B, H, W, 3)."""
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]


def check_copies(samples: str, generated: list[bytes], real: list[bytes], where: str) -> int:
    """How many of the judged images are bit for bit real ones, from the digests of both.

    Raises:
        ValueError: at least half of them are, which no generator draws.
    """
    real_digests = set(real)
    copies = sum(digest in real_digests for digest in generated)
    if copies >= COPIES * len(generated):
        raise ValueError(
            f"--samples {samples}: {copies} of {len(generated)} images are bit for bit images of {where}; accepted: "
            f"generated images. {SWAPPED}"
        )
    return copies


def check_labels(images: Images, labels: np.ndarray, logits: np.ndarray, same_classes: bool) -> str:
    """Refuse labels that have nothing to do with the images, as the network sees them.

    The mutual information of the labels and the network's most likely classes is compared with that of shuffled labels.
    So a label only has to mean one kind of image, whatever class the network gives that kind. Labels that a checksum
    proves are never refused: if they tell nothing, the generator ignores its class.

    Args:
        images: the set of images.
        labels: the classes that the images were asked to show, (n,), numbered as the data number them.
        logits: the network's logits of the images, (n, K).
        same_classes: whether the network numbers the classes as the labels do.

    Returns:
        What the comparison showed, in words.

    Raises:
        ValueError: the labels tell no more about the images than shuffled ones, or number the classes otherwise.
    """
    predicted, classes = logits.argmax(1), np.unique(labels)
    rng = np.random.default_rng(0)
    value = information(labels, predicted)
    chance = np.array([information(rng.permutation(labels), predicted) for _ in range(SHUFFLES)])
    least = chance.mean() + SIGMAS * chance.std()
    if least >= min(information(labels, labels), information(predicted, predicted)):  # right labels would not reach it
        return f"labels not tested: {len(labels)} images of {len(classes)} classes are too few for it"
    result = f"labels and the network's classes share {value:.3g} nats, shuffled labels {chance.mean():.3g}"
    source = images.source
    if images.labels_checked:
        ignored = "; the labels are those asked for (checksum): this generator ignores its class"
        return result + (ignored if value <= least else _share_named(labels, predicted) if same_classes else "")
    if value <= least:
        raise ValueError(
            f"{source}: the labels do not belong to the images: {result}. Accepted: the labels in the order of the "
            "images (or a generator that does not ignore its class)"
        )
    if same_classes:
        share, best = _agreement(labels, predicted)
        if share < best / 2:
            raise ValueError(
                f"{source}: classes carry other numbers than the network's: {share:.1%} of the images are of the class "
                f"asked for, renumbered {best:.1%}; accepted: the class numbers of the study's data"
            )
        result += _share_named(labels, predicted)
    return result


def _share_named(labels: np.ndarray, predicted: np.ndarray) -> str:
    return f"; the network names {(labels == predicted).mean():.1%} of the classes asked for"


def information(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mutual information of two labellings of the same images (n,), in nats."""
    counts = _contingency(labels, predicted)
    joint = counts / counts.sum()
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    occurs = joint > 0
    return float((joint[occurs] * np.log(joint[occurs] / product[occurs])).sum())


def _agreement(labels: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """Share of images that are of the class asked for, and that share after the best renumbering of the classes."""
    from scipy.optimize import linear_sum_assignment

    counts = _contingency(labels, predicted)
    best = counts[linear_sum_assignment(counts, maximize=True)].sum()
    return float((labels == predicted).mean()), float(best / len(labels))


def _contingency(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """How many images have each pair of classes."""
    (_, rows), (_, columns) = (np.unique(x, return_inverse=True) for x in (labels, predicted))
    counts = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(counts, (rows, columns), 1)
    return counts


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
