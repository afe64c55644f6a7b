"""Which files of a study a bundle holds: what its numbers follow from, and what shows them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mar.bundle.record import Cut
from mar.runtime.code_digest import CODE
from mar.runtime.files import read
from mar.runtime.folders import RECIPE
from mar.study import layout
from mar.study.parts import Data
from mar.study.products import edited, figure_names, learned, speed_settings, swept, table_names, used_tokenizers
from mar.study.real_sets import real_side, scored
from mar.study.records import FeaturesManifest
from mar.study.study import Study

KINDS = {
    "study": "the study, and its own modules as text",
    "record": "manifests, recipes, digests of code: how each result was made",
    "log": "losses of trainings",
    "features": "features of sets of images",
    "statistics": "mean and covariance of features",
    "metrics": "metrics, rFID, sweeps, seconds per image",
    "product": "tables, figures, verdicts, report",
    "grid": "sample grids",
    "card": "description: model card, data card, RO-Crate, workflow",
}
REAL_IMAGES = ("samples", "tasks")  # figures that show real images


@dataclass(frozen=True)
class Contents:
    """Files of a study for a bundle.

    Attributes:
        files: path on disk of each file, and its kind, by its path in the bundle.
        cut: what is left out.
        missing: files that the study asks for and that are not on disk, by their paths in the bundle.
    """

    files: dict[str, tuple[Path, str]]
    cut: list[Cut]
    missing: list[str]


def shows_images(data: Data) -> bool:
    """Whether the licence of a study's images lets a bundle show some of them."""
    return data.licence is not None


def sample_sets(study: Study) -> list[str]:
    """The sample sets of a study, its own and those that others drew."""
    own = [
        layout.sample_set(name, seed, setting)
        for name, variant in study.variants.items()
        for seed in variant.seeds
        for setting in variant.sampling
    ]
    return [*own, *map(layout.given_set, study.given)]


def of_study(study: Study, root: Path, patterns: tuple[str, ...]) -> Contents:
    """What a bundle holds of a study.

    Args:
        study: the study.
        root: its results folder.
        patterns: which sets of images have their features in the bundle, as `mar/seed0/*` or `train`; none for all.

    Raises:
        ValueError: a pattern fits no set of images.
    """
    names = list(dict.fromkeys(name for _, name, _ in featured(study)))
    if unfit := [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]:
        raise ValueError(f"--sets: found {unfit[0]!r}, which fits no set; accepted: patterns of {', '.join(names)}")
    found = Contents({}, [], [])
    for path, kind, needed in files(study, root):
        inside = in_bundle(root, path)
        if path.is_file():
            found.files[inside] = (path, kind)
        elif needed:
            found.missing.append(inside)
    _add_features(study, root, patterns, found)
    if not shows_images(study.data):
        _leave_images_out(study, root, found)
    return found


def in_bundle(root: Path, path: Path) -> str:
    """Where a file of a study lies in a bundle: as the workflow has it, below results/ or figures/."""
    if path.is_relative_to(root):
        return (layout.RESULTS / root.name / path.relative_to(root)).as_posix()
    return (layout.FIGURES / root.name / path.name).as_posix()


