"""`mar prepare`: lists the images of each split, and decodes every one once to find those that cannot be read.

Every later stage reads images through `mar.data.images.open_split`, which trusts the record that is written here. What
was done to the images is printed, and some of each class are shown in preview.png.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mar.data import archives, idx, image_files, imagenet, preview, sources
from mar.data.image_files import Scan
from mar.data.images import SPLITS, open_split
from mar.runtime.files import atomic, read, sha256, write, write_text
from mar.runtime.folders import lock
from mar.runtime.progress import Progress
from mar.runtime.shards import unfinished
from mar.runtime.text import one_line
from mar.study import layout
from mar.study.kinds import implementation, opened
from mar.study.lengths import check_images
from mar.study.records import ArraysRecord, DataManifest, Entry, FileLists, Skipped, Split
from mar.study.stage_keys import data_key
from mar.study.study import Study

LONG = 2.0  # ratio of the sides of an image from which on the crop leaves out more than half of it
SPLIT_SEED = 2024  # chooses held-out images; fixed, so that all studies of a data set hold out the same ones


def prepare(study: Study, root: str | Path) -> None:
    """Decode every image and write data/manifest.json (counts, skipped files, hash of the file list).

    Raises:
        ValueError: the path is missing, a class has no readable image, train/ and val/ have different classes, the
            data are not what `expect` says, or the study asks for fewer images than they have classes.
    """
    root = Path(root)
    folder = layout.data(root)
    manifest, recipe = folder / layout.MANIFEST, {"data": data_key(study)}
    with lock(folder):
        listing, make = _source(study, layout.assets(root))

        def sound() -> bool:
            return read(manifest, DataManifest).listing == listing

        if not unfinished(manifest, sound, recipe, layout.twin(study, root, folder)):
            return
        manifest.unlink(missing_ok=True)
        state = sources.stamp(Path(study.data.folder)) if study.data.decoded and study.data.folder else ""
        write_text(folder / layout.LISTING, "".join(f"{line}\n" for line in (listing, state) if line))
        record = make(folder)
        if not study.data.unread:
            check_images(study, len(record.classes), record.splits["train"].count)
        write(manifest, record)
        counts = {split: value.count for split, value in record.splits.items()}
        print(f"{manifest}: {len(record.classes)} classes, images {counts}, skipped {len(record.skipped)}", flush=True)
        if not study.data.unread:
            preview.write(folder / layout.PREVIEW, open_split(study, root, "train"))
            print(f"{folder / layout.PREVIEW}: some images of each class, as the models see them", flush=True)


# A checksum that identifies the images of a study, and the function that prepares them in a folder.
Source = tuple[str, Callable[[Path], DataManifest]]


def _source(study: Study, assets: Path) -> Source:
    """Where the images of a study are from, by the kind of its data."""
    if getattr(study.data, "own", None):
        return _of_own(study)
    source: Source = implementation(study.data)(study, assets)
    return source


def of_nothing(study: Study, assets: Path) -> Source:
    """A study without images."""
    classes = [str(label) for label in range(study.data.classes or 0)]
    empty: dict[str, list[int]] = {split: [] for split in SPLITS}
    return "none", lambda _: _record(study, "none", classes, empty, [], [])


def of_digits(study: Study, assets: Path) -> Source:
    """The digits of scikit-learn."""
    return "sklearn", lambda folder: _prepare_digits(study, folder, "sklearn")


def of_fashion_mnist(study: Study, assets: Path) -> Source:
    """Fashion-MNIST, from the user's folder or fetched."""
    splits = idx.fashion_mnist(Path(study.data.folder) if study.data.folder else None, assets)
    return _of_labelled(study, splits, idx.FASHION)


def of_idx(study: Study, assets: Path) -> Source:
    """The user's idx files."""
    return _of_labelled(study, idx.load(Path(str(study.data.folder))), None)


