"""Numbers that every study shares: how many images a metric takes at most, and seeds of what no study chooses."""

from __future__ import annotations

REAL = 10_000  # training images for precision and recall, as many as ADM's reference batch has
LOOKED_AT = 10**9  # bytes of training images that are searched for the nearest one; above this the search is left out
LEARNED = 1_000  # images of a split of which the loss is measured along a training
PAIRED = 2  # images of each class that zero-shot tasks take at least, to exchange what is drawn into them
AXES = 256  # principal axes of the bound by which the nearest image is looked for
REBUILT = 50_000  # images of a split that are rebuilt for rFID by default, as many as a sample set of the paper has
OWN_NETWORKS = (104_729, 104_730, 104_731)  # seed of each network of the perceptual term by `own`
