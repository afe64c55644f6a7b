"""Names of the sets of real images, and what each of them serves.

`train` and `heldout` are the splits of the data; `reference` is Inception's published reference. The held-out images,
which no training sees, are shared among three disjoint parts (`mar.data.heldout`), each a set of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mar.study.study import Study

REFERENCE = "heldout-reference"  # what all metrics compare with, where metrics.real is `heldout`
FLOOR = "heldout-floor"  # real images that are scored as samples are: the floor, and what tokenizers reconstruct
VALIDATION = "heldout-validation"  # what curves of learning compare with; no final number sees these images
PARTS = (REFERENCE, FLOOR, VALIDATION)
COMPARED = ("train", "reference", REFERENCE)  # sets that others are compared with, and that are not judged themselves
SETS = ("train", "heldout", "reference", *PARTS)


def described(split: str) -> str:
    """A split of the data, or a part of the held-out one, in words: the name by which features know their images."""
    return f"the {split.removeprefix('heldout-')} part of the held-out images" if split in PARTS else f"{split} split"


def real_side(study: Study, extractor: str) -> str:
    """The set that an extractor compares with: by `metrics.real`, or Inception's reference."""
    if study.metrics.reference and extractor == "inception":
        return "reference"
    return REFERENCE if study.metrics.real == "heldout" else "train"


def scored(study: Study) -> str:
    """The held-out images that are scored as samples are: all, unless others of them are compared with."""
    return FLOOR if study.metrics.real == "heldout" else "heldout"


def validation(study: Study) -> str:
    """The held-out images that tell how a training goes on: all, unless final numbers compare with others of them."""
    return VALIDATION if study.metrics.real == "heldout" else "heldout"
