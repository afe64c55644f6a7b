"""Intervals: what one image weighs, resamples within classes, and coverage by simulation."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from mar.metrics import fid_infinity, formulas, jackknife, moments
from mar.metrics.bootstrap import Bootstrap, Metric, dealt


def gaussian(seed: int, n: int, features: int, shift: float) -> tuple[np.ndarray, moments.Statistics, float]:
    """Draws (n, F) of a Gaussian, the statistics of another with a spectrum that falls as 1/i, and their true FID."""
    rng = np.random.default_rng(seed)
    variances = features / np.arange(1.0, features + 1.0)
    scale = np.linspace(1 - shift, 1 + shift, features)
    mean = np.full(features, shift / features**0.5)
    rows = mean + scale * np.sqrt(variances) * rng.normal(size=(n, features))
    real = {"mu": np.zeros(features), "sigma": np.diag(variances)}
    return rows, real, float(mean @ mean + variances @ (scale - 1) ** 2)


def test_fid_of_a_set_against_itself_is_not_negative() -> None:
    rng = np.random.default_rng(0)
    for images, features in ((50, 16), (16, 50)):
        values = [jackknife.fid(rows, moments.of(rows))[0] for rows in rng.normal(0, 30, (20, images, features))]
        assert min(values) == 0.0 and max(values) < 1e-8


@pytest.mark.parametrize(("n", "fall"), [(255, 0.03), (120, 0.03), (255, 0.05)])
def test_fid_of_few_images_has_its_small_directions(n: int, fall: float) -> None:
    """Where variances fall steeply; tr sqrt(R S1 R) is the sum of the singular values of the images times R."""
    deviations = np.exp(-fall * np.arange(256))
    rows = deviations * np.random.default_rng(0).normal(size=(n, 256))
    real = {"mu": np.zeros(256), "sigma": np.diag(deviations**2)}
    mean = rows.mean(0)
    roots = np.linalg.svd((rows - mean) / (n - 1) ** 0.5 * deviations, compute_uv=False).sum()
    expected = mean @ mean + rows.var(0, ddof=1).sum() + (deviations**2).sum() - 2.0 * roots
    assert jackknife.fid(rows, real)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "features", "copied"), [(40, 10, 0), (20, 30, 0), (12, 11, 0), (5, 64, 0), (9, 32, 3)])
def test_influence_is_what_fid_loses_without_the_image(n: int, features: int, copied: int) -> None:
    rows, real, _ = gaussian(0, n, features, 0.4)
    rows[:copied] = rows[n - copied :]
    value, moves = jackknife.fid(rows, real)
    without = np.array([formulas.fid(moments.of(np.delete(rows, i, axis=0)), real) for i in range(n)])
    rounding = 1e-9 if n > features else 1e-7  # of the roots of eigenvalues that are 0
    assert value == pytest.approx(formulas.fid(moments.of(rows), real), rel=rounding)
    np.testing.assert_allclose(moves, (n - 1) * (without.mean() - without), atol=1e-6 * np.abs(moves).max())
    assert moves.sum() == pytest.approx(0.0, abs=1e-9 * np.abs(moves).sum())


def test_influence_of_many_images_is_the_derivative() -> None:
    n = 4000
    rows, real, _ = gaussian(1, n, 6, 0.3)
    value, moves = jackknife.fid(rows, real)
    step = 1e-5
    for i in (0, 7, int(moves.argmax())):
        counts = np.full(n, 1.0 - step)  # as much weight as before, a little of it moved to image i
        counts[i] += n * step
        mean = counts @ rows / n
        centred = (rows - mean) * np.sqrt(counts)[:, None]
        moved = formulas.fid({"mu": mean, "sigma": centred.T @ centred / (n - 1)}, real)
        assert (moved - value) / step == pytest.approx(moves[i], abs=0.02 * moves.std())


def test_influence_of_images_that_are_all_alike_in_features() -> None:
    _, moves = jackknife.fid(np.ones((5, 3)), {"mu": np.zeros(3), "sigma": np.eye(3)})
    np.testing.assert_allclose(moves, 0.0, atol=1e-9)
    with pytest.raises(ValueError, match="FID of 2 images has no interval; accepted: at least 3"):
        jackknife.fid(np.ones((2, 3)), {"mu": np.zeros(3), "sigma": np.eye(3)})


def test_influence_on_the_inception_score_is_what_it_loses_without_the_image() -> None:
    logits = 2.0 * np.random.default_rng(0).normal(size=(64, 7))
    moves = jackknife.inception_score(logits)
    assert moves.sum() == pytest.approx(0.0, abs=1e-9)
    for rows in formulas.shuffled_splits(64):
        without = np.array([formulas.split_score(logits[np.delete(rows, i)]) for i in range(len(rows))])
        np.testing.assert_allclose(moves[rows], (len(rows) - 1) * (without.mean() - without), rtol=1e-9)


def test_influence_on_kid_is_what_it_loses_without_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    generated, real = rng.normal(size=(300, 5)) + 0.3, rng.normal(size=(200, 5))

    def whole(x: np.ndarray) -> float:
        """Unbiased, of all images at once, whatever their numbers."""
        within = [formulas.kernel(z, z).sum() - formulas.kernel_diagonal(z).sum() for z in (x, real)]
        pairs = [len(z) * (len(z) - 1) for z in (x, real)]
        return within[0] / pairs[0] + within[1] / pairs[1] - 2.0 * formulas.kernel(x, real).mean()

    without = np.array([whole(np.delete(generated, i, axis=0)) for i in range(300)])
    exact, moves = 299 * (without.mean() - without), jackknife.kid(generated, real, seed=0)
    assert moves.sum() == pytest.approx(0.0, abs=1e-9 * np.abs(moves).sum())
    np.testing.assert_allclose(moves, exact, atol=1e-9 * exact.std())
    monkeypatch.setattr(jackknife, "WITNESSES", 150)
    assert np.corrcoef(jackknife.kid(generated, real, seed=0), exact)[0, 1] > 0.97


def test_interval_of_fid_agrees_with_that_of_repeated_rows() -> None:
    rows, real, _ = gaussian(0, 2000, 32, 0.3)
    draw = Bootstrap(np.zeros(2000, int), 200, seed=0)
    found = draw.fid(rows, real)
    repeated = [formulas.fid(moments.of(np.repeat(rows, c.astype(int), axis=0)), real) for c in draw.counts]
    low, high = found.value + np.percentile(repeated, [2.5, 97.5]) - np.mean(repeated)
    width = high - low
    assert found.high - found.low == pytest.approx(width, rel=0.15)
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.1 * width)
    assert np.corrcoef(draw.counts @ jackknife.fid(rows, real)[1], repeated)[0, 1] > 0.97  # resample by resample


REAL = np.random.default_rng(1000).normal(size=(400, 6))


def features(seed: int) -> np.ndarray:
    return 0.8 * np.random.default_rng(seed).normal(size=(250, 6)) + 0.1


def logits(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(250, 10)) + 4.0 * np.eye(10)[rng.integers(10, size=250)]


@pytest.mark.parametrize(
    "metric",
    [
        lambda seed: draws(1000).fid(*gaussian(seed, 1000, 24, 0.3)[:2]),
        lambda seed: draws(1000).fid(*gaussian(seed, 1000, 24, 0.0)[:2]),  # at the floor
        lambda seed: draws(100).fid(*gaussian(seed, 100, 128, 0.3)[:2]),  # fewer images than features
        lambda seed: draws(250).inception_score(logits(seed)),
        lambda seed: draws(250).share(formulas.inside(features(seed), REAL, 3), True),
        lambda seed: draws(120).precision_recall(features(seed)[:120], REAL, 3)[1],
        lambda seed: draws(120).kid(features(seed)[:120], REAL),
    ],
    ids=["fid", "fid of no difference", "fid of few images", "inception score", "precision", "recall", "kid"],
)
def test_intervals_cover(metric: Callable[[int], Metric]) -> None:
    """Over 100 fresh sets the mean at this number of images is covered, by intervals as wide as the values spread.

    Percentiles of 200 resamples cover 93% to 97% here (400 sets); 0.88 is 2.5 standard errors of 100 below 94%.
    """
    found = [metric(seed) for seed in range(100)]
    values = np.array([m.value for m in found])
    covered = np.mean([m.low <= values.mean() <= m.high for m in found])
    wide = np.mean([m.high - m.low for m in found]) / (2 * 1.96 * values.std(ddof=1))
    assert covered >= 0.88
    assert 0.8 < wide < 1.6  # the jackknife is too wide rather than too narrow; most at the floor of FID


def draws(n: int) -> Bootstrap:
    return Bootstrap(np.arange(n) % 10, 200, seed=0)


@pytest.mark.parametrize("shift", [0.3, 0.1, 0.0])
def test_fid_of_infinitely_many_images_is_nearer_the_truth_and_covers_it(shift: float) -> None:
    values, finite, covered = [], [], []
    for seed in range(60):
        rows, real, truth = gaussian(seed, 1000, 64, shift)
        draw = draws(1000)
        metric = draw.fid_infinity(rows, real)
        assert metric is not None and metric.n == 1000
        values.append(metric.value)
        finite.append(draw.fid(rows, real).value)
        covered.append(metric.low <= truth <= metric.high)
    nearer = np.abs(np.array(values) - truth) < np.abs(np.array(finite) - truth)
    assert nearer.mean() > 0.9  # not where the images happen to make up for the bias
    assert abs(np.mean(values) - truth) < 0.1 * abs(np.mean(finite) - truth)
    assert np.mean(covered) >= 0.88


def test_line_of_the_extrapolation_and_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted least squares by the textbook: a part of n/k images has the variance k^2; its moves are taken off."""
    sizes = [103, 52, 51, 35, 34, 34, 26, 26, 26, 25]
    parts = np.array([1, 2, 2, 3, 3, 3, 4, 4, 4, 4])
    noise = np.random.default_rng(0).normal(size=10)
    seen = iter(noise)
    monkeypatch.setattr(moments, "of", len)
    monkeypatch.setattr(formulas, "frechet", lambda generated, real, root: 5.0 + 300.0 / generated + next(seen))
    moves = np.random.default_rng(1).normal(size=103)
    order = np.random.default_rng(2).permutation(103)
    found = fid_infinity.fid(np.zeros((103, 2)), order, {"sigma": np.eye(2)}, moves)

    taken_off = [moves[order[k::n]].mean() for n in (1, 2, 3, 4) for k in range(n)]
    values = 5.0 + 300.0 / np.array(sizes) + noise - taken_off
    design = np.stack([np.ones(10), 1.0 / np.array(sizes)], axis=1)
    inverse = np.linalg.inv(design.T @ (design / parts[:, None] ** 2))
    solution = inverse @ design.T @ (values / parts**2)
    variance = (((values - design @ solution) / parts) ** 2).sum() / 8
    assert found == pytest.approx((solution[0], np.sqrt(variance * inverse[0, 0])), rel=1e-6)


