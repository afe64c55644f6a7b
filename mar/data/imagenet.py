"""What ImageNet-1k is known to hold, against what a folder holds."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

# ImageNet-1k (ILSVRC 2012), Russakovsky et al. 2015, table 2: images, and the fewest and most in a class
CLASSES = 1000
TOTALS = {"train": (1_281_167, 732, 1300), "val": (50_000, 50, 50)}


def check(base: Path, found: dict[str, Any]) -> None:
    """Compare what was found under base/train and base/val with the totals of ImageNet-1k.

    Classes are numbered in the sorted order of their WordNet ids, as in every published model of ImageNet; folders
    of other names would get other numbers.

    Args:
        found: of `_scan`, by half: classes, and files as (path, class, bytes).

    Raises:
        ValueError: a half is missing, or its classes or files are not those totals; the message says what was found,
            what is expected and which classes stand out.
    """
    where = f"data.path {base} with expect: imagenet"
    if set(found) != set(TOTALS):
        raise ValueError(
            f"{where}: has no train/ and val/; accepted: both, each with a folder for each class (the official "
            "archive of val is flat: sort its files by the list in its development kit)"
        )
    faults = []
    for half, (total, fewest, most) in TOTALS.items():
        classes, files = found[half]["classes"], found[half]["files"]
        names = [name for name in classes if not re.fullmatch(r"n\d{8}", name)]
        if names:
            faults.append(f"{half}/: {len(names)} folders are no WordNet ids (n and 8 digits): {first(names)}")
        if (len(classes), len(files)) != (CLASSES, total):
            counts = Counter(label for _, label, _ in files)
            odd = sorted((i for i in range(len(classes)) if not fewest <= counts[i] <= most), key=lambda i: counts[i])
            usual = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            told = f"; not with {usual} images: {first([f'{classes[i]} ({counts[i]})' for i in odd])}" if odd else ""
            faults.append(
                f"{half}/: found {len(classes):,} classes and {len(files):,} images; accepted: {CLASSES:,} "
                f"and {total:,}{told}"
            )
    if faults:
        raise ValueError(f"{where}: " + ". ".join(faults) + ". Without expect any tree is taken as it is")


def first(names: list[str], most: int = 5) -> str:
    """Some names to show, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
