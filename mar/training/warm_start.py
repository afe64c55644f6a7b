"""A training that begins with the checkpoint of another recipe, as after a loss that is not finite; it is recorded.

recipe.json of the training then has, beside what it depends on, the checksum of that checkpoint, the images that it had
seen and the recipe that it was trained by. The report warns of it. The same command without `--from` goes on with it.
"""

from __future__ import annotations

import json
from pathlib import Path

from mar.runtime import checkpoint
from mar.runtime.files import atomic, link, sha256, write
from mar.runtime.folders import RECIPE, claim, recipe_of
from mar.study import layout
from mar.study.parts import Recipe

KEYS = ("from", "from_images", "from_train")  # in recipe.json: checksum, images seen, stage key of the other training
# What another recipe may not change: torch takes these from the checkpoint, or they are counted in the images seen.
FIXED = ("betas", "weight_decay", "batch", "masks_per_image")


def recorded(folder: Path, recipe: dict[str, str]) -> dict[str, str | int]:
    """How the training in a folder began, if it is one of this recipe that began warm; else nothing."""
    if not (folder / RECIPE).exists():
        return {}
    found = recipe_of(folder)
    start = {key: found[key] for key in KEYS if key in found}
    return start if found == recipe | start else {}


def begin(start: Path, folder: Path, recipe: dict[str, str], of: Recipe) -> dict[str, str | int]:
    """Make the newest intact checkpoint of `start` the first one of the training in `folder`, unless it is already.

    Call it under the lock of `folder`.

    Args:
        start: folder of a training of the same architecture and tokens.
        folder: folder of this training.
        recipe: what this training depends on.
        of: its recipe in the study.

    Returns:
        What recipe.json says of the start.

    Raises:
        ValueError: `start` is no such training, has no intact checkpoint, or is the folder of this training.
    """
    if folder.exists() and start.exists() and folder.samefile(start):
        aside = folder.with_name(f"{folder.name}.before")
        raise ValueError(f"--from {start}: is this training; accepted: another folder, as after mv {folder} {aside}")
    path = checkpoint.newest(start / layout.CHECKPOINTS)
    if path is None:
        raise ValueError(f"--from {start}: holds no checkpoint; accepted: the folder of a training, as runs/mar/seed0")
    images = next(entry.images for entry in checkpoint.checkpoints(path.parent) if entry.file == path.name)
    theirs = recipe_of(start)
    _check(start, theirs, recipe, of, images)
    warm: dict[str, str | int] = {**recipe, "from": sha256(path), "from_images": images}
    warm["from_train"] = str(theirs["train"])
    claim(folder, warm)
    mine = folder / layout.CHECKPOINTS
    if not checkpoint.checkpoints(mine):
        with atomic(mine / path.name) as temporary:
            link(path, temporary)
        entry = checkpoint.Checkpoint(file=path.name, images=images, sha256=str(warm["from"]))
        write(mine / checkpoint.INDEX, checkpoint.Index((entry,)))
        print(f"{folder}: begins with {path}, trained by another recipe on {images} images", flush=True)
    return {key: warm[key] for key in KEYS}


def _check(start: Path, theirs: dict[str, str | int], recipe: dict[str, str], of: Recipe, images: int) -> None:
    """Refuse a training from which this one cannot go on."""
    if theirs.get("tokens") != recipe["tokens"]:
        raise ValueError(f"--from {start}: was trained on other tokens; accepted: a training on those of this study")
    before, now = (json.loads(str(key)) for key in (theirs.get("train", "{}"), recipe["train"]))
    old = before.pop("recipe", {})
    if {key: value for key, value in before.items() if key != "seed"} != {
        key: value for key, value in now.items() if key not in ("seed", "recipe")
    }:
        raise ValueError(f"--from {start}: is of another order, backbone or head; accepted: the same architecture")
    try:
        section = Recipe.model_validate(old)
    except ValueError as error:
        raise ValueError(
            f"--from {start}: its recipe cannot be read ({error}); accepted: one of this version"
        ) from None
    if changed := [key for key in FIXED if getattr(section, key) != getattr(of, key)]:
        raise ValueError(
            f"--from {start}: {changed[0]} was {getattr(section, changed[0])}, now {getattr(of, changed[0])}; "
            f"accepted: the same {', '.join(FIXED)}"
        )
    if images >= of.images:
        raise ValueError(f"--from {start}: has seen {images} images; accepted: fewer than the recipe's {of.images}")
