"""`mar adopt`: results that another machine made, copied here by whatever means, are taken for what they are.

Snakemake tells what is up to date by times of change, which copies lose. So each result is held against the study
first: its recipe, the checksums of its inputs, and its files. All that match get one time of change, from which
nothing is older than what it was made from. What does not match keeps its time, so that the workflow makes it anew.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from mar.analysis import code_changes
from mar.bundle import contents, products
from mar.data import published
from mar.features import given as given_sets
from mar.metrics import real_images, statistics
from mar.runtime import folders
from mar.runtime.files import read
from mar.runtime.files import sha256 as checksum
from mar.runtime.folders import recipe_of
from mar.study import at_once, layout, stage_keys
from mar.study.chosen_settings import resolved
from mar.study.products import edited, figure_names, learned, speed_settings, swept, table_names, used_tokenizers
from mar.study.real_sets import PARTS, real_side, scored
from mar.study.records import (
    ClassifierRecord,
    DataManifest,
    FeaturesManifest,
    GateRecord,
    ImportRecord,
    LearningRecord,
    MetricsFile,
    Piece,
    RfidRecord,
    RunRecord,
    SampleManifest,
    ShippedRecord,
    SpeedRecord,
    SweepRecord,
    TasksRecord,
    TokenizerRecord,
    TokenManifest,
)
from mar.study.study import Study

# Keys of a recipe.json that say how a result began, or by how many images at once: no other result follows from them.
FREE = ("from", "from_images", "from_train", at_once.DRAWN, at_once.DECODED, at_once.ENCODED, at_once.LOOKED_AT)


@dataclass(frozen=True)
class Step:
    """One result of a study.

    Attributes:
        name: as it is printed.
        outputs: the files that the workflow knows it by.
        needs: names of the results that it was made from.
        matches: raises ValueError with the reason where it does not match the study; returns what else is to say.
    """

    name: str
    outputs: tuple[Path, ...]
    needs: tuple[str, ...]
    matches: Callable[[], str]


def adopt(study: Study, root: Path) -> list[str]:
    """Accept what matches, and say what does not and why; returns what to print.

    Args:
        study: the study, its lengths counted in images.
        root: the folder of its results here.

    Raises:
        ValueError: there are no results, or a workflow works on them.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: missing; accepted: the results of the study, copied there")
    folders.hold(layout.workflow_lock(root), "mar adopt or snakemake")
    given_sets.note_states(study, root)
    accepted: dict[str, Step] = {}
    refused: dict[str, str] = {}
    notes: list[str] = []
    for step in steps(study, root):
        absent = [path for path in step.outputs if not path.is_file()]
        bad = [name for name in step.needs if name not in accepted]
        try:
            if absent:
                raise ValueError(f"{absent[0]} is missing")
            if bad:
                raise ValueError(f"was made from {bad[0]}, which is not accepted")
            said = step.matches()
        except (ValueError, OSError) as error:
            refused[step.name] = str(error)
            continue
        accepted[step.name] = step
        notes += [f"  {step.name}: {said}"] if said else []
    moment = _moment()
    for step in accepted.values():
        for path in step.outputs:
            os.utime(path, (moment, moment))
    lines = [f"{root}: {len(accepted)} results match the study and are accepted, {len(refused)} are not"]
    lines += [f"  {name}: {why}" for name, why in refused.items()]
    lines += notes
    lines += [f"  made by other code: {line}" for line in code_changes.lines(study, root)]
    return lines


def _moment() -> float:
    """A time that no file of the project that the workflow reads is younger than."""
    places = [layout.shipped(), Path(folders.__file__).parents[1]]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    if layout.ASSETS.is_dir():
        files += [path for path in layout.ASSETS.rglob("*") if path.is_file()]
    return max(time.time(), *(path.stat().st_mtime for path in files))


