"""`mar compare`: which numbers of two studies or bundles differ by more than their intervals, and what is not the same.

A cell is a metric of a variant at a sampling setting. It moved where the difference of both numbers is larger than the
root of the sum of the squares of both half-widths: the 95% interval of a difference of two independent numbers. Frechet
distances are compared on the log scale, as everywhere. What differs between both sides is told by kind; that it is the
cause is not proved.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import by_ratio
from mar.analysis.result_files import Estimate
from mar.bundle import record
from mar.runtime.code_digest import listed, of_folder
from mar.runtime.files import read
from mar.runtime.provenance import Provenance
from mar.study import labels, layout, stage_keys
from mar.study.reading import load
from mar.study.records import DataManifest, SampleManifest
from mar.study.study import Study

CAUSES = ("study", "code", "data", "judge", "versions", "seeds")  # kinds of difference, in the order of printing


@dataclass(frozen=True)
class Side:
    """One of both: a study, the folder of its results, and its numbers."""

    name: str
    study: Study
    root: Path
    results: Results


@dataclass(frozen=True)
class Moved:
    """A cell in both sides: its numbers, whether they differ beyond their intervals, and what is not the same."""

    label: str
    metric: str
    a: Estimate
    b: Estimate
    moved: bool
    causes: tuple[str, ...]


def side(place: str | Path, root: Path | None = None) -> Side:
    """One side, from the folder of a bundle, or from a study file with the folder of its results.

    Raises:
        ValueError: it is neither.
    """
    path = Path(place)
    if root is None:
        said = record.read(path)
        if own := record.own_kinds(path, said):
            raise ValueError(f"{path}: its study needs code of its own, {own[0]}; accepted: a bundle without")
        root = path / layout.RESULTS / said.study
        path = layout.study(root)
    study = load(path)
    return Side(str(place), study, root, Results(study, root))


def compare(a: Side, b: Side) -> list[str]:
    """What `mar compare` prints."""
    cells = [cell for cell in a.results.cells if cell in b.results.cells]
    alone = [(one, [cell for cell in one.results.cells if cell not in cells]) for one in (a, b)]
    lines = [f"A: {a.name}", f"B: {b.name}"]
    differences = dict[tuple[str, str], dict[str, str]]()
    found, silent = list[Moved](), list[str]()
    for cell in cells:
        try:
            said = differs(a, b, *cell)
            found += _moved(a, b, cell, tuple(said))
            differences[cell] = said
        except ValueError as error:  # one side has not measured it yet
            silent.append(str(error))
    moved = [one for one in found if one.moved]
    equal = sum(one.a.value == one.b.value for one in found)
    lines.append(
        f"{len(found)} numbers of {len(differences)} cells are in both: {len(moved)} moved beyond their intervals, "
        f"{len(found) - len(moved) - equal} differ within them, {equal} are the same"
    )
    lines += [f"{len(only)} cells are in {where.name} alone" for where, only in alone if only]
    lines += [f"not compared: {text}" for text in dict.fromkeys(silent)]
    groups: dict[tuple[str, ...], list[Moved]] = {}
    for one in moved:
        groups.setdefault(one.causes, []).append(one)
    for causes, members in groups.items():
        lines += ["", f"{len(members)} moved; not the same: {', '.join(causes) or 'nothing that is recorded'}"]
        lines += [f"  {one.label}, {one.metric}: {one.a} -> {one.b}" for one in members]
    told: dict[str, list[str]] = {}
    for cell, said in differences.items():
        for kind, text in said.items():
            told.setdefault(f"{kind}: {text}", []).append(labels.cell(a.study, *cell))
    if told:
        lines += ["", "what is not the same"]
        lines += [f"  {text} ({len(names)} cells)" for text, names in told.items()]
    return lines


def _moved(a: Side, b: Side, cell: tuple[str, str], causes: tuple[str, ...]) -> Iterator[Moved]:
    for metric in a.results.names:
        if metric not in b.results.names:
            continue
        one, other = (results.cell(*cell, metric) for results in (a.results, b.results))
        if one is not None and other is not None:
            label = labels.cell(a.study, *cell)
            yield Moved(label, metric, one, other, beyond(one, other, by_ratio(metric)), causes)


def beyond(a: Estimate, b: Estimate, ratio: bool) -> bool:
    """Whether two numbers differ by more than the interval of a difference of independent numbers."""

    def scaled(x: float) -> float:
        return math.log(max(x, 1e-12)) if ratio else x

    half = [(scaled(one.high) - scaled(one.low)) / 2 for one in (a, b)]
    return abs(scaled(a.value) - scaled(b.value)) > math.hypot(*half)


def differs(a: Side, b: Side, variant: str, setting: str) -> dict[str, str]:
    """What is not the same in how both sides made a cell, in words, by its kind of CAUSES."""
    found: dict[str, str] = {}
    keys = [_keys(one, variant, setting) for one in (a, b)]
    if changed := sorted(_changed(keys[0], keys[1])):
        found["study"] = ", ".join(changed)
    modules = [_modules(one, variant, setting) for one in (a, b)]
    shared = modules[0].keys() & modules[1].keys()
    if other := sorted(name for name in shared if modules[0][name] != modules[1][name]):
        found["code"] = listed(other)
    elif bool(modules[0]) != bool(modules[1]):
        found["code"] = f"recorded by {a.name if modules[0] else b.name} alone"
    data = [_data(one) for one in (a, b)]
    if data[0] != data[1]:
        found["data"] = " and ".join(data)
    judges = [{name: judge.weights for name, judge in one.results.extractors.items()} for one in (a, b)]
    if judges[0] != judges[1]:
        names = sorted(
            name for name in judges[0].keys() | judges[1].keys() if judges[0].get(name) != judges[1].get(name)
        )
        found["judge"] = f"weights of {', '.join(names)}"
    made = [_versions(one, variant, setting) for one in (a, b)]
    if made[0] != made[1]:
        only = [", ".join(sorted(made[i] - made[1 - i])) or "nothing else" for i in (0, 1)]
        found["versions"] = " and ".join(only)
    seeds = [(one.study.seed, one.study.variants[variant].seeds, one.study.sampling[setting].seed) for one in (a, b)]
    if seeds[0] != seeds[1]:
        words = ("seed of the study", "training seeds", "sampling seed")
        pairs = [f"{name} {x} and {y}" for name, x, y in zip(words, *seeds, strict=True) if x != y]
        found["seeds"] = ", ".join(pairs)
    return {kind: found[kind] for kind in CAUSES if kind in found}


def _keys(one: Side, variant: str, setting: str) -> dict[str, Any]:
    """The values of the study behind a cell, without its seeds, which are a kind of their own."""
    study = one.study
    seed = study.variants[variant].seeds[0]
    parts = {
        "training": stage_keys.train_key(study, variant, seed),
        "tokenizer": stage_keys.tokenizer_key(study, study.tokenizer_of(variant, seed)),
        "sampling": stage_keys.sample_key(study, variant, setting),
        "metrics": stage_keys.metrics_key(study),
    }
    values = {name: json.loads(text) for name, text in parts.items()}
    for part in values.values():
        part.pop("seed", None)
    values["sampling"]["sampling"].pop("seed", None)
    return values


def _changed(a: Any, b: Any, place: str = "") -> Iterator[str]:
    """Keys at which two trees of values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from _changed(a.get(key), b.get(key), f"{place}.{key}" if place else key)
    elif a != b:
        yield f"{place} {a} and {b}"


