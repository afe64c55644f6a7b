"""How the held-out images are shared: half are compared with, a quarter gives the floor, a quarter is for validation.

A number that is read off images must not have been chosen by them, and real images that are compared with themselves
score too well; hence three disjoint parts. The draw is by class, and depends on the labels alone, so that all studies
of a data set and all their runs share the images alike.
"""

from __future__ import annotations

import numpy as np

from mar.study.real_sets import FLOOR, PARTS, REFERENCE, VALIDATION

SEED = 2024  # as of the choice of the held-out images
DEALT = (REFERENCE, FLOOR, REFERENCE, VALIDATION)  # to which part the images of a class go, in turn


def rows_of(labels: np.ndarray, name: str) -> np.ndarray:
    """Ascending indices (n,) into the held-out split of the images of one part.

    Args:
        labels: class of each held-out image, int64 (N,).
        name: one of PARTS.

    Raises:
        ValueError: a class has so few held-out images that the part would have none of it.
    """
    assert name in PARTS, name
    rows = []
    for label in np.unique(labels):
        members = np.random.default_rng(SEED).permutation(np.flatnonzero(labels == label))
        turns = [i for i, to in enumerate(DEALT) if to == name]
        chosen = np.concatenate([members[i :: len(DEALT)] for i in turns])
        if not len(chosen):
            raise ValueError(
                f"{name}: class {label} has {len(members)} held-out images; accepted: {len(DEALT)} or more "
                "(data.holdout, data.set_aside), or metrics.real: train"
            )
        rows.append(chosen)
    return np.sort(np.concatenate(rows))