def _of_labelled(study: Study, splits: dict[str, idx.Labelled], names: tuple[str, ...] | None) -> Source:
    listing = _hash([[name, split.sha256] for name, split in splits.items()])
    return listing, lambda folder: _prepare_idx(study, folder, splits, listing, names)


def of_files(study: Study, assets: Path) -> Source:
    """The user's image files."""
    found = sources.scan(Path(str(study.data.folder)))
    if study.data.totals == "imagenet":
        imagenet.check(Path(str(study.data.folder)), found.found)
    listing = image_files.checksum(found.found)
    return listing, lambda folder: _prepare_files(study, folder, found, listing)


def _of_own(study: Study) -> Source:
    """Images of a data source of the user's: uint8 (N, H, W, 3) with their classes (N,), held out as ours are."""
    config, size = opened(study.data), study.data.image_size
    images, labels, names = implementation(config)(config)
    shape, fits = np.shape(images), np.asarray(images).dtype == np.uint8
    if not fits or shape[1:] != (size, size, 3) or np.shape(labels) != shape[:1]:
        raise ValueError(
            f"data.kind {study.data.kind}: gave images {np.asarray(images).dtype} {shape} and labels "
            f"{np.shape(labels)}; accepted: uint8 (N, {size}, {size}, 3) and (N,)"
        )
    labels, classes = np.asarray(labels, np.int64), [str(name) for name in names]
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise ValueError(f"data.kind {study.data.kind}: gave labels {labels.min()} to {labels.max()} of {len(classes)}")
    listing = _hash([[_digest(image), int(label)] for image, label in zip(images, labels, strict=True)])
    return listing, lambda folder: _prepare_arrays(study, folder, np.asarray(images), labels, classes, listing)


def _prepare_digits(study: Study, folder: Path, listing: str) -> DataManifest:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)  # (N, 8, 8), published range 0..16
    size = (study.data.image_size, study.data.image_size)
    large = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in grey])
    images = np.repeat(large[..., None], 3, axis=-1)  # (N, H, W, 3)
    labels, names = digits.target.astype(np.int64), [str(name) for name in digits.target_names]
    rows = _split(study, labels, names)
    _write_arrays(folder / study.data.archive, images, labels, rows)
    entries = [(split, hashlib.sha256(grey[i]).hexdigest()) for split in SPLITS for i in sorted(rows[split])]
    return _record(study, listing, names, {s: [int(labels[i]) for i in rows[s]] for s in SPLITS}, entries, [])


def _split(study: Study, labels: np.ndarray, names: list[str]) -> dict[str, list[int]]:
    """Indices of the images of each split: a share of each class is held out, and what is set aside."""
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for label, name in enumerate(names):
        train, heldout = _hold_out(np.flatnonzero(labels == label), study.data.holdout, name)
        rows["train"] += train
        rows["heldout"] += heldout
    aside = _set_aside(study, labels[rows["train"]], names)
    rows["heldout"] += [i for i, out in zip(rows["train"], aside, strict=True) if out]
    rows["train"] = [i for i, out in zip(rows["train"], aside, strict=True) if not out]
    return rows


def _write_arrays(path: Path, images: np.ndarray, labels: np.ndarray, rows: dict[str, list[int]]) -> None:
    """Write images (N, H, W, 3) and labels (N,) of each split."""
    arrays: dict[str, np.ndarray] = {}
    for split, indices in rows.items():
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[sorted(indices)], labels[sorted(indices)]
    _save(path, arrays)


def _prepare_arrays(
    study: Study, folder: Path, images: np.ndarray, labels: np.ndarray, names: list[str], listing: str
) -> DataManifest:
    rows = _split(study, labels, names)
    _write_arrays(folder / study.data.archive, images, labels, rows)
    return _record(study, listing, names, {s: [int(labels[i]) for i in rows[s]] for s in SPLITS}, [listing], [])


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the images and labels of both splits, and the checksum by which `open_split` knows them."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    write(path.with_name(layout.ARRAYS), ArraysRecord(sha256=sha256(path)))


