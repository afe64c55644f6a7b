"""Numbers of images that every study shares: what a metric looks at, at most."""

from __future__ import annotations

REAL = 10_000  # training images of precision and recall, as many as ADM's reference batch has
LOOKED_AT = 10**9  # bytes of training images among which the nearest is looked for; with more it is left out
REBUILT = 50_000  # images of a split that rFID rebuilds, as many as a sample set of the paper has