def files(study: Study, root: Path) -> Iterator[tuple[Path, str, bool]]:
    """Every file but features, with its kind, and whether a finished study has it."""
    images = not study.data.unread
    yield layout.study(root), "study", True
    yield from ((path, "study", False) for path in sorted(layout.own_code(root).rglob("*.py")))

    def made_by(folder: Path, *names: str) -> Iterator[tuple[Path, str, bool]]:
        for name in (*names, RECIPE, CODE, layout.SHIPPED):
            yield folder / name, "record", name in names

    if images:
        yield from made_by(layout.data(root), layout.MANIFEST)
    if "classifier" in study.metrics.extractors:
        yield from made_by(layout.classifier(root), layout.CLASSIFIER)
        yield layout.classifier(root) / layout.LOG, "log", False
    if study.rejecter and not study.rejecter.weights:
        yield from made_by(layout.rejecter(root), layout.CLASSIFIER)
        yield layout.rejecter(root) / layout.LOG, "log", False
    for name in used_tokenizers(study):
        yield from made_by(layout.tokenizer(root, name), layout.TOKENIZER)
        yield layout.tokenizer(root, name) / layout.LOG, "log", False
        if images:
            yield layout.rfid(root, name), "metrics", True
        for split in ("train", "heldout"):
            yield from made_by(layout.tokens(root, name, split), layout.MANIFEST)
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            folder = layout.run(root, name, seed)
            yield from made_by(folder, layout.RECORD)
            yield folder / layout.LOG, "log", not variant.pretrained
            for setting in variant.sampling:
                yield from made_by(layout.samples(root, layout.sample_set(name, seed, setting)), layout.MANIFEST)
        if variant.seeds and speed_settings(study, name):
            yield layout.speed(root, name), "metrics", True
    yield from ((layout.learning(root, *run), "metrics", True) for run in learned(study))
    yield from ((layout.pictures(root, *run), "metrics", False) for run in learned(study))
    yield from ((layout.tasks(root, *model), "metrics", True) for model in edited(study))
    yield from ((layout.tasks(root, *model).with_name(layout.MEASURES), "metrics", True) for model in edited(study))
    yield from ((layout.sweep(root, *cell), "metrics", True) for cell in swept(study))
    yield from ((layout.metrics(root, name), "metrics", True) for name in sample_sets(study))
    if images:
        yield layout.reference_metrics(root), "metrics", True
    if study.gate:
        yield layout.gate(root), "metrics", True
    yield layout.gpu_hours(root), "record", False
    yield from _products(study, root)


def _products(study: Study, root: Path) -> Iterator[tuple[Path, str, bool]]:
    """Tables, and of a study with images its figures, verdicts and report."""
    for name in table_names(study):
        yield from ((layout.table(root, name, suffix), "product", True) for suffix in layout.TABLE_FORMATS)
    if study.data.unread:
        return
    for name in figure_names(study):
        yield from ((layout.figure(root, name, suffix), "product", True) for suffix in layout.FIGURE_FORMATS)
    yield layout.claims(root), "product", True
    yield layout.report(root), "product", True


def featured(study: Study) -> Iterator[tuple[str, str, bool]]:
    """Extractor and name of each set of images that has features, and whether it has statistics too."""
    for extractor in study.metrics.extractors:
        side = real_side(study, extractor)
        yield extractor, side, True
        if not study.data.unread and scored(study) != side:
            yield extractor, scored(study), False
        yield from ((extractor, name, True) for name in sample_sets(study))


def _add_features(study: Study, root: Path, patterns: tuple[str, ...], found: Contents) -> None:
    """Add manifests and statistics of all sets, and the features of those that fit the patterns."""
    for extractor, name, has_statistics in featured(study):
        manifest = layout.features_manifest(root, extractor, name)
        needed = [(manifest, "record")]
        needed += [(layout.statistics(root, extractor, name), "statistics")] if has_statistics else []
        for path, kind in needed:
            if path.is_file():
                found.files[in_bundle(root, path)] = (path, kind)
            else:
                found.missing.append(in_bundle(root, path))
        if (recipe := manifest.with_name(RECIPE)).is_file():
            found.files[in_bundle(root, recipe)] = (recipe, "record")
        if not manifest.is_file():
            continue
        parts = [manifest.with_name(part.file) for part in read(manifest, FeaturesManifest).parts]
        here = [path for path in parts if path.is_file()]
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            found.files.update({in_bundle(root, path): (path, "features") for path in here})
            found.missing.extend(in_bundle(root, path) for path in parts if not path.is_file())
        elif here:
            size = sum(path.stat().st_size for path in here)
            found.cut.append(Cut(what=f"features/{extractor}/{name}", files=len(here), size=size, why="--sets"))


def _leave_images_out(study: Study, root: Path, found: Contents) -> None:
    """Leave out what shows real images: the figure of samples, and the page that has it inside."""
    figures = [layout.figure(root, name, suffix) for name in REAL_IMAGES for suffix in ("pdf", "png")]
    why = f"shows images of data.kind {study.data.kind}, whose licence is not known to allow it"
    for path in (*figures, layout.report(root)):
        inside = in_bundle(root, path)
        if found.files.pop(inside, None):
            found.cut.append(Cut(what=inside, files=1, size=path.stat().st_size, why=why))
        elif inside in found.missing:
            found.missing.remove(inside)
