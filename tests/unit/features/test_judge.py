"""Whether the classifier's features see blur, exchanged patches and missing grey levels, and those of old do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pipeline
import pytest
import torch

from benchmarks import judge
from mar.data import idx
from mar.data.images import open_split
from mar.features.networks import classifier
from mar.metrics import moments
from mar.study.reading import StudyError


def climbed(folder: Path, ladders: dict[str, tuple[float, ...]], count: int, **over: object) -> tuple[dict, dict]:  # type: ignore[type-arg]
    study = pipeline.study(**over)
    root = pipeline.with_classifier(folder, study)
    train, heldout = open_split(study, root, "train"), open_split(study, root, "heldout")
    rows = judge.some(heldout, count)
    real = train.arrays(judge.some(train, 2 * count))
    return judge.climb(classifier.load(root, study), real, heldout.arrays(rows), heldout.labels[rows], ladders)


def test_distortions_of_digits(tmp_path: Path) -> None:
    ladders = {"blur": (0.6, 0.7, 0.8, 1.0), "patches": (0.4, 0.8), "grey": (3, 2)}
    network = {"channels": [16, 16, 16], "features": 64, "images": 16000}
    data = {"kind": "digits", "image_size": 16, "holdout": 0.5}
    found, spreads = climbed(tmp_path, ladders, 900, data=data, classifier=network)
    assert all(judge.rises(found["stages", name]) for name in ladders)
    assert not judge.rises(found["before-logits", "blur"])
    old, new = spreads["before-logits"], spreads["stages"]
    assert new.features == 4 * (16 + 16) and new.dead == 0 and new.effective > 1.5 * old.effective


@pytest.mark.skipif(not idx.DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_distortions_of_photographs(tmp_path: Path) -> None:
    """With images enough the new features tell every rung; one patch in ten images exchanged, the old ones do not."""
    network = {"channels": [32, 48, 64], "features": 64, "images": 24000}
    data = {"kind": "fashion-mnist", "image_size": 32}
    found, spreads = climbed(tmp_path, judge.LADDERS, 5000, data=data, classifier=network)
    assert all(judge.rises(found["stages", name]) for name in judge.LADDERS)
    assert not judge.rises(found["before-logits", "patches"])
    assert spreads["stages"].effective > 1.5 * spreads["before-logits"].effective


def test_the_stages_are_pooled_and_the_weights_do_not_depend_on_the_layer() -> None:
    study = pipeline.study(classifier={"channels": [8, 12, 16, 8], "features": 8, "images": 64, "layer": "stages"})
    network = classifier.Classifier(classifier.section(study), 10)
    images = torch.rand(5, 3, 32, 32) * 2 - 1
    features, logits = network(images)
    assert features.shape == (5, 4 * (12 + 16)) and logits.shape == (5, 10)
    second = network.body[:6](images)  # three layers a stage: (5, 12, 8, 8)
    assert torch.allclose(features[:, :4], second[:, 0].reshape(5, 2, 4, 2, 4).mean((2, 4)).flatten(1))
    network.layer = "before-logits"
    before, same = network(images)
    assert before.shape == (5, 8) and torch.equal(logits, same) and torch.equal(logits, network.logits(before))
    with pytest.raises(
        StudyError, match=r"classifier: layer stages with channels \[8, 8\]: takes the second and the th"
    ):
        pipeline.study(classifier={"channels": [8, 8], "images": 64, "layer": "stages"})


def test_effective_dimension_and_dead_features() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, 6))
    assert moments.spread(moments.of(rows)).effective == pytest.approx(6, abs=0.05)
    rows[:, 1:3] = rows[:, :1]  # three features vary as one, and one not at all: 5^2 / (3^2 + 1 + 1)
    rows[:, 5] = 7.0 + 1e-5 * rows[:, 5]
    spread = moments.spread(moments.of(rows))
    assert spread.effective == pytest.approx(25 / 11, abs=0.05) and (spread.dead, spread.features) == (1, 6)
    assert moments.spread(moments.of(np.ones((3, 2)))).effective == 0.0