def test_extrapolation_needs_images_enough() -> None:
    rows, real, _ = gaussian(0, 250, 32, 0.3)
    assert draws(250).fid_infinity(rows, real) is None
    assert draws(256).fid_infinity(*gaussian(0, 256, 32, 0.3)[:2]) is not None


def test_parts_have_equal_classes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([3, 5, 9], [40, 40, 20]))
    order = dealt(labels, np.random.default_rng(1))
    assert sorted(order) == list(range(100))
    for part in range(4):
        assert np.unique(labels[order[part::4]], return_counts=True)[1].tolist() == [10, 10, 5]
    assert (order != dealt(labels, np.random.default_rng(2))).any()


def test_a_number_does_not_depend_on_what_was_asked_before() -> None:
    draw, again = draws(250), draws(250)
    draw.kid(features(0), REAL)
    draw.precision_recall(features(0), REAL, 3)
    assert draw.precision_recall(features(1), REAL, 3) == again.precision_recall(features(1), REAL, 3)
    assert draw.kid(features(1), REAL) == again.kid(features(1), REAL)


def test_share_of_all_or_none() -> None:
    draw = draws(100)
    all_, none = draw.share(np.ones(100, bool), True), draw.share(np.zeros(100, bool), True)
    assert [getattr(all_, k) for k in ("low", "value", "high")] == pytest.approx([0.025**0.01, 1.0, 1.0])
    assert [getattr(none, k) for k in ("low", "value", "high")] == pytest.approx([0.0, 0.0, 1 - 0.025**0.01])
    half = np.arange(100) < 50
    assert draw.share(half, True) == draw.mean(half, True)