def steps(study: Study, root: Path) -> Iterator[Step]:
    """Every result of a study, each after those that it was made from."""
    yield from _from_data(study, root)
    trained = [(name, variant) for name, variant in study.variants.items() if variant.seeds]
    for name, variant in trained:
        for seed in variant.seeds:
            yield _run(study, root, name, seed)
    for name, seed in learned(study):
        file, run = layout.learning(root, name, seed), f"runs/{layout.run_name(name, seed)}"
        yield Step(f"learning of {run}", (file,), (run,), partial(_learning, study, root, name, seed))
    for name, seed in edited(study):
        file, run = layout.tasks(root, name, seed), f"runs/{layout.run_name(name, seed)}"
        outputs = (file, file.with_name(layout.MEASURES))
        yield Step(f"tasks of {run}", outputs, (run,), partial(_tasks, study, root, name, seed))
    for name, setting in swept(study):
        first = f"runs/{layout.run_name(name, study.variants[name].seeds[0])}"
        judge = _statistics_name(study.metrics.extractors[0], real_side(study, study.metrics.extractors[0]))
        file = layout.sweep(root, name, setting)
        yield Step(f"sweeps/{name}/{setting}", (file,), (first, judge), partial(_sweep, study, root, name, setting))
    for name, variant in trained:
        for seed in variant.seeds:
            for setting in variant.sampling:
                yield from _sample_set(study, root, name, seed, setting)
    for name in study.given:
        key = layout.given_set(name)
        yield from _judged(study, root, key, ())
    for name, variant in trained:
        if speed_settings(study, name):
            run = f"runs/{layout.run_name(name, variant.seeds[0])}"
            yield Step(f"speed/{name}", (layout.speed(root, name),), (run,), partial(_speed, study, root, name))
    yield from _drawn(study, root)


def _recipe(folder: Path, expected: Mapping[str, str | int]) -> None:
    """Refuse a folder that another recipe made, or other inputs."""
    found = {key: value for key, value in recipe_of(folder).items() if key not in FREE}
    for key, value in expected.items():
        if found.get(key) != value:
            was, now = (str(one)[:300] for one in (found.get(key), value))
            raise ValueError(f"its recipe has another {key}: {was}; the study has {now}")


def _pieces(folder: Path, pieces: tuple[Piece, ...]) -> str:
    """Refuse a set with a damaged file; of one whose files were not copied say so."""
    here = [piece for piece in pieces if (folder / piece.file).exists()]
    for piece in here:
        if checksum(folder / piece.file) != piece.sha256:
            raise ValueError(f"{piece.file} differs from its checksum in the manifest")
    gone = len(pieces) - len(here)
    return f"{gone} of its {len(pieces)} files are not here: what needs them cannot be made" if gone else ""


def _statistics_name(extractor: str, name: str) -> str:
    return f"statistics/{extractor}/{name}"


def _from_data(study: Study, root: Path) -> Iterator[Step]:
    """Images, judge, real side, tokenizers and tokens."""

    def data() -> str:
        try:
            _recipe(layout.data(root), {"data": stage_keys.data_key(study)})
            read(layout.data_manifest(root), DataManifest)
        except ValueError as error:  # it is made from nothing that could be newer
            raise ValueError(f"{error}; delete {layout.data(root)}, so that the workflow makes it") from None
        return ""

    yield Step("data", (layout.data_manifest(root),), (), data)
    extractors, judged = study.metrics.extractors, not study.data.unread
    for network in (name for name in extractors if name != "classifier"):
        yield Step(f"weights of {network}", (), (), partial(_published, root, network))
    if "classifier" in extractors:
        folder = layout.classifier(root)
        outputs = (folder / layout.WEIGHTS, folder / layout.CLASSIFIER)
        yield Step("classifier", outputs, ("data",), partial(_classifier, study, root))
    for extractor in extractors:
        side = real_side(study, extractor)
        for name in dict.fromkeys((side, scored(study)) if judged else (side,)):
            yield _features(study, root, extractor, name, ())
        yield _statistics(root, extractor, side, "real")
    sides = tuple(_statistics_name(extractor, real_side(study, extractor)) for extractor in extractors)
    if judged:
        floors = tuple(f"features/{extractor}/{scored(study)}" for extractor in extractors)
        file = layout.reference_metrics(root)
        yield Step("metrics/reference", (file,), (*sides, *floors), partial(_reference, study, root))
    for name in used_tokenizers(study):
        folder = layout.tokenizer(root, name)
        outputs = (folder / layout.WEIGHTS, folder / layout.TOKENIZER)
        yield Step(f"tokenizers/{name}", outputs, ("data",), partial(_tokenizer, study, root, name))
        manifests = tuple(layout.token_manifest(root, name, split) for split in ("train", "heldout"))
        yield Step(f"tokens/{name}", manifests, (f"tokenizers/{name}",), partial(_tokens, study, root, name))
        if judged:
            needs = (f"tokenizers/{name}", sides[0])
            yield Step(f"rfid of {name}", (layout.rfid(root, name),), needs, partial(_rfid, study, root, name))
    if study.gate:
        yield Step("gate", (layout.gate(root),), (), partial(_gate, root))


