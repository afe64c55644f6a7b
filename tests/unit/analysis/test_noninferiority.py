"""The rule that accepts fast modes, on simulated studies of modes that are equal, better and worse."""

from __future__ import annotations

import numpy as np
import pytest

from mar.analysis.noninferiority import MARGINS, enough, judge, loss, power

STUDIES, RESAMPLES = 1000, 400
# Standard deviations of the losses at 8,000 images on digits, and how they go together: a draw of more diverse images
# has more recall and less precision.
SCATTER = {"fid": 0.039, "inception_score": 0.0025, "precision": 0.004, "recall": 0.006}
TOGETHER = np.array([[1.0, 0.3, 0.2, 0.3], [0.3, 1.0, 0.2, 0.1], [0.2, 0.2, 1.0, -0.4], [0.3, 0.1, -0.4, 1.0]])


def accepted(true: dict[str, float], images: int, seed: int = 0) -> float:
    """Share of simulated studies of a mode with these true losses that accept it."""
    rng = np.random.default_rng(seed)
    scatter = np.array([SCATTER[metric] for metric in MARGINS]) * np.sqrt(8000 / images)
    covariance = TOGETHER * np.outer(scatter, scatter)
    centres = np.array([true.get(metric, 0.0) for metric in MARGINS])
    measured = rng.multivariate_normal(centres, covariance, STUDIES)
    passed = 0
    for values in measured:
        draws = rng.multivariate_normal(values, covariance, RESAMPLES)
        losses = judge(dict(zip(MARGINS, values, strict=True)), dict(zip(MARGINS, draws.T, strict=True)))
        passed += all(one.accepted for one in losses.values())
    return passed / STUDIES


def resamples(images: int, count: int = 200_000) -> dict[str, np.ndarray]:
    scatter = np.array([SCATTER[metric] for metric in MARGINS]) * np.sqrt(8000 / images)
    draws = np.random.default_rng(1).multivariate_normal(np.zeros(4), TOGETHER * np.outer(scatter, scatter), count)
    return dict(zip(MARGINS, draws.T, strict=True))


@pytest.mark.parametrize("metric", MARGINS)
@pytest.mark.parametrize("images", [8000, 200_000])
def test_a_mode_that_loses_a_margin_passes_in_one_of_forty_studies_at_most(metric: str, images: int) -> None:
    assert accepted({metric: MARGINS[metric]}, images) <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / STUDIES)


@pytest.mark.parametrize("images", [20_000, 50_000, 100_000])
def test_an_equal_mode_passes_as_often_as_the_power_says(images: int) -> None:
    assert accepted({}, images) == pytest.approx(power(resamples(images)), abs=0.03)


def test_it_gets_surer_with_the_images_and_never_refuses_a_gain() -> None:
    shares = [accepted({}, images) for images in (8000, 50_000, 400_000)]
    assert shares == sorted(shares) and shares[0] < 0.5 and shares[-1] > 0.99
    assert accepted({"recall": -0.1, "fid": -0.1}, 8000) > 0.95


def test_half_a_margin_passes_where_there_are_images_and_twice_never() -> None:
    assert accepted({"fid": 0.025}, 400_000) > 0.9
    assert accepted({"fid": 0.1}, 50_000) == 0.0


def test_how_many_images_it_takes() -> None:
    """FID alone: (1.96 + 1.2816)^2 scatter^2 / margin^2 times the images."""
    alone = {"fid": resamples(8000)["fid"]}
    want = 8000 * ((1.96 + 1.2816) * SCATTER["fid"] / MARGINS["fid"]) ** 2
    found = enough(alone, 8000)
    assert found is not None and found == pytest.approx(want, rel=0.04) and 45_000 < found < 60_000
    joint = enough(resamples(8000), 8000)
    assert joint is not None and joint >= found
    assert power(resamples(8000), joint / 8000) == pytest.approx(0.9, abs=0.01)


def test_losses_are_falls_but_of_fid() -> None:
    assert loss("fid", 11.0, 10.0, 10.0) == pytest.approx(0.1)
    assert loss("inception_score", 9.0, 10.0, 10.0) == pytest.approx(0.1)
    assert loss("recall", 0.6, 0.5, 0.5) == pytest.approx(-0.1) and loss("precision", 0.4, 0.5, 0.5) == pytest.approx(
        0.1
    )