def test_intervals_hold_the_value_and_narrow_with_n() -> None:
    rng = np.random.default_rng(0)
    real = moments.of(rng.normal(size=(2000, 8)).astype(np.float32))
    widths = []
    for n in (200, 2000):
        rows = rng.normal(size=(n, 8)).astype(np.float32)
        metric = Bootstrap(np.zeros(n, int), 100, seed=0).fid(rows, real)
        assert metric.low < metric.value < metric.high
        assert metric.value == pytest.approx(formulas.fid(moments.of(rows), real))
        assert (metric.n, metric.bootstrap, metric.seed, metric.higher_is_better) == (n, 100, 0, False)
        widths.append(metric.high - metric.low)
    assert widths[1] < 0.5 * widths[0]


def test_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    metric = Bootstrap(np.zeros(1000, int), 400, seed=1).mean(values, higher_is_better=None)
    error = values.std() / 1000**0.5
    assert metric.value == pytest.approx(values.mean())
    assert metric.high - metric.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_precision_and_recall_intervals() -> None:
    rng = np.random.default_rng(0)
    real = rng.normal(size=(300, 4)).astype(np.float32)
    generated = (0.6 * rng.normal(size=(200, 4))).astype(np.float32)
    precision, recall = Bootstrap(np.zeros(200, int), 50, seed=0).precision_recall(generated, real, 3)
    assert (precision.value, recall.value) == pytest.approx(formulas.precision_recall(generated, real, 3))
    assert precision.value > recall.value
    for metric in (precision, recall):
        assert 0.0 <= metric.low <= metric.value <= metric.high <= 1.0