def _modules(one: Side, variant: str, setting: str) -> dict[str, str]:
    """Digest of each module that worked on a cell, over all its seeds; of several codes all."""
    found: dict[str, str] = {}
    for seed in one.study.variants[variant].seeds:
        folders = (
            layout.tokenizer(one.root, one.study.tokenizer_of(variant, seed)),
            layout.run(one.root, variant, seed),
            layout.samples(one.root, layout.sample_set(variant, seed, setting)),
        )
        for folder in folders:
            for state in code.states if (code := of_folder(folder)) else ():
                for name, digest in state.modules.items():
                    found[name] = digest if found.get(name, digest) == digest else f"{found[name]} {digest}"
    return found


def _data(one: Side) -> str:
    """The images that a study was made from, and those that it compares with."""
    path = layout.data_manifest(one.root)
    images = (manifest := read(path, DataManifest)).pixels or manifest.files if path.exists() else "none"
    return f"images {images[:12]}, compared with {one.results.reference.sha256[:12]}"


def _versions(one: Side, variant: str, setting: str) -> set[str]:
    """Versions and devices that a cell was made under."""
    found: set[Provenance] = set()
    for seed in one.study.variants[variant].seeds:
        found.add(one.results.run(variant, seed).provenance)
        manifest = layout.sample_manifest(one.root, layout.sample_set(variant, seed, setting))
        if manifest.exists():
            found.add(read(manifest, SampleManifest).provenance)
        found.add(one.results.metrics(variant, seed, setting).provenance)
    return {f"Python {made.python}, torch {made.torch}, {made.device} ({made.machine})" for made in found}
