"""`mar bundle`: the bundle of a study, or one joined from parts that several machines made."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from mar import __version__
from mar.bundle import cards, contents, crate, record
from mar.bundle.contents import KINDS, Contents
from mar.bundle.record import BundleRecord, Cut, Held, Joined
from mar.planning.disk import size
from mar.runtime import project
from mar.runtime.files import read, sha256
from mar.runtime.provenance import git_commit
from mar.study import layout
from mar.study.reading import load
from mar.study.records import MetricsFile
from mar.study.study import Study

COPIES = 0.1  # share of copies above which a grid of samples would show training images
LIBRARIES = ("torch", "numpy", "scipy", "pandas", "matplotlib", "pillow")
WORKFLOW = ("Snakefile", "rules/*.smk")


def bundle(study: Study, root: Path, out: Path, patterns: tuple[str, ...], dry_run: bool = False) -> None:
    """Say how large the bundle of a study is, and write it.

    Args:
        study: the study.
        root: its results folder.
        out: the folder to write, which must not exist.
        patterns: which sets of images have their features in it; none for all.
        dry_run: only say it.

    Raises:
        ValueError: `out` exists, a pattern fits no set, or nothing of the study was measured yet.
    """
    found = contents.of_study(study, root, patterns)
    print("\n".join(stated(found, out)), flush=True)
    if not any(kind == "metrics" for _, kind in found.files.values()):
        raise ValueError(f"{root}: has no metrics; accepted: a study of which something was measured")
    if dry_run:
        return
    with _new(out) as folder:
        kinds = {}
        for name, (path, kind) in found.files.items():
            kinds[name] = kind
            _copy(path, folder / name)
        cut = [*found.cut, *_grids(study, root, folder, kinds)]
        _finish(study, folder, kinds, patterns, cut, found.missing, ())
    print(f"{out}: written, {size(_bytes(out))}; digest {record.read(out).digest}", flush=True)


def join(parts: list[Path], out: Path, dry_run: bool = False) -> None:
    """Join bundles of one study, such as those of two clusters; tables, figures and verdicts are made anew of all.

    Raises:
        ValueError: a part is damaged or of another study, two parts have different files of one name, or `out` exists.
    """
    from mar.bundle import products

    records = {part: record.read(part) for part in parts}
    files: dict[str, tuple[Path, Held]] = {}
    for part, said in records.items():
        if wrong := next(record.damage(part, said), None):
            raise ValueError(f"{part}: damaged: {wrong[0]}: {wrong[1]}; accepted: a bundle as it was made")
        if own := record.own_kinds(part, said):
            raise ValueError(f"{part}: its study needs code of its own, {own[0]}; accepted: a study without")
        first = records[parts[0]]
        if said.study != first.study:
            raise ValueError(f"{part}: is of study {said.study}, {parts[0]} of {first.study}; accepted: one study")
        for held in said.files:
            if held.kind in ("product", "card"):
                continue
            before = files.setdefault(held.file, (part, held))
            if before[1].sha256 != held.sha256:
                raise ValueError(
                    f"{held.file}: differs in {before[0]} and {part}; accepted: parts that share what both have, so "
                    "make it once, copy it before the rest is made (`mar adopt`), and make the bundles again"
                )
    study_file = (layout.RESULTS / records[parts[0]].study / layout.study(Path()).name).as_posix()
    sizes = sum(held.size for _, held in files.values())
    print(f"{out}: {len(files)} files, {size(sizes)}, and what is drawn from them", flush=True)
    if dry_run:
        return
    with _new(out) as folder:
        for name, (part, _) in files.items():
            _copy(part / name, folder / name)
        study, root = load(folder / study_file), (folder / study_file).parent
        kinds = {name: held.kind for name, (_, held) in files.items()}
        failed = products.make(study, root, folder / layout.FIGURES / root.name)
        for path in sorted((folder / layout.FIGURES).rglob("*")) + sorted(root.rglob("*")):
            if path.is_file():
                kinds.setdefault(path.relative_to(folder).as_posix(), "product")
        wanted = {contents.in_bundle(root, path) for path, _, needed in contents.files(study, root) if needed}
        wanted |= {name for said in records.values() for name in said.missing}
        missing = sorted(name for name in wanted if not (folder / name).exists())
        cut = {one.what: one for said in records.values() for one in said.cut}
        held_here = {name for name in kinds if kinds[name] == "features"}
        left = [
            one
            for one in cut.values()
            if not any(name.startswith(f"results/{root.name}/{one.what}/") for name in held_here)
        ]
        left += [Cut(what=name, files=0, size=0, why=why) for name, why in failed.items()]
        patterns = tuple(dict.fromkeys(pattern for said in records.values() for pattern in said.sets))
        joined = tuple(Joined(digest=said.digest, time=said.time) for said in records.values())
        _finish(study, folder, kinds, patterns, left, missing, joined)
    print(f"{out}: joined from {len(parts)}, {size(_bytes(out))}; digest {record.read(out).digest}", flush=True)


def stated(found: Contents, out: Path) -> list[str]:
    """The sizes of a bundle by kind, what is cut from it, and what is missing, as lines."""
    sizes: dict[str, list[int]] = {kind: [] for kind in KINDS}
    for path, kind in found.files.values():
        sizes[kind].append(path.stat().st_size)
    lines = [f"{out}: {sum(map(len, sizes.values()))} files, {size(sum(map(sum, sizes.values())))}"]
    lines += [f"  {kind:<10} {len(of):>6} files {size(sum(of)):>10}  {KINDS[kind]}" for kind, of in sizes.items() if of]
    lines += [f"  left out: {cut.what}, {cut.files} files, {size(cut.size)}: {cut.why}" for cut in found.cut]
    if found.missing:
        more = f" and {len(found.missing) - 5} more" if len(found.missing) > 5 else ""
        lines.append(f"  not made yet: {', '.join(found.missing[:5])}{more}")
    return lines


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _new(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when all of it is written, and is removed on failure."""
    if out.exists() or out.is_symlink():
        raise ValueError(f"--out: {out} exists; accepted: a folder that does not")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)


