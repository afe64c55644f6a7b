"""`mar verify`: compute the numbers of a bundle again, from its features to its verdicts. Nothing in it is executed.

Each step is checked by itself, with the recorded results of the step before it: features to statistics, both to
metrics, metric files to tables, figures and verdicts. So what is wrong is named where it is wrong.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mar.bundle import contents, products, record
from mar.bundle.record import BundleRecord
from mar.bundle.write import versions
from mar.features.features import Features
from mar.metrics import evaluate, formulas, moments, statistics, timed
from mar.runtime.files import read, sha256
from mar.study import layout
from mar.study.products import swept
from mar.study.reading import load
from mar.study.real_sets import real_side, scored
from mar.study.records import (
    FeaturesManifest,
    Metric,
    MetricsFile,
    RunRecord,
    SampleManifest,
    SpeedRecord,
    SweepRecord,
    TokenManifest,
)
from mar.study.study import Study

SAME, ROUNDING, DIFFERENT, NOT = "same to the bit", "same within rounding", "DIFFERENT", "not recomputable"
OUTCOMES = (SAME, ROUNDING, DIFFERENT, NOT)
NEAR = 1e-5  # rounding: difference as a share of the number, or of the width of its interval where that is larger
DRAWING = ("matplotlib", "numpy", "pillow")  # libraries whose versions change the bytes of a figure
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


@dataclass(frozen=True)
class Check:
    """One number or file of a bundle, and how it compares with what is computed now.

    Attributes:
        file: its file in the bundle.
        number: its name in that file; empty for a file as a whole.
        outcome: one of OUTCOMES.
        why: what was found, or why it cannot be computed again.
    """

    file: str
    number: str
    outcome: str
    why: str = ""


def verify(folder: Path) -> tuple[list[str], bool]:
    """What `mar verify` prints, and whether the bundle is as it was made and says what follows from it.

    Raises:
        ValueError: the folder is no bundle, or bundle.json is damaged.
    """
    said = record.read(folder)
    lines = [f"{folder}: study {said.study}, {len(said.files)} files, made {said.time}, digest {said.digest}"]
    if wrong := list(record.damage(folder, said)):
        lines += [f"  damaged: {name}: {what}" for name, what in wrong]
        return [*lines, f"{len(wrong)} files are not as they were made; nothing was computed from them"], False
    lines.append("every file is as it was made: its size and SHA-256 are those in bundle.json")
    here = versions()
    if other := [f"{name} {text}, here {here[name]}" for name, text in said.versions.items() if here.get(name) != text]:
        lines.append(f"made under other versions: {'; '.join(other)}")
    found = list(checks(folder, said))
    lines += _told(found)
    counts = {outcome: sum(check.outcome == outcome for check in found) for outcome in OUTCOMES}
    lines.append(f"of {len(found)} numbers and files: {', '.join(f'{n} {outcome}' for outcome, n in counts.items())}")
    lines.append(f"rounding: at most {NEAR:g} of a number, or of the width of its interval")
    return lines, not counts[DIFFERENT]


def _told(found: list[Check]) -> list[str]:
    """A line for each file and outcome; one for all files that cannot be recomputed for the same reason."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for check in found:
        whole = check.outcome == NOT and not check.number
        key = ("" if whole else check.file, check.outcome, check.why)
        groups.setdefault(key, []).append(check.file if whole else check.number)
    lines = []
    for (file, outcome, why), names in groups.items():
        named = ", ".join(filter(None, names))
        said = f"{file}: {named}" if file and named else file or _some(names)
        lines.append(f"  {outcome:<20} {said}{f' ({why})' if why else ''}")
    return lines


def _some(files: list[str]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)} files, as {files[0]}"