def _prepare_idx(
    study: Study, folder: Path, splits: dict[str, idx.Labelled], listing: str, names: tuple[str, ...] | None
) -> DataManifest:
    """Write the images of idx files with black borders up to the study's size, and their classes from 0.

    Without a test set, a share of each class is held out.
    """
    size = study.data.image_size
    values = np.unique(np.concatenate([split.labels for split in splits.values()]))
    classes = list(names or (str(value) for value in values))
    arrays: dict[str, np.ndarray] = {}
    for name, split in splits.items():
        height, width = split.images.shape[1:]
        if max(height, width) > size:
            raise ValueError(
                f"data.image_size {size}: the images are {width} x {height} and are padded, not resized; accepted: "
                f"{max(height, width)} or more"
            )
        borders = [((size - n) // 2, (size - n + 1) // 2) for n in (height, width)]
        arrays[f"{name}_images"] = np.pad(split.images, [(0, 0), *borders])  # (N, H, W)
        arrays[f"{name}_labels"] = np.searchsorted(values, split.labels).astype(np.int64)
    if "heldout" not in splits:
        images, labels = arrays["train_images"], arrays["train_labels"]
        rows_of: dict[str, list[int]] = {split: [] for split in SPLITS}
        for label, text in enumerate(classes):
            train, heldout = _hold_out(np.flatnonzero(labels == label), study.data.holdout, text)
            rows_of["train"] += train
            rows_of["heldout"] += heldout
        for name, rows in rows_of.items():
            arrays[f"{name}_images"], arrays[f"{name}_labels"] = images[sorted(rows)], labels[sorted(rows)]
    aside = _set_aside(study, arrays["train_labels"], classes)
    for key in ("images", "labels") if aside.any() else ():
        whole = arrays[f"train_{key}"]
        arrays[f"heldout_{key}"] = np.concatenate([arrays[f"heldout_{key}"], whole[aside]])
        arrays[f"train_{key}"] = whole[~aside]
    for name in SPLITS:
        if missing := sorted(set(range(len(classes))) - set(arrays[f"{name}_labels"].tolist())):
            raise ValueError(
                f"data.path {study.data.folder}: class {classes[missing[0]]!r} has no image ({name}); accepted: one"
            )
    _save(folder / study.data.archive, arrays)
    labels_of = {split: arrays[f"{split}_labels"].tolist() for split in SPLITS}
    pixels = None
    if names is None:  # Fashion-MNIST is known
        rgb = {
            split: (np.repeat(grey[..., None], 3, axis=-1) for grey in arrays[f"{split}_images"]) for split in SPLITS
        }
        pixels = _pixels({s: zip(labels_of[s], map(_digest, rgb[s]), strict=True) for s in SPLITS})
    return _record(study, listing, classes, labels_of, [listing], [], pixels)


@dataclass(frozen=True)
class _Looked:
    """What the decoding of an image file tells.

    Attributes:
        skipped: why it is no image, or None.
        crc: CRC-32 of the file.
        digest: checksum of its pixels as RGB.
        done: what is done to it.
    """

    skipped: str | None = None
    crc: int = 0
    digest: str = ""
    done: tuple[str, ...] = ()


def _prepare_files(study: Study, folder: Path, scan: Scan, listing: str) -> DataManifest:
    base, found = Path(str(study.data.folder)), scan.found
    classes = found["train"]["classes"]
    if "val" in found and found["val"]["classes"] != classes:
        differing = sorted(set(classes) ^ set(found["val"]["classes"]))
        raise ValueError(f"data.path {base}: train/ and val/ differ in these classes: {', '.join(differing[:10])}")
    if scan.said:
        print(f"{one_line(base)}: {scan.said}", flush=True)
    if scan.unpack:
        with atomic(folder / layout.UNPACKED) as temporary, open(temporary, "wb") as file:
            scan.unpack(file)
    looked: dict[str, _Looked] = {}
    readable: dict[str, list[Entry]] = {}
    skipped: list[Skipped] = []
    for split, listed in found.items():
        readable[split] = []
        progress = Progress(f"prepare {split}", len(listed["files"]), unit="files")
        with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders work in parallel
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; only the pixels matter here
            seen = pool.map(lambda entry: _look(study, folder, scan, entry), listed["files"])
            for entry, look in zip(listed["files"], seen, strict=True):
                if look.skipped:
                    print(f"skipped {one_line(f'{base / entry[0]}: {look.skipped}')}", flush=True)
                    skipped.append(Skipped(file=one_line(entry[0]), reason=look.skipped))
                else:
                    readable[split].append(entry)
                    looked[entry[0]] = look
                progress.update(1)
    if study.data.totals and skipped:
        raise ValueError(
            f"data.path {base} with expect: {study.data.totals}: {len(skipped)} images cannot be read: "
            f"{imagenet.first([entry.file for entry in skipped])}; get them anew"
        )
    for split, entries in readable.items():
        counts = np.bincount([label for _, label, _ in entries], minlength=len(classes))
        for label in np.flatnonzero(counts == 0):
            raise ValueError(
                f"data.path {base}: class {classes[label]!r} has no readable image ({split}; {len(skipped)} files "
                "skipped); accepted: at least one in each class; add some, or remove its folder"
            )
    print(_said(study.data.image_size, looked, len(skipped)), flush=True)
    files = {"train": readable["train"], "heldout": readable.get("val", [])}
    if "val" not in found:
        files = {split: [] for split in SPLITS}
        labels = np.array([label for _, label, _ in readable["train"]])
        for i, name in enumerate(classes):
            train, heldout = _hold_out(np.flatnonzero(labels == i), study.data.holdout, name)
            files["train"] += [readable["train"][row] for row in sorted(train)]
            files["heldout"] += [readable["train"][row] for row in sorted(heldout)]
    aside = _set_aside(study, np.array([label for _, label, _ in files["train"]]), classes)
    files = {
        "train": [entry for entry, out in zip(files["train"], aside, strict=True) if not out],
        "heldout": files["heldout"] + [entry for entry, out in zip(files["train"], aside, strict=True) if out],
    }
    texts = {s: tuple((image_files.to_json(path), label, size) for path, label, size in files[s]) for s in SPLITS}
    values: dict[str, Any] = dict(texts) | {
        "crc": {s: tuple(looked[path].crc for path, _, _ in files[s]) for s in SPLITS}
    }
    if scan.places:
        values |= {"archives": scan.archives}
        values |= {"places": {s: tuple(scan.places[path] for path, _, _ in files[s]) for s in SPLITS}}
    lists = FileLists(**values)
    write_text(folder / layout.FILES, json.dumps(lists.model_dump(mode="json", exclude_unset=True)))  # one long line
    entries_of = [(path, count, split) for split in SPLITS for path, _, count in files[split]]
    labels_of = {s: [entry[1] for entry in files[s]] for s in SPLITS}
    pixels = _pixels({s: ((label, looked[path].digest) for path, label, _ in files[s]) for s in SPLITS})
    return _record(study, listing, classes, labels_of, sorted(entries_of), skipped, pixels)


def _said(size: int, looked: dict[str, _Looked], skipped: int) -> str:
    """One line: to how many images what is done."""
    counted = Counter(what for look in looked.values() for what in look.done)
    parts = [f"{count:,} {what}" for what, count in counted.most_common()]
    return f"of {len(looked):,} images: {', '.join(parts) or f'all are {size} x {size} RGB'}; {skipped:,} files skipped"


def _record(
    study: Study,
    listing: str,
    classes: list[str],
    labels: dict[str, list[int]],
    entries: list[Any],
    skipped: list[Skipped],
    pixels: str | None = None,
) -> DataManifest:
    per_class = {s: np.bincount(np.array(labels[s], np.int64), minlength=len(classes)).tolist() for s in SPLITS}
    known: dict[str, Any] = {"pixels": pixels} if pixels else {}
    return DataManifest(
        kind=study.data.kind,
        classes=tuple(classes),
        splits={s: Split(count=len(labels[s]), per_class=tuple(per_class[s])) for s in SPLITS},
        files=_hash(entries),
        skipped=tuple(skipped),
        image_size=study.data.image_size,
        flip=study.data.flip,
        listing=listing,
        **known,
    )


def _hold_out(indices: np.ndarray, share: float, name: str) -> tuple[list[int], list[int]]:
    """Split the images of one class into (train, held out).

    The split does not depend on the place and name of the class, so that adding a class moves no other image.

    Args:
        indices: images of the class.
        share: data.holdout of the study.
        name: name of the class, for the message.
    """
    count = round(share * len(indices))
    if not 0 < count < len(indices):
        raise ValueError(
            f"data.holdout {share}: of the {len(indices)} images of class {name!r} {count} would be held out; "
            f"accepted: at least 1 held out and 1 left (or a tree with val/)"
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(indices).tolist()
    return order[count:], order[:count]


def _set_aside(study: Study, labels: np.ndarray, classes: list[str]) -> np.ndarray:
    """Which of the images of the train split `data.set_aside` holds out too, bool (N,); its share of each class.

    Args:
        study: the study.
        labels: classes of the train split, (N,).
        classes: names of the classes, for the message.
    """
    count, aside = study.data.set_aside or 0, np.zeros(len(labels), bool)
    for label, name in enumerate(classes) if count else ():
        members = np.flatnonzero(labels == label)
        if (taken := round(count * len(members) / len(labels))) >= len(members):
            raise ValueError(
                f"data.set_aside {count}: found {len(labels)} images in the train split, {len(members)} of class "
                f"{name!r}; accepted: fewer, so that each class has an image left to train on"
            )
        aside[np.random.default_rng(SPLIT_SEED).permutation(members)[:taken]] = True
    return aside


def _look(study: Study, folder: Path, scan: Scan, entry: Entry) -> _Looked:
    """Decode an image file completely, since a truncated one has an intact header."""
    base, (name, _, size) = Path(str(study.data.folder)), entry
    path = base / name
    try:
        if scan.places:
            if why := image_files.why_no_image_name(name):
                return _Looked(why)
            content = archives.read_image(base, scan.archives, folder / layout.UNPACKED, scan.places[name], size)
        else:
            if why := image_files.why_no_image(path):
                return _Looked(why)
            content = path.read_bytes()
        image, done = image_files.decode_and_say(io.BytesIO(content))
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error and more
        text = str(error).replace(str(path), path.name).replace(str(path.parent), "")
        return _Looked(one_line(f"{type(error).__name__}: {text}"[:200]))
    short, long = sorted(image.size)
    side = study.data.image_size
    steps = [
        done,
        f"larger than {side} pixels, scaled down" if short > side else "",
        f"smaller than {side} pixels, scaled up" if short < side else "",
        "more than twice as long as wide, more than half cut off" if long > LONG * short else "",
        "cropped to a square" if short < long <= LONG * short else "",
    ]
    return _Looked(None, zlib.crc32(content), _digest(np.asarray(image)), tuple(step for step in steps if step))


def _digest(image: np.ndarray) -> str:
    """Checksum of the size and the pixels of an image, uint8 (H, W, 3)."""
    return hashlib.sha256(f"{image.shape} ".encode() + image.tobytes()).hexdigest()


def _pixels(images: dict[str, Iterable[tuple[int, str]]]) -> str:
    """Checksum of the images of each split as (class, checksum of its pixels), in whatever order they are."""
    return _hash([[split, *image] for split in SPLITS for image in sorted(images[split])])


def _hash(entries: list[Any]) -> str:
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()
