"""The search of nearest images against brute force, and what is known of the neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from mar.features import neighbours
from mar.features.neighbours import Searched, Seen


def brute(images: Tensor, others: Tensor, own: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Distance and index of the nearest image by whole numbers."""
    pairs = images.flatten(1).int()[:, None] - others.flatten(1).int()[None]
    squares = pairs.long().square().sum(2)
    if own is not None:
        squares[torch.arange(len(images)), own] = 1 << 60
    least, which = squares.min(1)
    return (least.double() / images[0].numel()).sqrt().numpy() / 255, which.numpy()


def grey(count: int, seed: int) -> Tensor:
    """Digits in three channels with a little noise, uint8 (N, 3, 8, 8)."""
    rng = np.random.default_rng(seed)
    images = load_digits().images[rng.choice(1797, count, replace=False)] * 15 + rng.integers(4, size=(count, 8, 8))
    return torch.from_numpy(images.astype(np.uint8))[:, None].repeat(1, 3, 1, 1)


def noise(count: int, seed: int) -> Tensor:
    """Images of colour noise, which no axes sum up."""
    return torch.from_numpy(np.random.default_rng(seed).integers(256, size=(count, 3, 12, 12), dtype=np.uint8))


def tinted(count: int, seed: int) -> Tensor:
    """Grey images with a little colour noise, as a decoder of three channels draws them."""
    rng = np.random.default_rng(seed)
    return grey(count, seed) + torch.from_numpy(rng.integers(9, size=(count, 3, 8, 8), dtype=np.uint8))


@pytest.mark.parametrize("many", [0.0, 1.1])  # all pairs at once, and each pair that the bound leaves
@pytest.mark.parametrize("axes", [3, 256])
@pytest.mark.parametrize(("real", "drawn"), [(grey, grey), (noise, noise), (grey, tinted), (tinted, grey)])
def test_the_search_is_exact(monkeypatch: pytest.MonkeyPatch, real: type, drawn: type, axes: int, many: float) -> None:
    monkeypatch.setattr(neighbours, "AXES", axes)
    monkeypatch.setattr(neighbours, "MANY", many)
    monkeypatch.setattr(neighbours, "PAIRS", 50)
    train = real(200, 0)
    asked = torch.cat([drawn(70, 1), train[[7, 7, 30]], train[[3]] ^ 1])
    found, expected = Searched(train, np.zeros(200, np.int64)).nearest(asked), brute(asked, train)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-14)
    assert (found[1] == expected[1]).all()
    assert found[0][-4:-1].tolist() == [0.0, 0.0, 0.0] and found[1][-4:-1].tolist() == [7, 7, 30]
    assert found[0][-1] == pytest.approx(1 / 255)


def test_an_image_is_not_its_own_neighbour() -> None:
    images = grey(300, 0)
    own = torch.arange(100, 200)
    found, expected = (
        Searched(images, np.zeros(300, np.int64)).nearest(images[own], own),
        brute(images[own], images, own),
    )
    np.testing.assert_allclose(found[0], expected[0])
    assert (found[1] == expected[1]).all() and (found[1] != own.numpy()).all()


def test_of_equal_images_the_first_is_the_neighbour() -> None:
    images = torch.cat([grey(50, 0), grey(50, 0)])
    assert Searched(images, np.zeros(100, np.int64)).nearest(images)[1].tolist() == [*range(50)] * 2


def test_what_is_known_of_neighbours() -> None:
    images = grey(60, 0)
    labels = np.array([0] * 20 + [1] * 20, np.int64)
    unseen = torch.cat([images[40:], images[:1]])  # the first training image is held out too
    seen = Seen(Searched(images[:40], labels), Searched(unseen, np.array([0] * 15 + [1] * 5 + [0])))
    found = seen.arrays(images)
    assert found["from_train"].tolist() == [20 / 36] + [1.0] * 39 + [0.0] * 20
    assert found["neighbour"].tolist() == [*range(60)]
    np.testing.assert_allclose(found["expected"], [20 / 36] * 20 + [20 / 25] * 20 + [20 / 36] * 15 + [20 / 25] * 5)
    assert (found["nearest"][:40] == 0).all() and (found["nearest"][40:] > 0).all()
    own = seen.arrays(unseen, torch.arange(21))
    assert own["from_train"][-1] == 1.0 and own["neighbour"][-1] == 0
    assert set(own["expected"].round(6)) <= {round(x, 6) for x in (20 / 36, 20 / 35, 20 / 25, 20 / 24)}
    assert set(Seen(Searched(images[:40], labels), None).arrays(images)) == {"nearest"}