def checks(folder: Path, said: BundleRecord) -> Iterator[Check]:
    """Every number and product of a sound bundle, computed again."""
    root = folder / layout.RESULTS / said.study
    if own := record.own_kinds(folder, said):
        why = f"the study needs code of its own, {', '.join(own[:3])}, and nothing in a bundle is executed"
        yield from (
            Check(one.file, "", NOT, why) for one in said.files if one.kind in ("statistics", "metrics", "product")
        )
        return
    study = load(layout.study(root))
    held = {one.file for one in said.files}
    yield from _chain(study, root)
    yield from _statistics(study, root)
    yield from _metrics(study, root)
    yield from _rules(study, root)
    yield from _products(study, folder, root, said)
    for name in sorted(held):
        if name.endswith(f"/{layout.RFID}") or name.endswith(f"/{layout.LEARNING}"):
            yield Check(name, "", NOT, "the features that it is of are not kept")
        elif name.endswith((f"/{layout.RECORD}", f"/{layout.LOG}", f"/{layout.CLASSIFIER}")):
            yield Check(name, "", NOT, "it tells of a training: neither weights nor images are in the bundle")
        elif name.startswith("grids/") or Path(name).stem in contents.REAL_IMAGES or name.endswith("report.html"):
            yield Check(name, "", NOT, "it shows images, which the bundle does not hold")


def _near(a: float, b: float, width: float = 0.0) -> str:
    """How a number of the bundle compares with the one that was computed now."""
    if a == b:
        return SAME
    return ROUNDING if abs(a - b) <= NEAR * max(abs(a), abs(b), width) else DIFFERENT


def _chain(study: Study, root: Path) -> Iterator[Check]:
    """The hash chain of each sample set: from its metrics to images, weights, tokens, tokenizer and data."""
    for name, variant in study.variants.items():
        for seed in variant.seeds:
            tokens = layout.token_manifest(root, study.tokenizer_of(name, seed))
            for setting in variant.sampling:
                key = layout.sample_set(name, seed, setting)
                place = layout.metrics(root, key)
                if not place.exists():
                    continue
                metrics = read(place, MetricsFile)
                links: list[tuple[str, str, str]] = []
                manifest, run = layout.sample_manifest(root, key), layout.run_record(root, name, seed)
                if manifest.exists():
                    drawn = read(manifest, SampleManifest)
                    links.append(("samples", metrics.inputs.get("samples", ""), sha256(manifest)))
                    links.append(("checkpoint of the samples", drawn.checkpoint, metrics.inputs.get("checkpoint", "")))
                    if tokens.exists():
                        links.append(
                            ("tokenizer of the samples", drawn.tokenizer, read(tokens, TokenManifest).tokenizer)
                        )
                if run.exists():
                    trained = read(run, RunRecord)
                    links.append(("checkpoint", metrics.inputs.get("checkpoint", ""), trained.checkpoint))
                    if tokens.exists():
                        links.append(("tokens", trained.tokens, sha256(tokens)))
                        if (data := layout.data_manifest(root)).exists():
                            links.append(("data", read(tokens, TokenManifest).data, sha256(data)))
                for extractor in study.metrics.extractors:
                    file = layout.features_manifest(root, extractor, key)
                    if file.exists():
                        links.append(
                            (f"features {extractor}", metrics.inputs.get(f"features {extractor}", ""), sha256(file))
                        )
                    real = layout.statistics(root, extractor, real_side(study, extractor))
                    if real.exists():
                        links.append((f"real {extractor}", metrics.inputs.get(f"real {extractor}", ""), sha256(real)))
                broken = [f"{what}: {a[:12]} and {b[:12]}" for what, a, b in links if a != b]
                outcome = DIFFERENT if broken else SAME
                yield Check(_name(root, place), "hash chain", outcome, "; ".join(broken))


def _name(root: Path, path: Path) -> str:
    return contents.in_bundle(root, path)


def _whole(root: Path, extractor: str, name: str) -> bool:
    """Whether all features of a set are in the bundle."""
    manifest = layout.features_manifest(root, extractor, name)
    if not manifest.exists():
        return False
    return all(manifest.with_name(part.file).exists() for part in read(manifest, FeaturesManifest).parts)


def _statistics(study: Study, root: Path) -> Iterator[Check]:
    """Mean and covariance of each set of images, from its features."""
    for extractor, name, has_statistics in contents.featured(study):
        path = layout.statistics(root, extractor, name)
        if not has_statistics or not path.exists():
            continue
        manifest = layout.features_manifest(root, extractor, name)
        if not _whole(root, extractor, name) or name == "reference":
            why = "published statistics" if name == "reference" else "its features are not in the bundle"
            yield Check(_name(root, path), "mean, covariance", NOT, why)
            continue
        values, about = statistics.read(root, extractor, name)
        again = statistics.streamed(Features(manifest.parent, read(manifest, FeaturesManifest)))
        if about.features != sha256(manifest) or again.keys() != values.keys():
            yield Check(_name(root, path), "mean, covariance", DIFFERENT, "it is of other features")
            continue
        for key, value in values.items():
            if np.array_equal(value, again[key]):
                outcome = SAME
            else:
                close = np.allclose(value, again[key], rtol=0, atol=NEAR * float(np.abs(value).max()))
                outcome = ROUNDING if close else DIFFERENT
            yield Check(_name(root, path), key, outcome)


