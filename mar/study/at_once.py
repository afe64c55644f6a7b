"""How many images go through a network at once: a rule of each model, or what the study's section `memory` says.

It is no matter of the device, so that the same study gives the same images everywhere, and apart from the chunk that
names the random numbers: they are drawn for the chunk, of which each group takes its own. Groups of another size give
equal images up to rounding. So the size is recorded, and a set that is begun keeps the one that it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mar.study.parts import Sampling, Tokenizer
from mar.study.study import Study

BATCH = 250  # images that are encoded, or rebuilt for rFID, from one batch
CACHE = 48 * 2**30  # bytes of keys and values of the images that a model with a cache draws at once, at most
WIDEST = 3 * 10**9  # numbers of a tokenizer's widest layer, of all images at once, at most
JUDGED = {"classifier": 250, "inception": 32, "clean": 32, "dinov2": 16}  # images that a network judges at once
DRAWN, DECODED, ENCODED, LOOKED_AT = (
    "drawn at once",
    "decoded at once",
    "encoded at once",
    "judged at once",
)  # in recipes


def groups(count: int, most: int) -> int:
    """Images in each of the fewest equal groups of `count` images that have at most `most`; the last may be smaller."""
    return math.ceil(count / math.ceil(count / most))


def drawn(study: Study, variant: str, settings: Sampling, count: int) -> int:
    """Images of `count` that a variant draws at once."""
    backbone, tokens = study.backbones[study.variants[variant].backbone], study.variants[variant].tokenizer
    most = study.memory.sampling
    if most is None and settings.kv_cache:
        numbers = 2 * backbone.blocks * study.tokens(tokens) * backbone.width * (1 if settings.guidance == 1.0 else 2)
        most = max(1, CACHE // (numbers * (4 if settings.dtype == "fp32" else 2)))
    return groups(count, most or count)


def decoded(study: Study, tokenizer: str, count: int) -> int:
    """Images of `count` that a tokenizer, by its section, decodes at once."""
    return groups(count, study.memory.decode or _most(study.tokenizers[tokenizer], study))


def encoded(study: Study, tokenizer: str, count: int) -> int:
    """Images of `count` that a tokenizer, by its section, encodes at once."""
    return groups(count, study.memory.encode or _most(study.tokenizers[tokenizer], study))


def judged(study: Study | None, extractor: str) -> int:
    """Images that an extractor judges at once."""
    return (study.memory.features if study else None) or JUDGED[extractor]


def _most(config: Tokenizer, study: Study) -> int:
    """Images of which the widest layer, at the resolution of the images after the stem, has no more than WIDEST."""
    return max(1, WIDEST // (config.widest * (study.data.image_size // config.folded) ** 2))


def of_samples(study: Study, variant: str, settings: Sampling) -> dict[str, int]:
    """What the recipe of a sample set or sweep says of it: nothing where a whole chunk is drawn and decoded at once."""
    chunk = study.metrics.chunk
    sizes = {
        DRAWN: drawn(study, variant, settings, chunk),
        DECODED: decoded(study, study.variants[variant].tokenizer, chunk),
    }
    return {key: size for key, size in sizes.items() if size != chunk}


def of_tokens(study: Study, tokenizer: str) -> dict[str, int]:
    """What the recipe of encoded images says of it: nothing where a whole batch is encoded at once."""
    size = encoded(study, tokenizer, BATCH)
    return {} if size == BATCH else {ENCODED: size}


def of_features(study: Study, extractor: str) -> dict[str, int]:
    """What the recipe of features says of it: nothing where the network's own number is judged at once."""
    size = judged(study, extractor)
    return {} if size == JUDGED[extractor] else {LOOKED_AT: size}


def as_begun(study: Study, recipe: Mapping[str, str | int]) -> Study:
    """The study with the sizes that a recipe of samples says, whatever its section `memory` has."""
    chunk = study.metrics.chunk
    sizes = {"sampling": int(recipe.get(DRAWN, chunk)), "decode": int(recipe.get(DECODED, chunk))}
    return study.model_copy(update={"memory": study.memory.model_copy(update=sizes)})