def _gate(root: Path) -> str:
    read(layout.gate(root), GateRecord)
    return ""


def _published(root: Path, extractor: str) -> str:
    """Refuse nothing, but say where published weights are missing: the workflow would fetch them and judge again."""
    row = published.table(published.TABLE)[published.WEIGHTS[extractor]]
    places = published.places(row, layout.assets(root))
    if any(place.exists() for place in places):
        return ""
    return f"{places[0]} is missing; copy {layout.assets(root)} too, or the workflow fetches it and judges again"


def _classifier(study: Study, root: Path) -> str:
    folder = layout.classifier(root)
    data = checksum(layout.data_manifest(root))
    _recipe(folder, {"slice": stage_keys.classifier_key(study), "data": data})
    read(folder / layout.CLASSIFIER, ClassifierRecord)
    _shipped(folder)
    judged = layout.features_manifest(root, "classifier", real_side(study, "classifier"))
    if judged.exists():
        _used(folder, read(judged, FeaturesManifest).extractor.weights, "the network that judged the real images")
    return ""


def _used(folder: Path, digest: str, what: str) -> None:
    """Refuse weights that are not those that the results after them were made with: nothing else knows their checksum.

    Their stage would keep them, since it finds them there; so a user has to decide.
    """
    if checksum(folder / layout.WEIGHTS) != digest:
        raise ValueError(
            f"{layout.WEIGHTS} is not {what}: it is damaged, or of another training; copy it again, or delete {folder}"
        )


def _shipped(folder: Path) -> None:
    """Refuse files of a folder that was taken from config/shipped/ and changed since."""
    if (file := folder / layout.SHIPPED).exists():
        for name, digest in read(file, ShippedRecord).files.items():
            if checksum(folder / name) != digest:
                raise ValueError(f"{name} differs from its checksum in {layout.SHIPPED}")


def _tokenizer(study: Study, root: Path, name: str) -> str:
    folder, config = layout.tokenizer(root, name), study.instances[name].config
    read(folder / layout.TOKENIZER, TokenizerRecord)
    if config.pretrained:
        _imported(root, folder, config.weights or name, folder / layout.WEIGHTS, stage_keys.tokenizer_key(study, name))
        return ""
    data = checksum(layout.data_manifest(root))
    _recipe(folder, {"slice": stage_keys.tokenizer_key(study, name), "data": data})
    _shipped(folder)
    if (tokens := layout.token_manifest(root, name)).exists():
        _used(folder, read(tokens, TokenManifest).tokenizer, "the tokenizer that made the tokens")
    return ""


def _imported(root: Path, folder: Path, name: str, weights: Path, key: str, what: str = "slice") -> None:
    """Refuse weights that are not those of the import that the study names."""
    record = read(layout.import_record(layout.assets(root), name), ImportRecord)
    _recipe(folder, {what: key, "weights": record.sha256})
    if checksum(weights) != record.sha256:
        raise ValueError(f"{weights.name} differs from the import {name}")


def _tokens(study: Study, root: Path, name: str) -> str:
    said = ""
    expected = {
        "slice": stage_keys.tokenizer_key(study, name),
        "data": checksum(layout.data_manifest(root)),
        "tokenizer": checksum(layout.tokenizer_weights(root, name)),
    }
    for split in ("train", "heldout"):
        folder = layout.tokens(root, name, split)
        _recipe(folder, expected)
        manifest = read(folder / layout.MANIFEST, TokenManifest)
        said = said or _pieces(folder, manifest.shards)
        if (labels := folder / layout.LABELS).exists() and checksum(labels) != manifest.labels_sha256:
            raise ValueError(f"{split}/{layout.LABELS} differs from its checksum in the manifest")
    return said


