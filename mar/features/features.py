"""Step 1 of an evaluation: images to features, one file for each piece of the set, so that a stopped run goes on.

A folder features/<extractor>/<set>/ holds the parts part-00000.npz, part-00001.npz, ... and, written last,
manifest.json, which says which images and which network they are of. A part of N images has the arrays

- `features` (N, F);
- `logits` (N, K) and `spatial` (N, 2023), if the network gives them;
- `labels` (N,), if the classes of the images are known;
- `nearest`, `neighbour`, `from_train` and `expected` (N,), by the study's first extractor only: the nearest training
  image, and whether a training or a held-out image is the nearest one (`mar.features.neighbours.Seen`). Parts of older
  versions have the first of these alone.

A set is named as in `mar.study.real_sets`, or <variant>/seed<k>/<setting>, or given/<name>.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mar.data.read_ahead import WORKER_IMAGES
from mar.features import given, image_sets, references
from mar.runtime import devices, files, npz
from mar.runtime.files import sha256
from mar.runtime.folders import begun
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import Recipe, Share, fill, finish, stage
from mar.study import at_once, layout
from mar.study.compatibility import known
from mar.study.limits import LOOKED_AT
from mar.study.real_sets import COMPARED, SETS, described, scored
from mar.study.records import FeaturesManifest, Judge, Piece
from mar.study.stage_keys import features_key
from mar.study.study import Study

if TYPE_CHECKING:
    from mar.features.neighbours import Seen
    from mar.features.networks.extractors import Extractor

WHOLE = ("labels", "neighbour")  # arrays with one whole number for each image
SINGLE = (*WHOLE, "nearest", "from_train", "expected")  # arrays with one number for each image


@dataclass(frozen=True)
class Features:
    """Features of one set of images by one network; they stay on disk and are read part by part.

    Attributes:
        folder: features/<extractor>/<set>/.
        manifest: its manifest.json.
    """

    folder: Path
    manifest: FeaturesManifest
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)  # of one image, by array

    @property
    def count(self) -> int:
        """Number of images."""
        return self.manifest.count

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the arrays in each part, such as `features` and `logits`."""
        return self.manifest.keys

    @cached_property
    def sha256(self) -> str:
        """Checksum of the manifest, which holds the checksums of all parts."""
        return sha256(self.folder / layout.MANIFEST)

    def parts(self, key: str) -> Iterator[np.ndarray]:
        """Yield the array `key` of each part in turn; its first axis counts the images of the part.

        Raises:
            ValueError: a part is missing or damaged, or has no such array.
        """
        for part in self.manifest.parts:
            yield self._part(part, key)

    def array(self, key: str) -> np.ndarray:
        """The array `key` of all images, (count, ...); raises as `parts`."""
        return np.concatenate(list(self.parts(key)))

    def rows(self, key: str, indices: np.ndarray) -> np.ndarray:
        """The array `key` of the images at these ascending indices, one part in memory at a time; raises as `parts`."""
        rows, start = [], 0
        for part in self.manifest.parts:
            first, last = np.searchsorted(indices, [start, start + part.count])
            if first < last:
                rows.append(self._part(part, key)[indices[first:last] - start])
            start += part.count
        return np.concatenate(rows)

    def _part(self, part: Piece, key: str) -> np.ndarray:
        path = self.folder / part.file
        if wrong := _wrong(path, part):
            raise ValueError(f"{path}: {wrong}; run `mar features` again, which makes it again")
        try:
            array = npz.read(path, key)
        except ValueError as error:
            raise ValueError(f"{error}; delete it and run `mar features` again") from None
        dimensions, kinds = (1, "iu" if key in WHOLE else "f") if key in SINGLE else (2, "f")
        shape = self._shapes.setdefault(key, array.shape[1:])
        if (
            array.ndim != dimensions
            or len(array) != part.count
            or array.shape[1:] != shape
            or array.dtype.kind not in kinds
        ):
            accepted = " x ".join(map(str, (part.count, *shape)))
            raise ValueError(
                f"{path}: {key} is {array.dtype} {array.shape}; accepted: "
                f"{'whole' if kinds == 'iu' else 'floating point'} numbers, {accepted}; delete it and run "
                "`mar features` again"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {key} holds numbers that are not finite; delete it and run `mar features` again")
        return array


def read(root: Path, extractor: str, set_name: str, role: str) -> Features:
    """Features of a set of images, which must be generated or real as the caller needs them.

    Args:
        root: results of the study.
        extractor: name of the network.
        set_name: name of the set.
        role: `generated` or `real`.

    Raises:
        ValueError: the features are missing, are of images of the other role or of another split, or are by another
            network.
    """
    folder = layout.features(root, extractor, set_name)
    manifest = files.read(folder / layout.MANIFEST, FeaturesManifest)
    if manifest.extractor.name != extractor:
        raise ValueError(
            f"{folder / layout.MANIFEST}: extractor.name: found {manifest.extractor.name!r}; accepted: {extractor}; "
            f"delete {folder} and run `mar features` again"
        )
    if manifest.role != role:
        raise ValueError(
            f"{folder / 'manifest.json'}: holds features of {manifest.role} images; accepted here: {role} ones. "
            "Swapping both sides of a comparison swaps precision and recall"
        )
    others = [described(name) for name in SETS if name not in (set_name, "reference")]
    if manifest.source is not None and manifest.source.kind == "split" and manifest.source.name in others:
        raise ValueError(
            f"{folder / layout.MANIFEST}: source.name: found {manifest.source.name!r}; accepted: images of {set_name}; "
            f"delete {folder} and run `mar features` again"
        )
    return Features(folder, manifest)


def open_images(study: Study, root: Path, set_name: str) -> image_sets.Images | None:
    """The images of a set by its name; None for a reference that has statistics and no images.

    Raises:
        ValueError: there is no such set, or it cannot be evaluated.
    """
    if set_name == "reference":
        if study.metrics.reference is None:
            raise ValueError("--set reference: belongs to a study with metrics.reference; accepted: train")
        reference = references.load(study.metrics.reference, layout.assets(root))
        return image_sets.of_reference(reference) if reference.count else None
    check_name(study, set_name)
    if set_name in SETS:
        return image_sets.of_split(study, root, set_name)
    if is_given(set_name):
        return given.opened(study, root, set_name.removeprefix(layout.given_set("")))
    variant, seed, setting = name(study, set_name)
    return image_sets.of_samples(study, root, variant, seed, setting)


def check_name(study: Study, set_name: str) -> None:
    """Refuse a name of no set of the study.

    Raises:
        ValueError: it is no split, no set that others drew, and no sample set.
    """
    if is_given(set_name):
        known("--set given", set_name.removeprefix(layout.given_set("")), study.given)
    elif set_name not in SETS:
        name(study, set_name)


def is_given(set_name: str) -> bool:
    """Whether a name is that of a sample set that others drew."""
    return set_name.startswith(layout.given_set(""))


def name(study: Study, set_name: str) -> tuple[str, int, str]:
    """Variant, training seed and setting from the name of a sample set, <variant>/seed<k>/<setting>.

    Raises:
        ValueError: it is no such name, or the study has no such set.
    """
    found = re.fullmatch("([^/]+)/seed([0-9]{1,19})/([^/]+)", set_name)
    if not found:
        raise ValueError(f"--set {set_name}: accepted: {', '.join(SETS)}, VARIANT/seedK/SETTING, given/NAME")
    variant, seed, setting = found[1], int(found[2]), found[3]
    known("--set: variant", variant, study.variants)
    known(f"--set: setting of {variant}", setting, study.variants[variant].sampling)
    if seed not in (seeds := study.variants[variant].seeds):
        raise ValueError(f"--set: seed of {variant}: found {seed}; accepted: {', '.join(map(str, seeds)) or 'none'}")
    return variant, seed, setting


def features(study: Study, root: str | Path, extractor: str, set_name: str, shard: tuple[int, int] = (0, 1)) -> None:
    """Write features/<extractor>/<set>/, or one worker's share of it.

    Parts that are on disk already are kept. The manifest is written last.

    Args:
        study: the study.
        root: its results folder.
        extractor: name of the network.
        set_name: name of the set.
        shard: (i, n) makes parts i, i + n, i + 2 n, ...; the worker that completes the set writes the manifest.

    Raises:
        ValueError: the set cannot be evaluated (`mar.features.image_sets`), the network has no weights, or features are
            not finite.
    """
    from mar.features.networks import extractors

    root = Path(root)
    known("--extractor", extractor, study.metrics.extractors)
    images = open_images(study, root, set_name)
    folder = layout.features(root, extractor, set_name)
    network = extractors.load(extractor, study, root, devices.device())
    main = extractor == study.metrics.extractors[0]
    recipe: Recipe = {
        "slice": features_key(study, extractor),
        "weights": network.weights,
        "source": images.sha256 if images else "statistics alone",
        **at_once.of_features(study, extractor),
        # of a given set the study says the pieces, not the set
        **({"piece": str(images.piece)} if images and is_given(set_name) else {}),
    }
    report, paths = folder / layout.MANIFEST, _files(images, folder) if images else []
    twin = layout.twin(study, root, folder)
    recipe = begun(folder, recipe, (at_once.LOOKED_AT,), paths, twin)
    shown = int(recipe.get(at_once.LOOKED_AT, at_once.JUDGED[extractor]))
    if shown != at_once.judged(study, extractor):
        network = replace(network, chunk=shown)

    def sound() -> bool:
        if _whole_set(folder, files.read(report, FeaturesManifest).parts):
            return True
        report.unlink()
        return False

    def intact(number: int) -> bool:
        return _whole(paths[number], network.name)

    def write_report() -> None:
        manifest = manifest_of(images, network, folder, shown)
        files.write(report, manifest)
        print(f"{folder}: {manifest.count} images", flush=True)

    with stage(report, sound, recipe, twin) as unfinished:
        if not unfinished:
            return
    if images:
        seen = _seen(study, root) if main and set_name not in COMPARED else None
        extract(images, network, folder, recipe, seen, shard, own=set_name == scored(study))
    finish(report, recipe, paths, intact, write_report)


def _seen(study: Study, root: Path) -> Seen | None:
    """The real images among which neighbours are looked for; None if the training images are too many for memory.

    Those that no model was trained on are the ones that are scored as samples are: images that samples are compared
    with may not be searched, as FID rewards what is near to them.
    """
    import torch

    from mar.features.neighbours import Searched, Seen

    if study.data.unread:
        return None

    def searched(split: str) -> Searched | None:
        images = image_sets.of_split(study, root, split)
        if not images.count or images.count * 3 * study.data.image_size**2 > LOOKED_AT:
            return None
        assert images.labels is not None  # the images of a split have classes
        return Searched(torch.cat(list(images.batches())), images.labels)

    train = searched("train")
    return Seen(train, searched(scored(study))) if train else None


def extract(
    images: image_sets.Images,
    network: Extractor,
    folder: Path,
    recipe: Recipe,
    seen: Seen | None = None,
    shard: Share = (0, 1),
    own: bool = False,
) -> None:
    """Write the missing parts of a worker's share.

    Args:
        images: the set.
        network: gives the features.
        folder: where the parts lie; it must be claimed for `recipe`.
        recipe: what the parts depend on.
        seen: real images; with them each part also says which of them are nearest to its images.
        shard: (i, n) makes parts i, i + n, i + 2 n, ...
        own: whether the set is itself the held-out images of `seen`, in their order.
    """
    import torch

    def arrays_of(number: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        batch = torch.from_numpy(rows).permute(0, 3, 1, 2).contiguous()  # (B, 3, H, W)
        arrays = {key: value.numpy() for key, value in network(batch).items()}
        for key, values in arrays.items():
            bad = ~np.isfinite(values).all(axis=1)
            if bad.any():
                first = number * images.piece + bad.argmax()
                raise ValueError(
                    f"{images.source}: {key} by {network.name} of {bad.sum()} images are not finite; the first is "
                    f"image {first}"
                )
        if images.labels is not None:
            arrays["labels"] = images.labels[number * images.piece :][: len(rows)]
        if seen is not None:
            first = number * images.piece
            arrays |= seen.arrays(batch, torch.arange(first, first + len(rows)) if own else None)
        return arrays

    def make(missing: list[int]) -> Iterator[tuple[int, Callable[[Path], None]]]:
        total = sum(images.sizes[n] for n in missing)
        progress = Progress(f"features {network.name} of {images.source}", total)
        numbers = range(missing[0], len(images.sizes), shard[1])
        workers = min(torch.get_num_threads(), total // WORKER_IMAGES)
        for number, rows in zip(numbers, images.pieces(numbers.start, numbers.step, workers), strict=True):
            if number in missing:
                yield number, partial(_save, arrays=arrays_of(number, rows))
                progress.update(len(rows))

    paths = _files(images, folder)
    fill(folder, recipe, paths, shard, lambda number: _whole(paths[number], network.name), make)


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def manifest_of(images: image_sets.Images | None, network: Extractor, folder: Path, shown: int) -> FeaturesManifest:
    """The manifest of a folder whose parts, `shown` images at once, are all written; none of a reference without."""
    paths = _files(images, folder) if images else []
    sizes = images.sizes if images else []
    parts = [Piece(file=p.name, count=n, sha256=sha256(p)) for p, n in zip(paths, sizes, strict=True)]
    return FeaturesManifest(
        extractor=Judge(name=network.name, weights=network.weights, note=network.note),
        role=images.role if images else "real",
        source=images.identity if images else None,
        count=sum(sizes),
        judged_at_once=shown,
        keys=tuple(npz.headers(paths[0])) if paths else (),
        parts=tuple(parts),
        provenance=provenance(),
    )


def _files(images: image_sets.Images, folder: Path) -> list[Path]:
    return [folder / f"part-{number:05d}.npz" for number in range(len(images.sizes))]


def _whole_set(folder: Path, parts: tuple[Piece, ...]) -> bool:
    """Whether all parts have the checksums in the manifest; those that differ are removed, with a message."""
    damaged = {folder / part.file: wrong for part in parts if (wrong := _wrong(folder / part.file, part))}
    for file, wrong in damaged.items():
        print(f"{file}: {wrong}; made again", flush=True)
        file.unlink(missing_ok=True)
    return not damaged


def _wrong(file: Path, part: Piece) -> str:
    """What is wrong with a part, given its entry in the manifest; empty if nothing is."""
    if not file.exists():
        return "missing"
    return "" if sha256(file) == part.sha256 else "differs from its checksum in the manifest"


def _whole(file: Path, network: str) -> bool:
    """Whether a part exists and can be read to its end."""
    if not file.exists():
        return False
    try:
        with np.load(file) as arrays:
            return all(len(arrays[key]) for key in arrays)
    except Exception as error:
        print(f"{file}: features by {network} cannot be read ({error}); made again", flush=True)
        return False