def _grids(study: Study, root: Path, folder: Path, kinds: dict[str, str]) -> list[Cut]:
    """Draw a grid of each sample set whose images are on disk; returns those that are left out."""
    from PIL import Image

    from mar.features.image_sets import labels_of
    from mar.report.figures.samples import CLASSES, sample_grid
    from mar.study.records import SampleManifest

    cut = []
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            for setting in variant.sampling:
                key = layout.sample_set(name, seed, setting)
                place, metrics = layout.samples(root, key), layout.metrics(root, key)
                if not layout.sample_manifest(root, key).exists():
                    continue
                manifest = read(layout.sample_manifest(root, key), SampleManifest)
                if not all((place / chunk.file).exists() for chunk in manifest.chunks):
                    cut.append(Cut(what=f"grids/{key}.png", files=1, size=0, why="the images are not on disk"))
                    continue
                copied = read(metrics, MetricsFile).copied if metrics.exists() else None
                if not contents.shows_images(study.data) and copied and copied.value > COPIES:
                    why = f"{copied.value:.0%} of the samples are copies of training images, whose licence is not known"
                    cut.append(Cut(what=f"grids/{key}.png", files=1, size=0, why=why))
                    continue
                classes = min(int(labels_of(place, manifest).max()) + 1, CLASSES)
                picture, _ = sample_grid(root, name, seed, setting, classes)
                path = folder / "grids" / f"{key}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture).save(path)
                kinds[path.relative_to(folder).as_posix()] = "grid"
    return cut


def _finish(
    study: Study,
    folder: Path,
    kinds: dict[str, str],
    patterns: tuple[str, ...],
    cut: list[Cut],
    missing: list[str],
    joined: tuple[Joined, ...],
) -> None:
    """Write the workflow, the cards, the RO-Crate and, last, bundle.json."""
    sources = [path for pattern in WORKFLOW for path in sorted(project.path("workflow").glob(pattern))]
    for path in sources:
        name = f"workflow/{path.name}"
        _copy(path, folder / name)
        kinds[name] = "card"
    said = BundleRecord(
        study=study.study,
        title=study.title,
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        versions=versions(),
        sets=patterns,
        cut=tuple(cut),
        missing=tuple(missing),
        joined=joined,
        files=(),
        digest="0" * 64,
    )
    root = folder / layout.RESULTS / study.study
    for name, text in (("MODEL_CARD.md", cards.model(study, root)), ("DATA_CARD.md", cards.data(study, root, said))):
        (folder / name).write_text(text, encoding="utf-8")
        kinds[name] = "card"
    crate.write(study, folder, said, kinds)
    kinds[crate.METADATA] = "card"
    files = [
        Held(file=name, kind=kinds[name], size=(folder / name).stat().st_size, sha256=sha256(folder / name))
        for name in sorted(kinds)
    ]
    record.write(folder, record.sealed(said.model_copy(update={"files": tuple(files)})))


def versions() -> dict[str, str]:
    """Versions of what computes and draws, and a checksum of the claims and numbers of the paper."""
    digest = hashlib.sha256()
    for path in (layout.shipped("claims.yaml"), *sorted(layout.shipped("paper").glob("*.csv"))):
        digest.update(path.read_bytes())
    known = {name: version(name) for name in LIBRARIES}
    return {"mar": f"{__version__}, commit {git_commit()}", "python": platform.python_version(), **known} | {
        "claims and paper": digest.hexdigest()
    }