def _rfid(study: Study, root: Path, name: str) -> str:
    inputs = read(layout.rfid(root, name), RfidRecord).inputs
    real = real_images.real(study, root, study.metrics.extractors[0], images=False)
    expected = {
        "reference": real.identity.sha256,
        "extractor": real.extractor.weights,
        "tokenizer": checksum(layout.tokenizer_weights(root, name)),
        "slice": stage_keys.rfid_key(study),
    }
    for key, value in expected.items():
        if getattr(inputs, key) != value:
            raise ValueError(f"it was measured with another {key}")
    return ""


def _source(root: Path, name: str) -> str:
    """Checksum that names a set of images in the recipe of its features; empty where only its images tell it."""
    if name in ("train", "heldout"):
        return checksum(layout.data_manifest(root))
    if name == "reference" or name in PARTS or name.startswith(f"{layout.GIVEN}/"):
        return ""
    return checksum(layout.sample_manifest(root, name))


def _features(study: Study, root: Path, extractor: str, name: str, needs: tuple[str, ...]) -> Step:
    folder = layout.features(root, extractor, name)

    def matches() -> str:
        manifest = read(folder / layout.MANIFEST, FeaturesManifest)
        expected = {"slice": stage_keys.features_key(study, extractor), "weights": manifest.extractor.weights}
        if source := _source(root, name):
            expected["source"] = source
        _recipe(folder, expected)
        if extractor == "classifier" and manifest.extractor.weights != checksum(
            layout.classifier(root) / layout.WEIGHTS
        ):
            raise ValueError("they are by another classifier")
        return _pieces(folder, manifest.parts)

    judge = ("classifier",) if extractor == "classifier" else ()
    return Step(f"features/{extractor}/{name}", (folder / layout.MANIFEST,), ("data", *judge, *needs), matches)


def _statistics(root: Path, extractor: str, name: str, role: str) -> Step:
    def matches() -> str:
        _, about = statistics.read(root, extractor, name)
        if about.features != checksum(layout.features_manifest(root, extractor, name)):
            raise ValueError("they are of other features")
        if about.role != role:
            raise ValueError(f"they are of {about.role} images; accepted: {role}")
        return ""

    file = layout.statistics(root, extractor, name)
    return Step(_statistics_name(extractor, name), (file,), (f"features/{extractor}/{name}",), matches)


def _reference(study: Study, root: Path) -> str:
    inputs: dict[str, str] = {
        e: checksum(layout.features_manifest(root, e, scored(study))) for e in study.metrics.extractors
    }
    _measured(study, root, layout.reference_metrics(root), stage_keys.reference_key(study), inputs)
    return ""


def _measured(study: Study, root: Path, file: Path, key: str, inputs: Mapping[str, str]) -> None:
    """Refuse a metric file of another recipe or of other inputs."""
    recipe = read(file, MetricsFile).recipe
    if recipe.slice != key:
        raise ValueError(f"its recipe is {recipe.slice[:300]}; the study has {key[:300]}")
    sides = {e: checksum(layout.statistics(root, e, real_side(study, e))) for e in study.metrics.extractors}
    for name, digest in {**inputs, **{f"real {e}": side for e, side in sides.items()}}.items():
        if recipe.inputs.get(name) != digest:
            raise ValueError(f"it was computed from another {name}")


def _run(study: Study, root: Path, variant: str, seed: int) -> Step:
    folder, tokenizer = layout.run(root, variant, seed), study.tokenizer_of(variant, seed)
    weights, key = folder / layout.AVERAGE, stage_keys.train_key(study, variant, seed)

    def matches() -> str:
        run = read(folder / layout.RECORD, RunRecord)
        section = study.variants[variant]
        tokens = checksum(layout.token_manifest(root, tokenizer))
        if section.pretrained:
            _imported(root, folder, section.weights or variant, weights, key, "train")
        else:
            _recipe(folder, {"train": key, "tokens": tokens})
        if run.tokens != tokens:
            raise ValueError("it was trained on other tokens")
        if run.checkpoint != checksum(weights):
            raise ValueError(f"{weights.name} differs from its checksum in {layout.RECORD}")
        for images, digest in run.averages.items():
            kept = layout.kept_average(folder, int(images))
            if not kept.exists() or checksum(kept) != digest:
                raise ValueError(f"{kept.name} is missing or differs from its checksum in {layout.RECORD}")
        return ""

    outputs = (weights, folder / layout.RECORD)
    return Step(f"runs/{layout.run_name(variant, seed)}", outputs, (f"tokens/{tokenizer}",), matches)