def _metrics(study: Study, root: Path) -> Iterator[Check]:
    """Every metric with its interval: from features where the bundle has them, else FID from statistics alone."""
    names = ["reference"] if not study.data.unread else []
    for name in (*names, *contents.sample_sets(study)):
        path = layout.metrics(root, name)
        if not path.exists():
            continue
        place = scored(study) if name == "reference" else name
        found = read(path, MetricsFile)
        if all(_whole(root, extractor, place) for extractor in study.metrics.extractors):
            images = _whole(root, study.metrics.extractors[0], real_side(study, study.metrics.extractors[0]))
            again, copied = evaluate.again(study, root, name, images)
        else:
            yield from _from_statistics(study, root, path, name, found)
            continue
        for key, metric in found.metrics.items():
            if key in again:
                yield _compared(_name(root, path), key, metric, again[key])
            else:
                yield Check(_name(root, path), key, NOT, "the features of the real images are not in the bundle")
        if found.copied and copied:
            yield _compared(_name(root, path), "copied", found.copied, copied)
        if name == "reference":
            yield from _spread(study, root, path, found)


def _spread(study: Study, root: Path, path: Path, found: MetricsFile) -> Iterator[Check]:
    """How the features of the real images spread, from their statistics."""
    for extractor, spread in found.spread.items():
        again = moments.spread(statistics.read(root, extractor, real_side(study, extractor))[0])
        counted = (spread.features, spread.dead) == (again.features, again.dead)
        outcome = _near(spread.effective, again.effective) if counted else DIFFERENT
        yield Check(_name(root, path), f"spread of {extractor}", outcome)


def _compared(file: str, key: str, found: Metric, again: Metric) -> Check:
    width = found.high - found.low
    outcomes = [_near(getattr(found, end), getattr(again, end), width) for end in ("value", "low", "high")]
    worst = max(outcomes, key=OUTCOMES.index)
    if (found.n, found.bootstrap, found.seed) != (again.n, again.bootstrap, again.seed):
        worst = DIFFERENT
    said = f"found {found.value:.6g} [{found.low:.6g}, {found.high:.6g}], computed {again.value:.6g} "
    said += f"[{again.low:.6g}, {again.high:.6g}]"
    return Check(file, key, worst, said if worst == DIFFERENT else "")


def _from_statistics(study: Study, root: Path, path: Path, name: str, found: MetricsFile) -> Iterator[Check]:
    """Frechet distances from the statistics of both sides; nothing else follows from these."""
    main = study.metrics.extractors[0]
    keys = {main: "fid", **{extractor: f"fid_{extractor}" for extractor in study.metrics.extractors[1:]}}
    done = {}
    for extractor, key in keys.items():
        real = layout.statistics(root, extractor, real_side(study, extractor))
        if not real.exists() or not layout.statistics(root, extractor, name).exists():
            continue
        (ours, _), (theirs, _) = (
            statistics.read(root, extractor, side) for side in (name, real_side(study, extractor))
        )
        done[key] = formulas.frechet(ours, theirs, formulas.symmetric_root(theirs["sigma"]))
        if extractor == main and "sfid" in found.metrics and "mu_s" in ours and "mu_s" in theirs:
            a, b = ({"mu": side["mu_s"], "sigma": side["sigma_s"]} for side in (ours, theirs))
            done["sfid"] = formulas.frechet(a, b, formulas.symmetric_root(b["sigma"]))
    for key, metric in (found.metrics | ({"copied": found.copied} if found.copied else {})).items():
        if key in done:
            outcome = _near(metric.value, done[key], metric.high - metric.low)
            why = f"found {metric.value:.6g}, computed {done[key]:.6g}" if outcome == DIFFERENT else ""
            yield Check(_name(root, path), f"{key} without its interval", outcome, why)
        yield Check(
            _name(root, path),
            f"interval of {key}" if key in done else key,
            NOT,
            "its features are not in the bundle: statistics alone give neither intervals nor precision and recall",
        )