def test_bootstrap_of_the_studies_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    rows, logits = rng.normal(size=(1000, 64)).astype(np.float32), rng.normal(size=(1000, 10)).astype(np.float32)
    start = time.process_time()
    draw = Bootstrap(np.zeros(1000, int), 200, seed=0)
    draw.fid(rows, moments.of(rows))
    draw.inception_score(logits)
    draw.precision_recall(rows, rows, 3)
    draw.fid_infinity(rows, moments.of(rows))
    draw.kid(rows, rows)
    assert time.process_time() - start < 5.0  # about half a second of one core


def test_bootstrap_keeps_the_classes_balanced() -> None:
    labels = np.arange(60) % 3
    draw = Bootstrap(labels, 20, seed=0)
    assert draw.counts.shape == (20, 60) and len({tuple(row) for row in draw.counts}) == 20
    for label in range(3):
        assert (draw.counts[:, labels == label].sum(axis=1) == 20).all()
    share = draw.mean(labels == 1, higher_is_better=None)
    # what the design fixes has no interval
    assert [share.low, share.high] == pytest.approx([share.value] * 2, abs=1e-12)


@pytest.mark.parametrize("each", [1, 2, 10])
def test_few_images_a_class_make_the_interval_no_narrower(each: int) -> None:
    """Values that do not depend on the class: the variance of their mean is the same, however the classes are cut."""
    labels, values = np.repeat(np.arange(400 // each), each), np.random.default_rng(0).normal(size=400)
    weights = Bootstrap(labels, 4000, 0).counts
    np.testing.assert_allclose(weights.sum(1), 400.0)
    assert (weights @ values / 400).std() == pytest.approx(values.std() / 400**0.5, rel=0.12)