def _learning(study: Study, root: Path, variant: str, seed: int) -> str:
    record = read(layout.learning(root, variant, seed), LearningRecord)
    recipe = record.recipe
    if recipe.slice != stage_keys.learning_key(study, variant):
        raise ValueError("its recipe is another one than the study's")
    if record.pictures and record.pictures != checksum(layout.pictures(root, variant, seed)):
        raise ValueError(f"{layout.PICTURES} is missing or not the one that it names")
    if recipe.inputs.get("checkpoint") != read(layout.run_record(root, variant, seed), RunRecord).checkpoint:
        raise ValueError("it was measured with other weights")
    return ""


def _tasks(study: Study, root: Path, variant: str, seed: int) -> str:
    file = layout.tasks(root, variant, seed)
    record = read(file, TasksRecord)
    if record.slice != stage_keys.tasks_key(study, variant):
        raise ValueError("its recipe is another one than the study's")
    if recipe_of(file.parent).get("checkpoint") != read(layout.run_record(root, variant, seed), RunRecord).checkpoint:
        raise ValueError("it was drawn with other weights")
    if record.measures != checksum(file.with_name(layout.MEASURES)):
        raise ValueError(f"{layout.MEASURES} differs from its checksum in {layout.TASKS}")
    return ""


def _sweep(study: Study, root: Path, variant: str, setting: str) -> str:
    resolved(study, root, variant, setting)  # refuses another key and other weights
    recipe = read(layout.sweep(root, variant, setting), SweepRecord).recipe
    main, seed = study.metrics.extractors[0], study.variants[variant].seeds[0]
    expected = {
        "tokens": checksum(layout.token_manifest(root, study.tokenizer_of(variant, seed))),
        "real": checksum(layout.statistics(root, main, real_side(study, main))),
    }
    for key, value in expected.items():
        if getattr(recipe, key) != value:
            raise ValueError(f"it was measured with other {key}")
    return ""


def _sample_set(study: Study, root: Path, variant: str, seed: int, setting: str) -> Iterator[Step]:
    """The images of a sample set, and what they are judged by."""
    key, folder = (
        layout.sample_set(variant, seed, setting),
        layout.samples(root, layout.sample_set(variant, seed, setting)),
    )
    tokenizer = study.tokenizer_of(variant, seed)

    def matches() -> str:
        used = resolved(study, root, variant, setting)
        expected = {
            "sample": stage_keys.sample_key(study, variant, setting, used),
            "checkpoint": read(layout.run_record(root, variant, seed), RunRecord).checkpoint,
            "tokens": checksum(layout.token_manifest(root, tokenizer)),
        }
        manifest = read(folder / layout.MANIFEST, SampleManifest)
        if used.reject and study.rejecter and not study.rejecter.weights:
            expected["rejecter"] = checksum(layout.rejecter(root) / layout.WEIGHTS)
        elif manifest.rejection:
            expected["rejecter"] = manifest.rejection.weights
        _recipe(folder, expected)
        if manifest.tokenizer != checksum(layout.tokenizer_weights(root, tokenizer)):
            raise ValueError("it was decoded by another tokenizer")
        labels = folder / layout.LABELS
        if labels.exists() and manifest.labels_sha256 and checksum(labels) != manifest.labels_sha256:
            raise ValueError(f"{layout.LABELS} differs from its checksum in the manifest")
        return _pieces(folder, manifest.chunks)

    needs: tuple[str, ...] = (f"runs/{layout.run_name(variant, seed)}",)
    needs += (f"sweeps/{variant}/{setting}",) if study.sampling[setting].sweep else ()
    yield Step(f"samples/{key}", (folder / layout.MANIFEST,), needs, matches)
    yield from _judged(study, root, key, (f"samples/{key}",))


def _judged(study: Study, root: Path, key: str, needs: tuple[str, ...]) -> Iterator[Step]:
    """Features, statistics and metrics of a sample set, of ours or given."""
    extractors = study.metrics.extractors
    for extractor in extractors:
        yield _features(study, root, extractor, key, needs)
        yield _statistics(root, extractor, key, "generated")

    def matches() -> str:
        inputs = {f"features {e}": checksum(layout.features_manifest(root, e, key)) for e in extractors}
        if needs:
            inputs["samples"] = checksum(layout.sample_manifest(root, key))
        _measured(study, root, layout.metrics(root, key), stage_keys.metrics_key(study), inputs)
        return ""

    sides = [_statistics_name(e, name) for e in extractors for name in (key, real_side(study, e))]
    yield Step(f"metrics/{key}", (layout.metrics(root, key),), tuple(sides), matches)