def _rules(study: Study, root: Path) -> Iterator[Check]:
    """What follows from numbers in the same file: the chosen point of a sweep, and the median of timed batches."""
    from mar.sampling import sweep

    for variant, setting in swept(study):
        path = layout.sweep(root, variant, setting)
        if not path.exists():
            continue
        found = read(path, SweepRecord)
        lowest = sweep.winner(list(found.grid))
        if found.rule == "one standard error" and lowest:
            best = sweep.plainest(sweep.within(list(found.grid), lowest)).place
            yield Check(_name(root, path), "chosen point", SAME if best == found.best else DIFFERENT)
        yield Check(_name(root, path), "FID of its points", NOT, "the features of the points are not kept")
    for name in study.variants:
        path = layout.speed(root, name)
        if not path.exists():
            continue
        for setting, point in read(path, SpeedRecord).points.items():
            if point.batches:
                again = timed.median(list(point.batches))
                outcomes = [
                    _near(a, b) for a, b in zip((point.seconds_per_image, point.low, point.high), again, strict=True)
                ]
                yield Check(_name(root, path), f"median of {setting}", max(outcomes, key=OUTCOMES.index))
        yield Check(_name(root, path), "seconds of the batches", NOT, "they were measured")


def _products(study: Study, folder: Path, root: Path, said: BundleRecord) -> Iterator[Check]:
    """Tables, figures and verdicts, made anew in another folder from the metric files of the bundle."""
    drawn_alike = all(said.versions.get(name) == text for name, text in versions().items() if name in DRAWING)
    expected = [one.file for one in said.files if one.kind == "product"]
    with tempfile.TemporaryDirectory(prefix="mar-verify-") as place:
        again = Path(place)
        copy = again / layout.RESULTS / said.study
        for one in said.files:
            if one.kind not in ("product", "grid", "card", "features") and one.file.startswith(f"{layout.RESULTS}/"):
                (again / one.file).parent.mkdir(parents=True, exist_ok=True)
                (again / one.file).symlink_to((folder / one.file).resolve())
        copy.mkdir(parents=True, exist_ok=True)
        failed = products.make(study, copy, again / layout.FIGURES / said.study)
        for file in expected:
            if Path(file).stem in contents.REAL_IMAGES or file.endswith("report.html"):
                continue
            if not (again / file).exists():
                key = "claims.json" if file.endswith("claims.json") else "/".join(Path(file).with_suffix("").parts[-2:])
                key = key if key in failed else f"figures/{Path(file).stem}"
                why = failed.get(key, "nothing here makes it").replace(f"{again}/", "")
                yield Check(file, "", NOT, why.split("; accepted:")[0])
                continue
            yield _same_product(file, (folder / file).read_bytes(), (again / file).read_bytes(), drawn_alike, said)


def _same_product(file: str, found: bytes, again: bytes, drawn_alike: bool, said: BundleRecord) -> Check:
    if found == again:
        return Check(file, "", SAME)
    if file.endswith((".png", ".pdf")):
        if drawn_alike:
            return Check(file, "", DIFFERENT, "its bytes differ under the same versions of what draws")
        there = ", ".join(f"{name} {said.versions.get(name, '?')}" for name in DRAWING)
        return Check(file, "", NOT, f"drawn by {there}, others than here; its numbers are in the csv beside it")
    one, other = found.decode(errors="replace"), again.decode(errors="replace")
    numbers = [[float(text) for text in NUMBER.findall(side)] for side in (one, other)]
    if NUMBER.sub("#", one) == NUMBER.sub("#", other) and len(numbers[0]) == len(numbers[1]):
        outcomes = [_near(a, b) for a, b in zip(*numbers, strict=True)]
        if DIFFERENT not in outcomes:
            return Check(file, "", ROUNDING)
    pairs = zip(one.splitlines(), [*other.splitlines(), ""], strict=False)
    line = next((f"found {a.strip()[:60]!r}, computed {b.strip()[:60]!r}" for a, b in pairs if a != b), "its length")
    return Check(file, "", DIFFERENT, line)
