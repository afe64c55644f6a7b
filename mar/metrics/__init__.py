"""Evaluation in three steps: images -> features -> statistics -> metrics. How many images each looks at, at most."""

REAL = 10_000  # training images of precision and recall, as many as ADM's reference batch has
LOOKED_AT = 10**9  # bytes of training images among which the nearest is looked for; with more it is left out
REBUILT = 50_000  # images of a split that rFID rebuilds, as many as a sample set of the paper has

# published networks that judge: names of their files in config/assets.csv
WEIGHTS = {"inception": "inception", "clean": "inception", "dinov2": "dinov2-vitl14"}
