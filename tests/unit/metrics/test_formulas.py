"""Values of metrics: laws that hold whatever the images are. Parity is in tests/parity/test_metric_values.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from mar.metrics import formulas, moments

RNG = np.random.default_rng(0)
FIRST, SECOND = RNG.normal(size=(120, 6)), 0.7 * RNG.normal(size=(90, 6)) + 0.2
LOGITS = 2.0 * RNG.normal(size=(600, 10))


def fid(first: np.ndarray, second: np.ndarray) -> float:
    return formulas.fid(moments.of(first), moments.of(second))


def test_fid_of_a_set_with_itself_is_zero() -> None:
    assert fid(FIRST, FIRST) == pytest.approx(0.0, abs=1e-12 * FIRST.var() * 6)
    deficient = RNG.normal(size=(5, 40))
    assert fid(deficient, deficient) == pytest.approx(0.0, abs=1e-6 * 40)


def test_fid_is_symmetric_and_known_for_gaussians_in_one_dimension() -> None:
    assert fid(FIRST, SECOND) == pytest.approx(fid(SECOND, FIRST), rel=1e-9)
    x, y = FIRST[:, :1], SECOND[:, :1]
    expected = (x.mean() - y.mean()) ** 2 + (x.std(ddof=1) - y.std(ddof=1)) ** 2
    wide = [np.concatenate([z, np.zeros_like(z)], axis=1) for z in (x, y)]  # also where a covariance is singular
    assert fid(*wide) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("n", [2, 999, 1000, 2345])
def test_statistics_in_blocks(n: int) -> None:
    rows = (RNG.normal(size=(n, 7)) + 100.0).astype(np.float32)
    found = moments.of(rows)
    np.testing.assert_allclose(found["mu"], rows.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["sigma"], np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "metric",
    [
        fid,
        lambda x, y: formulas.precision_recall(x, y, 3),
        lambda x, y: formulas.kid(x, y, 1)[0],  # one subset of the smaller set; it is equal in both
    ],
)
def test_the_order_of_images_does_not_matter(metric: Callable) -> None:
    first, second = FIRST[:90], SECOND
    expected = metric(first, second)
    assert metric(first[RNG.permutation(90)], second[RNG.permutation(90)]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("metric", [fid, lambda x, y: formulas.kid(x, y).mean()])
def test_distances_grow_with_the_distance(metric: Callable) -> None:
    values = [metric(FIRST + shift, SECOND) for shift in (0.2, 0.6, 1.0, 2.0)]
    assert values == sorted(values) and values[-1] > 4 * values[0]


def test_swapped_sets_swap_precision_and_recall() -> None:
    precision, recall = formulas.precision_recall(FIRST, SECOND, 3)
    assert formulas.precision_recall(SECOND, FIRST, 3) == (recall, precision)
    assert precision < recall  # SECOND is narrower: it covers less of FIRST


def test_precision_and_recall_of_extremes() -> None:
    assert formulas.precision_recall(FIRST, FIRST, 3) == (1.0, 1.0)
    assert formulas.precision_recall(FIRST + 100.0, FIRST, 3) == (0.0, 0.0)
    collapsed = np.repeat(FIRST.mean(0, keepdims=True), 50, axis=0)
    assert formulas.precision_recall(collapsed, FIRST, 3) == (1.0, 0.0)
    assert formulas.precision_recall(np.repeat(FIRST[:1], 50, axis=0), FIRST, 3) == (1.0, 1 / 120)  # a copy covers it


def test_precision_and_recall_grow_with_the_neighbours() -> None:
    found = np.array([formulas.precision_recall(FIRST, SECOND, k) for k in (1, 2, 3, 5, 9)])
    assert (np.diff(found, axis=0) >= 0.0).all() and (found[-1] > found[0]).all()


def test_copies_in_float32_have_distance_zero() -> None:
    points = (RNG.normal(size=(700, 300)) + 5.0).astype(np.float32).astype(np.float64)
    points[650] = points[3]
    distances, which = formulas.nearest_others(points, 2)
    assert distances[3, 0] == distances[650, 0] == 0.0 and which[3, 0] == 650 and which[650, 0] == 3
    assert (distances[np.setdiff1d(np.arange(700), [3, 650])] > 1.0).all()


@pytest.mark.parametrize("far", [0.0, 1e3])
def test_rough_distances_are_off_by_no_more_than_they_say(far: float) -> None:
    spread = np.exp(RNG.normal(size=400))
    here, there = (RNG.normal(size=(n, 400)) * spread + far * spread[::-1] for n in (700, 300))
    for start, rough, slack, exact in formulas._distances(here, there):
        expected = cdist(here[start : start + len(rough)], there, "sqeuclidean")
        assert (np.abs(rough - expected) <= slack).all() and slack.max() < 1e-3 * expected.mean()
        point, centre = np.nonzero(expected < np.quantile(expected, 0.02))
        np.testing.assert_allclose(exact(point, centre), expected[point, centre], rtol=1e-12)


def test_neighbours_in_a_crowd_of_near_copies() -> None:
    crowd = RNG.normal(size=(4, 20)).repeat(150, axis=0) + 1e-4 * RNG.normal(size=(600, 20))
    distances = cdist(crowd, crowd, "sqeuclidean")
    radii = np.sort(distances, axis=1)[:, 1:4]
    np.testing.assert_allclose(formulas.nearest_others(crowd, 3)[0], radii, rtol=1e-6)
    points = crowd[::7] + 1e-4 * RNG.normal(size=(86, 20))
    expected = (cdist(points, crowd, "sqeuclidean") <= radii[:, -1]).any(1)
    np.testing.assert_array_equal(formulas.inside(points, crowd, 3), expected)
    assert 0.1 < expected.mean() < 0.9


def test_balls_of_subsets_are_those_of_the_subsets_alone() -> None:
    kept = RNG.random((6, 120)) < 0.5
    found = formulas.inside(SECOND, FIRST, 3, kept)
    for row, keep in zip(found, kept, strict=True):
        np.testing.assert_array_equal(row, formulas.inside(SECOND, FIRST[keep], 3))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="precision and recall: 3 images in a set; accepted: more than k 3"):
        formulas.precision_recall(FIRST, SECOND[:3], 3)
    with pytest.raises(ValueError, match="KID of 1 and 90 images; accepted: at least 2 of each"):
        formulas.kid(FIRST[:1], SECOND)


def test_kid_is_unbiased_and_the_same_by_all_kernels_as_by_those_of_the_subsets() -> None:
    drawn = [formulas.kid(RNG.normal(size=(60, 4)), RNG.normal(size=(80, 4)), 1)[0] for _ in range(400)]
    assert abs(np.mean(drawn)) < 4 * np.std(drawn) / 20
    x, y = RNG.normal(size=(300, 5)), RNG.normal(size=(250, 5))
    few = formulas.kid(x, y, 3, 20)  # 3 x 20 x 20 kernels
    many = formulas.kid(x, y, 200, 20)  # all 300 x 250; the first draws are the same
    np.testing.assert_allclose(few, many[:3], rtol=1e-9, atol=1e-12)


def test_inception_score_of_extremes() -> None:
    assert formulas.inception_score(np.zeros((50, 10), np.float32)) == pytest.approx(1.0)
    certain = 1000.0 * np.eye(10, dtype=np.float32)[np.arange(5000) % 10]
    assert formulas.inception_score(certain) == pytest.approx(10.0, rel=0.02)  # no split holds all classes equally
    assert formulas.ordered_inception_score(certain, None) == pytest.approx(10.0)
    assert formulas.inception_score(np.eye(4, dtype=np.float32)) == pytest.approx(1.0)  # one image a split


def test_inception_score_does_not_see_a_constant_added_to_the_logits_of_an_image() -> None:
    moved = LOGITS + RNG.normal(size=(600, 1))
    assert formulas.inception_score(moved) == pytest.approx(formulas.inception_score(LOGITS), rel=1e-9)


def test_ordered_inception_score_refuses_a_set_sorted_by_class() -> None:
    labels = np.arange(600) % 10
    value = formulas.ordered_inception_score(LOGITS, labels)
    assert value == formulas.ordered_inception_score(LOGITS, RNG.permutation(labels))
    with pytest.raises(ValueError, match=r"class changes 9 times along the order of 600 images, .* about 540 times"):
        formulas.ordered_inception_score(LOGITS, np.sort(labels))
    pairs = np.concatenate([RNG.permutation(np.repeat([a, a + 1], 60)) for a in range(0, 10, 2)])
    assert 0.5 < formulas.class_changes(pairs)[0] / 540 < 0.65  # two classes at a time still pass
    blocks = np.repeat(labels, 3)[:600]
    with pytest.raises(ValueError, match="sorted by class"):  # three of a class in a row
        formulas.ordered_inception_score(LOGITS, blocks)
    assert formulas.ordered_inception_score(LOGITS, np.zeros(600, int)) == value  # of one class there is no order


def test_a_sorted_order_lowers_the_ordered_score() -> None:
    labels = np.arange(600) % 10
    logits = LOGITS + 6.0 * np.eye(10)[labels]
    order = np.argsort(labels, kind="stable")
    shuffled = formulas.ordered_inception_score(logits, labels, size=60)
    assert formulas.ordered_inception_score(logits[order], None, size=60) < 0.5 * shuffled


def test_class_changes_after_a_shuffle() -> None:
    labels = np.repeat([0, 1, 2, 5], [50, 20, 5, 1])
    drawn = [formulas.class_changes(RNG.permutation(labels))[0] for _ in range(2000)]
    assert np.mean(drawn) == pytest.approx(formulas.class_changes(labels)[1], rel=0.01)


def test_metrics_of_features_need_no_torch() -> None:
    code = "import sys; from mar.metrics import bootstrap; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sorted_parts_written_in_turn_are_sorted() -> None:
    """Four processes drew a quarter of the classes each, and their images were written one after the other."""
    labels = np.repeat(np.arange(100), 20).reshape(4, 500).T.ravel()
    assert formulas.class_changes(labels)[0] == len(labels) - 1
    with pytest.raises(ValueError, match=r"a split of 200 of 2000 images holds 12 classes, after a shuffle about 88"):
        formulas.refuse_sorted(labels, 200)
    formulas.refuse_sorted(np.random.default_rng(0).permutation(labels), 200)
