"""Values of metrics: laws that hold whatever the images are. Parity is in tests/parity/test_metric_values.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mar.metrics import metrics, statistics


def test_weighted_statistics_are_those_of_the_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 5))
    counts = np.bincount(rng.integers(30, size=30), minlength=30)
    found, expected = statistics.weighted(rows, counts), statistics.of(np.repeat(rows, counts, axis=0))
    np.testing.assert_allclose(found["mu"], expected["mu"])
    np.testing.assert_allclose(found["sigma"], expected["sigma"])


def test_inception_score_of_few_images() -> None:
    assert metrics.inception_score(np.eye(4, dtype=np.float32)) == pytest.approx(1.0)  # one image a split


def test_nearest() -> None:
    rng = np.random.default_rng(0)
    train = torch.from_numpy(rng.integers(256, size=(40, 3, 8, 8), dtype=np.uint8))
    images = torch.stack([train[7], train[30], train[0] ^ 1])
    found = metrics.nearest(images, train.split(16))
    assert found[:2].tolist() == [0.0, 0.0]  # exact copies, found in any batch
    assert found[2] == pytest.approx(1 / 255)
