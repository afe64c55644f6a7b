"""The stages before training, on real digits at a size of seconds."""

from pathlib import Path

from mar.study import real_sets
from mar.study.reading import resolve, write_resolved
from mar.study.study import Study

TOKENIZER = {"stride": 4, "channels": [8, 8, 8], "latent_channels": 4, "images": 128, "learning_rate": 1e-3}
VALUES = {
    "study": "pipeline",
    "data": {"kind": "digits", "image_size": 16},
    "tokenizers": {
        "kl": {"kind": "kl", "kl_weight": 1e-6, **TOKENIZER},
        "grouped": {"kind": "kl", "kl_weight": 1e-6, **TOKENIZER, "group": 2},
        "vq": {"kind": "vq", "codebook_size": 16, **TOKENIZER},
    },
    "backbones": {"masked": {"kind": "masked", "width": 16, "depth": 1, "heads": 2}},
    "heads": {"diffloss": {"kind": "diffusion", "width": 16, "depth": 1, "noise_draws": 1}},
    "recipes": {"short": {"images": 64, "batch": 64, "checkpoint_images": 64, "log_images": 64}},
    "sampling": {"plain": {"steps": 4, "diffusion_steps": 2}},
    "variants": {
        "mar": {"tokenizer": "kl", "order": "random", "backbone": "masked", "head": "diffloss", "recipe": "short"}
        | {"sampling": ["plain"]}
    },
    "classifier": {"channels": [8, 8], "features": 8, "images": 640},
    "metrics": {"samples": 60, "chunk": 30, "bootstrap": 10},
    "speed": {"batch": 4},
}


def study(**over: object) -> Study:
    """The study, with top-level sections replaced."""
    return resolve({**VALUES, **over}, "pipeline.yaml")


def root(folder: Path, of: Study) -> Path:
    """The folder of the study's results."""
    return write_resolved(of, folder).parent


def with_classifier(folder: Path, of: Study) -> Path:
    """A results folder with the prepared data and the trained classifier of a study."""
    from mar.data.prepare import prepare
    from mar.features.networks import classifier

    results = root(folder, of)
    prepare(of, results)
    classifier.train(of, results)
    return results


def real_side(of: Study, folder: Path) -> None:
    """Features and statistics of the real images that rFID compares with: the train split, or held-out ones."""
    from mar.features import features
    from mar.metrics import statistics

    for extractor in of.metrics.extractors:
        side = real_sets.real_side(of, extractor)
        features.features(of, folder, extractor, side)
        statistics.statistics(of, folder, extractor, side)
