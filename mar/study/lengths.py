"""What a study asks for of images that are counted after it is read: lengths in epochs, and enough of each class.

A study is read before `mar prepare` has counted its images, so `epochs` stays in the study and in the stage keys by
which the workflow plans. Every command counts when it opens the study: a recipe.json has the number of images, and so
have the curves. More images in the folder are another manifest of the data, after which all trainings run again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mar.runtime.files import read
from mar.study import layout
from mar.study.limits import PAIRED
from mar.study.mistakes import Mistake, MistakesError, of_validation, too_few
from mar.study.parts import Recipe, Tokenizer
from mar.study.records import DataManifest
from mar.study.sections import Classifier
from mar.study.study import Study

S = TypeVar("S", Recipe, Tokenizer, Classifier)


def has_epochs(study: Study) -> bool:
    """Whether any training has its length in epochs."""
    judge = [study.classifier] if study.classifier else []
    sections: list[Recipe | Tokenizer | Classifier] = [*study.recipes.values(), *study.tokenizers.values(), *judge]
    return any(section.epochs for section in sections)


def count(study: Study, train: int) -> Study:
    """The study with all lengths in images: epochs x training images, in whole batches, at most `images` where given.

    Args:
        study: the study as it was read.
        train: number of images of the train split.

    Raises:
        ValueError: a length does not fit the others of its section, as a warm-up that is longer than the training.
    """
    if not has_epochs(study):
        return study
    return study.model_copy(
        update={
            "recipes": {name: _count(f"recipes.{name}", part, train) for name, part in study.recipes.items()},
            "tokenizers": {name: _count(f"tokenizers.{name}", part, train) for name, part in study.tokenizers.items()},
            "classifier": _count("classifier", study.classifier, train) if study.classifier else None,
        }
    )


def count_prepared(study: Study, root: Path) -> Study:
    """The study with all lengths in images, where `mar prepare` has counted them; else as it is."""
    manifest = layout.data_manifest(root)
    if not has_epochs(study) or not manifest.exists():
        return study
    return count(study, read(manifest, DataManifest).splits["train"].count)


def check_images(study: Study, classes: int, train: int | None = None) -> None:
    """Refuse what a study asks for of more images, or of fewer classes, than there are.

    Args:
        study: the study.
        classes: number of classes of its images.
        train: number of training images; None where they are not counted yet.

    Raises:
        ValueError: image i of a set has class i mod classes, and some class would have none; or a training image has
            fewer neighbours than precision and recall look at.
    """
    asked: dict[tuple[str, ...], int] = {("metrics", "samples"): study.metrics.samples}
    if study.learning:
        asked["learning", "samples"] = study.learning.samples
    if study.tasks:
        asked["tasks", "samples"] = study.tasks.samples
    for name in dict.fromkeys(name for variant in study.variants.values() for name in variant.sampling):
        if sweep := study.sampling[name].sweep:
            asked["sampling", name, "sweep", "samples"] = sweep.samples
    wrong = []
    for key, n in asked.items():
        each = PAIRED if key[0] == "tasks" else 1
        if 0 < n < each * classes:
            wrong.append(Mistake((), f"{'.'.join(key)} {n}: {too_few(classes, each)}", key))
    if train is not None and 0 < train <= (k := study.metrics.neighbours):
        text = f"metrics.neighbours: found {k} of {train} training images; accepted: fewer than there are images"
        wrong.append(Mistake((), text, ("metrics", "neighbours")))
    if wrong:
        raise MistakesError(wrong)


def _count(where: str, section: S, train: int) -> S:
    if section.epochs is None:
        return section
    seen = max(1, round(section.epochs * train / section.batch)) * section.batch
    values = section.model_dump(exclude_unset=True) | {"images": min(seen, section.images or seen), "epochs": None}
    try:
        return type(section).model_validate(values)
    except ValidationError as error:
        found = f"{section.epochs:g} epochs of {train} images in batches of {section.batch}"
        raise ValueError(f"{where}: {of_validation(error, values)[0]} ({found})") from None
