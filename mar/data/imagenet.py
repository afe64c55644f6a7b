"""Comparison of a folder with the known totals of ImageNet-1k."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

# ImageNet-1k (ILSVRC 2012), Russakovsky et al. 2015, table 2: images in all, fewest in a class, most in a class
CLASSES = 1000
TOTALS = {"train": (1_281_167, 732, 1300), "val": (50_000, 50, 50)}


def check(base: Path, found: dict[str, Any]) -> None:
    """Compare the files under base/train and base/val with the totals of ImageNet-1k.

    Every published model of ImageNet numbers the classes in the sorted order of their WordNet ids; folders of other
    names would get other numbers.

    Args:
        base: data.path of the study.
        found: for `train` and `val`, the classes, and the files as (path, class, bytes); see `mar.data.prepare`.

    Raises:
        ValueError: a half is missing, or the numbers of its classes or files are not those of ImageNet. The message
            names the classes of unusual size.
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
            unusual = sorted(
                (i for i in range(len(classes)) if not fewest <= counts[i] <= most), key=lambda i: counts[i]
            )
            usual = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            listed = first([f"{classes[i]} ({counts[i]})" for i in unusual])
            named = f"; not with {usual} images: {listed}" if unusual else ""
            faults.append(
                f"{half}/: found {len(classes):,} classes and {len(files):,} images; accepted: {CLASSES:,} "
                f"and {total:,}{named}"
            )
    if faults:
        raise ValueError(f"{where}: " + ". ".join(faults) + ". Without expect any tree is taken as it is")


def first(names: list[str], most: int = 5) -> str:
    """The first names in one line, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
