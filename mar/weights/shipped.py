"""Finished trainings that ship with the project: a tokenizer or classifier of equal recipe is not trained again.

config/shipped/ has one folder for each, whose name is a hash of its recipe: the values of the study on which the
training depends, and the checksum of its images (the recipe.json of the stage). So it is found by what it is, never by
a name: whoever changes the recipe or has other images trains. Beside the files of the stage, whose record says where
and by which commit it was trained, shipped.json has their checksums.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from mar.runtime.files import atomic, read, sha256, write
from mar.runtime.folders import RECIPE, claim, lock, recipe_of
from mar.study import layout
from mar.study.canonical import canonical
from mar.study.records import ShippedRecord

STORE = layout.shipped("shipped")


def place(recipe: Mapping[str, str | int]) -> Path:
    """The folder in the store of a training of this recipe."""
    return STORE / hashlib.sha256(canonical(dict(recipe)).encode()).hexdigest()[:16]


def ships(slice: str) -> bool:
    """Whether a training of this stage key ships, whatever its images are: they may not have been counted yet."""
    return any(recipe_of(file.parent).get("slice") == slice for file in STORE.glob(f"*/{layout.SHIPPED}"))


def take(folder: Path, recipe: Mapping[str, str | int], last: str) -> None:
    """Take a finished training from the store, if one of this recipe ships and the folder has none that is finished.

    Args:
        folder: the folder of the tokenizer or classifier.
        recipe: what its training depends on.
        last: name of the file that the training writes last.

    Raises:
        ValueError: a shipped file is missing or has another checksum than shipped.json says.
    """
    ours = place(recipe)
    if not (ours / layout.SHIPPED).exists():
        return
    with lock(folder):
        if (folder / last).exists() and recipe_of(folder) == recipe:
            return
        checked(ours)
        claim(folder, recipe, last, twin=ours)
        shutil.rmtree(folder / layout.CHECKPOINTS, ignore_errors=True)  # of a training that was stopped


def checked(ours: Path) -> ShippedRecord:
    """The record of a folder of the store, whose files it finds as they shipped.

    Raises:
        ValueError: a file is missing or has another checksum.
    """
    record = read(ours / layout.SHIPPED, ShippedRecord)
    for name, digest in record.files.items():
        found = sha256(ours / name) if (ours / name).exists() else "no file"
        if found != digest:
            raise ValueError(
                f"{ours / name}: found {found[:12]}, {layout.SHIPPED} beside it says {digest[:12]}; accepted: the file "
                f"as it shipped (`git checkout {ours}`), or no folder {ours}: then it is trained"
            )
    return record


def ship(folder: Path, last: str, quality: dict[str, float]) -> Path:
    """Put a finished training into the store, unless it was itself taken from there.

    Args:
        folder: the folder of the tokenizer or classifier.
        last: name of the file that its training writes last.
        quality: what was measured of it, for comparison with a later training.

    Returns:
        Its folder in the store.

    Raises:
        ValueError: the training is not finished.
    """
    if (folder / layout.SHIPPED).exists():
        return place(recipe_of(folder))
    names = (layout.WEIGHTS, layout.LOG, RECIPE, last)
    if missing := [name for name in names if not (folder / name).exists()]:
        raise ValueError(f"{folder / missing[0]}: missing; accepted: a finished training")
    ours = place(recipe_of(folder))
    ours.mkdir(parents=True, exist_ok=True)
    (ours / layout.SHIPPED).unlink(missing_ok=True)
    for name in names:
        with atomic(ours / name) as temporary:
            shutil.copyfile(folder / name, temporary)
    files = {name: sha256(ours / name) for name in names}
    write(ours / layout.SHIPPED, ShippedRecord(store=f"config/shipped/{ours.name}", files=files, quality=quality))
    return ours


def compare(folder: Path, quality: dict[str, float]) -> str:
    """Whether the weights of a finished training equal those that ship by its recipe, as a line of text.

    Args:
        folder: the folder of the tokenizer or classifier.
        quality: what was measured of it.

    Raises:
        ValueError: the training has not begun, or a shipped file has another checksum than shipped.json says.
    """
    ours = place(recipe_of(folder))
    if not (ours / layout.SHIPPED).exists():
        return f"{folder}: none ships by this recipe"
    record = checked(ours)
    if sha256(folder / layout.WEIGHTS) == record.files[layout.WEIGHTS]:
        return f"{folder}: the same weights ship in {record.store}"
    numbers = [f"{name} {value:.4g} there, {quality[name]:.4g} here" for name, value in record.quality.items()]
    return f"{folder}: other weights ship in {record.store}: {', '.join(numbers) or 'nothing was measured'}"
