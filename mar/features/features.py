"""Step 1 of an evaluation: images to features, a file a piece, so that a run that was stopped goes on.

A folder features/<extractor>/<set>/ holds part-00000.npz, ... with `features` (N, F), where the network has them
`logits` (N, K) and `spatial` (N, 2023), where they are known `labels` (N,), of the study's first extractor `nearest`
(N,), and last manifest.json, which says what went in. A set is `train`, `heldout`, `reference`, or
<variant>/seed<k>/<setting>.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mar.data.read_ahead import WORKER_IMAGES
from mar.features import image_sets, references
from mar.runtime import files, npz
from mar.runtime.files import sha256
from mar.runtime.progress import Progress
from mar.runtime.provenance import provenance
from mar.runtime.shards import Recipe, Share, fill, finish, stage
from mar.study import layout
from mar.study.compatibility import known
from mar.study.limits import LOOKED_AT
from mar.study.records import FeaturesManifest, Judge, Piece
from mar.study.stage_keys import features_key
from mar.study.study import Study

if TYPE_CHECKING:
    import torch

    from mar.features.networks.extractors import Extractor

SPLITS = ("train", "heldout", "reference")
SINGLE = ("labels", "nearest")  # one number for an image


@dataclass(frozen=True)
class Features:
    """Features on disk, read part by part or as a whole."""

    folder: Path
    manifest: FeaturesManifest
    _shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False)  # of one image's numbers

    @property
    def count(self) -> int:
        """Images."""
        return self.manifest.count

    @property
    def keys(self) -> tuple[str, ...]:
        """What each part holds."""
        return self.manifest.keys

    @cached_property
    def sha256(self) -> str:
        """Checksum of the manifest, which has those of all parts."""
        return sha256(self.folder / layout.MANIFEST)

    def parts(self, key: str) -> Iterator[np.ndarray]:
        """One kind of number, part by part.

        Raises:
            ValueError: a part is missing or damaged, or holds no such numbers.
        """
        for part in self.manifest.parts:
            yield self._part(part, key)

    def array(self, key: str) -> np.ndarray:
        """The same of all images at once; raises as `parts`."""
        return np.concatenate(list(self.parts(key)))

    def rows(self, key: str, indices: np.ndarray) -> np.ndarray:
        """The same of the images at these ascending indices, a part at a time; raises as `parts`."""
        found, start = [], 0
        for part in self.manifest.parts:
            first, last = np.searchsorted(indices, [start, start + part.count])
            if first < last:
                found.append(self._part(part, key)[indices[first:last] - start])
            start += part.count
        return np.concatenate(found)

    def _part(self, part: Piece, key: str) -> np.ndarray:
        path = self.folder / part.file
        if wrong := _wrong(path, part):
            raise ValueError(f"{path}: {wrong}; run `mar features` again, which makes it again")
        try:
            found = npz.read(path, key)
        except ValueError as error:
            raise ValueError(f"{error}; delete it and run `mar features` again") from None
        dimensions, kinds = (1, "iu" if key == "labels" else "f") if key in SINGLE else (2, "f")
        shape = self._shapes.setdefault(key, found.shape[1:])
        if (
            found.ndim != dimensions
            or len(found) != part.count
            or found.shape[1:] != shape
            or found.dtype.kind not in kinds
        ):
            accepted = " x ".join(map(str, (part.count, *shape)))
            raise ValueError(
                f"{path}: {key} is {found.dtype} {found.shape}; accepted: "
                f"{'whole' if kinds == 'iu' else 'floating point'} numbers, {accepted}; delete it and run "
                "`mar features` again"
            )
        if not np.isfinite(found).all():
            raise ValueError(f"{path}: {key} holds numbers that are not finite; delete it and run `mar features` again")
        return found


def read(root: Path, extractor: str, where: str, role: str) -> Features:
    """Features of a set, which has to be on the side of a comparison that it belongs to.

    Args:
        root: results of the study.
        extractor: name of the network.
        where: name of the set.
        role: generated or real.

    Raises:
        ValueError: they are missing, or of the other side.
    """
    folder = layout.features(root, extractor, where)
    manifest = files.read(folder / layout.MANIFEST, FeaturesManifest)
    if manifest.role != role:
        raise ValueError(
            f"{folder / 'manifest.json'}: holds features of {manifest.role} images; accepted here: {role} ones. "
            "Swapping both sides of a comparison swaps precision and recall"
        )
    return Features(folder, manifest)


def open_images(study: Study, root: Path, where: str) -> image_sets.Images | None:
    """The images of a set by its name; None of a reference that is statistics alone.

    Raises:
        ValueError: there is no such set, or it cannot be judged.
    """
    if where == "reference":
        if study.metrics.reference is None:
            raise ValueError("--set reference: belongs to a study with metrics.reference; accepted: train")
        found = references.load(study.metrics.reference, layout.assets(root))
        return image_sets.of_reference(found) if found.count else None
    if where in SPLITS:
        return image_sets.of_split(study, root, where)
    variant, seed, setting = name(study, where)
    return image_sets.of_samples(study, root, variant, seed, setting)


def name(study: Study, where: str) -> tuple[str, int, str]:
    """Variant, seed and setting of the name of a sample set.

    Raises:
        ValueError: it is no such name, or the study has no such set.
    """
    variant, _, rest = where.partition("/seed")
    seed, _, setting = rest.partition("/")
    if not seed.isdigit() or not setting:
        raise ValueError(f"--set {where}: accepted: {', '.join(SPLITS)}, VARIANT/seedK/SETTING")
    known("--set: variant", variant, study.variants)
    known(f"--set: setting of {variant}", setting, study.variants[variant].sampling)
    return variant, int(seed), setting


def features(study: Study, root: str | Path, extractor: str, where: str, shard: tuple[int, int] = (0, 1)) -> None:
    """Write features/<extractor>/<set>/, or a share beside other workers; parts on disk are kept, the manifest is last.

    Args:
        study: the study.
        root: its results folder.
        extractor: name of the network.
        where: name of the set.
        shard: (i, n) makes parts i, i + n, i + 2 n, ...; whoever completes the set writes the manifest.

    Raises:
        ValueError: the set cannot be judged (`mar.features.image_sets`), the network has no weights, or features are
        not
            finite.
    """
    import torch

    from mar.features.networks import extractors

    root = Path(root)
    known("--extractor", extractor, study.metrics.extractors)
    images = open_images(study, root, where)
    folder = layout.features(root, extractor, where)
    network = extractors.load(extractor, study, root, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    recipe = {"slice": features_key(study, extractor), "weights": network.weights}
    main = extractor == study.metrics.extractors[0]
    recipe |= {"source": images.sha256 if images else "statistics alone"}
    report, paths = folder / layout.MANIFEST, _files(images, folder) if images else []

    def sound() -> bool:
        if _whole_set(folder, files.read(report, FeaturesManifest).parts):
            return True
        report.unlink()
        return False

    def there(number: int) -> bool:
        return _whole(paths[number], network.name)

    def write_report() -> None:
        manifest = manifest_of(images, network, folder)
        files.write(report, manifest)
        print(f"{folder}: {manifest.count} images", flush=True)

    with stage(report, sound, recipe, layout.twin(study, root, folder)) as left:
        if not left:
            return
    if images:
        train = _neighbours(study, root) if main and where not in ("train", "reference") else None
        extract(images, network, folder, recipe, train, shard)
    finish(report, recipe, paths, there, write_report)


def _neighbours(study: Study, root: Path) -> torch.Tensor | None:
    """The train split in which the nearest image is looked for; None where it is too large to hold."""
    import torch

    train = image_sets.of_split(study, root, "train")
    return torch.cat(list(train.batches())) if train.count * 3 * study.data.image_size**2 <= LOOKED_AT else None


def extract(
    images: image_sets.Images,
    network: Extractor,
    folder: Path,
    recipe: Recipe,
    train: torch.Tensor | None = None,
    shard: Share = (0, 1),
) -> None:
    """Write the parts of a shard that are not there yet into a folder that is claimed for the recipe.

    With a train split they hold the distance to the nearest of its images too.
    """
    import torch

    from mar.features.neighbours import nearest

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
        if train is not None:
            arrays["nearest"] = nearest(batch, train.split(image_sets.PIECE))
        return arrays

    def make(missing: list[int]) -> Iterator[tuple[int, Callable[[Path], None]]]:
        total = sum(images.sizes[n] for n in missing)
        progress = Progress(f"features {network.name} of {images.source}", total)
        left = range(missing[0], len(images.sizes), shard[1])
        workers = min(torch.get_num_threads(), total // WORKER_IMAGES)
        for number, rows in zip(left, images.pieces(left.start, left.step, workers), strict=True):
            if number in missing:
                yield number, partial(_save, arrays=arrays_of(number, rows))
                progress.update(len(rows))

    files = _files(images, folder)
    fill(folder, recipe, files, shard, lambda number: _whole(files[number], network.name), make)


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def manifest_of(images: image_sets.Images | None, network: Extractor, folder: Path) -> FeaturesManifest:
    """What the parts in a folder are, all of which are there; of statistics alone (no images) there are none."""
    paths = _files(images, folder) if images else []
    sizes = images.sizes if images else []
    parts = [Piece(file=p.name, count=n, sha256=sha256(p)) for p, n in zip(paths, sizes, strict=True)]
    return FeaturesManifest(
        extractor=Judge(name=network.name, weights=network.weights, note=network.note),
        role=images.role if images else "real",
        source=images.identity if images else None,
        count=sum(sizes),
        keys=tuple(npz.headers(paths[0])) if paths else (),
        parts=tuple(parts),
        provenance=provenance(),
    )


def _files(images: image_sets.Images, folder: Path) -> list[Path]:
    return [folder / f"part-{number:05d}.npz" for number in range(len(images.sizes))]


def _whole_set(folder: Path, parts: tuple[Piece, ...]) -> bool:
    """Whether all parts are as the manifest says; those that are not are named and removed."""
    damaged = {folder / part.file: wrong for part in parts if (wrong := _wrong(folder / part.file, part))}
    for file, wrong in damaged.items():
        print(f"{file}: {wrong}; made again", flush=True)
        file.unlink(missing_ok=True)
    return not damaged


def _wrong(file: Path, part: Piece) -> str:
    """What is wrong with a part by the manifest's entry of it; nothing if it is whole."""
    if not file.exists():
        return "missing"
    return "" if sha256(file) == part.sha256 else "differs from its checksum in the manifest"


def _whole(file: Path, network: str) -> bool:
    """Whether a part is there and can be read to its end."""
    if not file.exists():
        return False
    try:
        with np.load(file) as arrays:
            return all(len(arrays[key]) for key in arrays)
    except Exception as error:
        print(f"{file}: features by {network} cannot be read ({error}); made again", flush=True)
        return False
