"""Intervals: what one image weighs, resamples within classes, and coverage by simulation."""

from __future__ import annotations

import time

import numpy as np
import pytest

from mar.metrics import influence, metrics, statistics
from mar.metrics.bootstrap import Bootstrap


def gaussian(seed: int, n: int, features: int, shift: float) -> tuple[np.ndarray, statistics.Statistics, float]:
    """Draws (n, F) of a Gaussian, the statistics of another with a spectrum that falls as 1/i, and their true FID."""
    rng = np.random.default_rng(seed)
    variances = features / np.arange(1.0, features + 1.0)
    scale = np.linspace(1 - shift, 1 + shift, features)
    mean = np.full(features, shift / features**0.5)
    rows = mean + scale * np.sqrt(variances) * rng.normal(size=(n, features))
    real = {"mu": np.zeros(features), "sigma": np.diag(variances)}
    return rows, real, float(mean @ mean + variances @ (scale - 1) ** 2)


@pytest.mark.parametrize(("n", "features"), [(40, 10), (20, 30), (12, 11), (5, 64)])
def test_influence_is_what_fid_loses_without_the_image(n: int, features: int) -> None:
    rows, real, _ = gaussian(0, n, features, 0.4)
    value, moves = influence.fid(rows, real)
    without = np.array([metrics.fid(statistics.of(np.delete(rows, i, axis=0)), real) for i in range(n)])
    rounding = 1e-9 if n > features else 1e-7  # of the roots of eigenvalues that are 0
    assert value == pytest.approx(metrics.fid(statistics.of(rows), real), rel=rounding)
    np.testing.assert_allclose(moves, (n - 1) * (without.mean() - without), atol=1e-6 * np.abs(moves).max())
    assert moves.sum() == pytest.approx(0.0, abs=1e-9 * np.abs(moves).sum())


def test_influence_of_many_images_is_the_derivative() -> None:
    n = 4000
    rows, real, _ = gaussian(1, n, 6, 0.3)
    value, moves = influence.fid(rows, real)
    step = 1e-5
    for i in (0, 7, int(moves.argmax())):
        counts = np.full(n, 1.0 - step)  # as much weight as before, a little of it moved to image i
        counts[i] += n * step
        mean = counts @ rows / n
        centred = (rows - mean) * np.sqrt(counts)[:, None]
        moved = metrics.fid({"mu": mean, "sigma": centred.T @ centred / (n - 1)}, real)
        assert (moved - value) / step == pytest.approx(moves[i], abs=0.02 * moves.std())


def test_influence_of_images_that_are_all_alike_in_features() -> None:
    _, moves = influence.fid(np.ones((5, 3)), {"mu": np.zeros(3), "sigma": np.eye(3)})
    np.testing.assert_allclose(moves, 0.0, atol=1e-9)
    with pytest.raises(ValueError, match="FID of 2 images has no interval; accepted: at least 3"):
        influence.fid(np.ones((2, 3)), {"mu": np.zeros(3), "sigma": np.eye(3)})


def test_intervals_hold_the_value_and_narrow_with_n() -> None:
    rng = np.random.default_rng(0)
    real = statistics.of(rng.normal(size=(2000, 8)).astype(np.float32))
    widths = []
    for n in (200, 2000):
        rows = rng.normal(size=(n, 8)).astype(np.float32)
        metric = Bootstrap(np.zeros(n, int), 100, seed=0).fid(rows, real)
        assert metric["low"] < metric["value"] < metric["high"]
        assert metric["value"] == pytest.approx(metrics.fid(statistics.of(rows), real))
        assert (metric["n"], metric["bootstrap"], metric["seed"], metric["higher_is_better"]) == (n, 100, 0, False)
        widths.append(metric["high"] - metric["low"])
    assert widths[1] < 0.5 * widths[0]


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    metric = Bootstrap(np.zeros(1000, int), 400, seed=1).mean(values, higher_is_better=None)
    error = values.std() / 1000**0.5
    assert metric["value"] == pytest.approx(values.mean())
    assert metric["high"] - metric["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_precision_and_recall_intervals() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 4)).astype(np.float32)
    generated = (0.6 * rng.normal(size=(200, 4))).astype(np.float32)
    precision, recall = Bootstrap(np.zeros(200, int), 50, seed=0).precision_recall(generated, real, 3)
    assert (precision["value"], recall["value"]) == pytest.approx(metrics.precision_recall(generated, real, 3))
    assert precision["value"] > recall["value"]
    for metric in (precision, recall):
        assert 0.0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1.0


def test_bootstrap_of_the_studies_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    rows, logits = rng.normal(size=(1000, 64)).astype(np.float32), rng.normal(size=(1000, 10)).astype(np.float32)
    start = time.process_time()
    draw = Bootstrap(np.zeros(1000, int), 200, seed=0)
    draw.fid(rows, statistics.of(rows))
    draw.inception_score(logits)
    draw.precision_recall(rows, rows, 3)
    assert time.process_time() - start < 20.0  # about 2 seconds of one core


def test_bootstrap_keeps_the_classes_balanced() -> None:
    labels = np.arange(60) % 3
    draw = Bootstrap(labels, 20, seed=0)
    assert draw.counts.shape == (20, 60) and len({tuple(row) for row in draw.counts}) == 20
    for label in range(3):
        assert (draw.counts[:, labels == label].sum(axis=1) == 20).all()
    share = draw.mean(labels == 1, higher_is_better=None)
    # what the design fixes has no interval
    assert [share[key] for key in ("low", "high")] == pytest.approx([share["value"]] * 2, abs=1e-12)