def _speed(study: Study, root: Path, variant: str) -> str:
    record = read(layout.speed(root, variant), SpeedRecord)
    if record.recipe.speed != stage_keys.speed_key(study, variant):
        raise ValueError("its recipe is another one than the study's")
    if (
        record.checkpoint
        != read(layout.run_record(root, variant, study.variants[variant].seeds[0]), RunRecord).checkpoint
    ):
        raise ValueError("it was timed with other weights")
    protocol = record.protocol
    return f"timed on {protocol.machine}, {protocol.device}"


def _drawn(study: Study, root: Path) -> Iterator[Step]:
    """Tables, figures, verdicts and the page: accepted where the same is drawn here from the accepted numbers."""
    measured = [f"metrics/{key}" for key in contents.sample_sets(study)]
    measured += ["metrics/reference"] if not study.data.unread else []
    needs = tuple(measured)
    again = cache(partial(_redrawn, study, root))

    def matches(*files: Path) -> str:
        different = again()
        for file in files:
            if why := different.get(contents.in_bundle(root, file)):
                raise ValueError(why)
        return ""

    for name in table_names(study):
        files = tuple(layout.table(root, name, suffix) for suffix in layout.TABLE_FORMATS)
        yield Step(f"tables/{name}", files, needs, partial(matches, *files))
    if study.data.unread:
        return
    yield Step("claims", (layout.claims(root),), needs, partial(matches, layout.claims(root)))
    for name in figure_names(study):
        files = tuple(layout.figure(root, name, suffix) for suffix in layout.FIGURE_FORMATS)
        yield Step(f"figures/{name}", files, needs, partial(matches, files[-1]))
        copies = tuple(layout.FIGURES / file.name for file in files)
        if all(copy.is_file() for copy in copies):  # the figures of the study that ran last, whichever that was
            yield Step(f"figures/{name}, copied", copies, (f"figures/{name}",), partial(_copies, files, copies))
    shown = (*(f"tables/{n}" for n in table_names(study)), *(f"figures/{n}" for n in figure_names(study)), "claims")
    yield Step("mlflow", (layout.tracked(root),), (), lambda: "")
    yield Step("report", (layout.report(root),), (*shown, "mlflow"), lambda: "")


def _copies(files: tuple[Path, ...], copies: tuple[Path, ...]) -> str:
    for file, copy in zip(files, copies, strict=True):
        if file.read_bytes() != copy.read_bytes():
            raise ValueError(f"{copy} is of another study")
    return ""


def _redrawn(study: Study, root: Path) -> dict[str, str]:
    """Tables, numbers of figures and verdicts that are drawn otherwise here, and how, by their paths in a bundle."""
    different = {}
    with tempfile.TemporaryDirectory(prefix="mar-adopt-") as place:
        again = Path(place)
        copy = again / layout.RESULTS / root.name
        copy.mkdir(parents=True)
        for entry in root.iterdir():
            if entry.name not in ("tables", layout.claims(root).name):
                (copy / entry.name).symlink_to(entry.resolve())
        failed = products.make(study, copy, again / layout.FIGURES / root.name)
        drawn = {path: root / path.relative_to(copy) for path in (*copy.glob("tables/*"), layout.claims(copy))}
        figures = again / layout.FIGURES / root.name
        drawn |= {path: layout.figures(root) / path.name for path in figures.glob("*.csv")}
        for path, here in drawn.items():
            if path.exists() and here.exists() and here.read_bytes() != path.read_bytes():
                why = "it says something else than what is drawn here from the accepted numbers"
                different[contents.in_bundle(root, here)] = why
    for name, why in failed.items():
        kind, _, stem = name.partition("/")
        files = {"tables": [layout.table(root, stem, suffix) for suffix in layout.TABLE_FORMATS]}
        files |= {"figures": [layout.figure(root, stem, "csv")], "claims.json": [layout.claims(root)]}
        different.update({contents.in_bundle(root, file): why for file in files[kind]})
    return different
