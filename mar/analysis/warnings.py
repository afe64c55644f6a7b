"""Warnings that a reader has to see before the numbers: the judge, a tokenizer or sample sets are poor.

None of them changes a verdict. The thresholds are explained in docs/evaluation.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from mar.analysis import code_changes
from mar.analysis.estimates import Results
from mar.analysis.result_files import short
from mar.runtime.files import read
from mar.runtime.folders import RECIPE, recipe_of
from mar.runtime.provenance import Provenance
from mar.study import labels, layout, widths
from mar.study.records import ClassifierRecord, RfidRecord, SampleManifest

ACCURACY = 0.75  # share of held-out images that the judge has to name rightly
DIMENSIONS = 0.75  # of the classes - 1 dimensions that tell classes apart, the share that the judge has to have
DEAD = 0.25  # share of the judge's features that may be dead
TOKENIZER_SHARE = 0.8  # share of the best FID that may be the tokenizer's, both less their floors
PRECISION = 0.1  # share of the samples that have to lie among real images
NAMED = 5  # sample sets or other results that one warning names, at most


@dataclass(frozen=True)
class Warning:
    """One warning.

    Attributes:
        about: what is poor.
        text: a sentence with the numbers.
    """

    about: Literal["judge", "tokenizer", "samples", "head", "training", "code", "versions"]
    text: str


def warnings(results: Results) -> list[Warning]:
    """The warnings of a study; what a finished study of an older version did not measure is passed over."""
    return [
        *_judge(results),
        *_tokenizers(results),
        *_samples(results),
        *(Warning("head", text) for text in widths.narrow(results.study)),
        *_trainings(results),
        *_code(results),
        *_versions(results),
    ]


def _versions(results: Results) -> list[Warning]:
    """Tables whose cells were trained, drawn or measured under different versions or on different devices."""
    found = []
    for name, table in results.study.tables.items():
        made: dict[str, set[str]] = {"trained": set(), "drawn": set(), "measured": set()}
        rows = [(row.variant, tuple(filter(None, (row.without, row.guided)))) for row in table.rows if row.variant]
        for variant, settings in rows:
            for seed in results.study.variants[variant].seeds:
                if not results.study.variants[variant].pretrained:
                    made["trained"].add(_under(results.run(variant, seed).provenance))
                for setting in settings:
                    manifest = layout.sample_manifest(results.root, layout.sample_set(variant, seed, setting))
                    if manifest.exists():
                        made["drawn"].add(_under(read(manifest, SampleManifest).provenance))
                    made["measured"].add(_under(results.metrics(variant, seed, setting).provenance))
        found += [
            f"The cells of table {name} were {how} under different versions or on different devices: "
            f"{'; '.join(sorted(under))}."
            for how, under in made.items()
            if len(under) > 1
        ]
    return [Warning("versions", text) for text in found]


def _under(made: Provenance) -> str:
    return f"Python {made.python}, torch {made.torch}, {made.device}"


def _code(results: Results) -> list[Warning]:
    """Results that other code than today's made, or several codes (`mar accept-code`)."""
    found: dict[str, list[str]] = {}
    for made in code_changes.made(results.study, results.root):
        if made.said:
            found.setdefault(made.said, []).append(made.name)
    texts = []
    for said, names in found.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        texts.append(f"Of {', '.join(names[:NAMED])}{more}: {said} (`mar status` lists all).")
    return [Warning("code", text) for text in texts]


def _trainings(results: Results) -> list[Warning]:
    """Trainings that began with a checkpoint of another recipe (`mar train --from`)."""
    found = []
    for name, variant in results.study.variants.items():
        for seed in variant.seeds:
            folder = layout.run(results.root, name, seed)
            recipe = recipe_of(folder) if (folder / RECIPE).exists() else {}
            if "from" in recipe:
                found.append(
                    f"{labels.label(results.study, name)}, seed {seed}: began with the weights of another recipe after "
                    f"{recipe['from_images']:,} images (`mar train --from`): its recipe trained the rest alone."
                )
    return [Warning("training", text) for text in found]


def _judge(results: Results) -> list[Warning]:
    """The study's own classifier: accuracy, effective dimension and dead features. Published networks are known."""
    if results.extractor != "classifier":
        return []
    found, record = [], None
    path = layout.classifier(results.root) / layout.CLASSIFIER
    if path.exists():
        record = read(path, ClassifierRecord)
        if record.accuracy < ACCURACY:
            found.append(
                f"The classifier, which judges, names {record.accuracy:.0%} of {record.count} held-out images rightly "
                f"(a fair judge: {ACCURACY:.0%} or more): train it longer."
            )
    if (spread := results.feature_spread.get("classifier")) is not None:
        if record and spread.effective < DIMENSIONS * (told := len(record.classes) - 1):
            found.append(
                f"The judge's features have an effective dimension of {short(spread.effective)}, below "
                f"{DIMENSIONS:.0%} of the {told} that tell {told + 1} classes apart: FID sees little of an image "
                "(classifier.layer: stages sees more)."
            )
        if spread.dead > DEAD * spread.features:
            found.append(
                f"Of the judge's {spread.features} features {spread.dead} do not vary: they judge nothing "
                "(classifier.layer: stages has none of these)."
            )
    return [Warning("judge", text) for text in found]


def _tokenizers(results: Results) -> list[Warning]:
    """Tokenizers that cost most of the best FID that is reached with them."""
    found = []
    study = results.study
    for tokenizer in dict.fromkeys(study.variants[variant].tokenizer for variant, _ in results.cells):
        names = [name for name, made in study.instances.items() if made.section == tokenizer]
        paths = [path for name in names if (path := layout.rfid(results.root, name)).exists()]
        lost = [metrics for path in paths if "floor" in (metrics := read(path, RfidRecord).metrics)]
        if not lost:
            continue
        cells = [cell for cell in results.cells if study.variants[cell[0]].tokenizer == tokenizer]
        best = min(e.value for cell in cells if (e := results.cell(*cell, "fid")) is not None)
        mean, floor = (fmean(metrics[key].value for metrics in lost) for key in ("rfid", "floor"))
        real = results.floor("fid")  # of fewer images than a sample set has it is too high to be taken off
        rfid, room = mean - floor, best - (real.value if real.n >= study.metrics.samples else 0.0)
        if rfid > TOKENIZER_SHARE * max(room, 0.0):
            found.append(
                f"Tokenizer {tokenizer} has an rFID of {short(mean)}, and the best FID with it is "
                f"{short(best)}: models that share it can hardly be told apart."
            )
    return [Warning("tokenizer", text) for text in found]


def _samples(results: Results) -> list[Warning]:
    """Sample sets of which hardly an image lies among the real ones."""
    if "precision" not in results.names:
        return []
    cells = {cell: e.value for cell in results.cells if (e := results.cell(*cell, "precision")) is not None}
    poor = [f"{labels.cell(results.study, *cell)} ({short(x)})" for cell, x in cells.items() if x < PRECISION]
    if not poor:
        return []
    more = f" and {len(poor) - NAMED} more" if len(poor) > NAMED else ""
    return [
        Warning(
            "samples",
            f"Precision is below {PRECISION:g} of {', '.join(poor[:NAMED])}{more}: hardly a sample lies among the real "
            "images, so these numbers compare failures.",
        )
    ]
