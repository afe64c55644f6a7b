"""The networks of the court: one Inception, shown images as each library shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from mar.crosscheck import run
from mar.crosscheck.evaluators import CLEAN, LEGACY, MAIN
from mar.features.networks.extractors import Extractor
from mar.features.references import Reference


@pytest.fixture(scope="module")
def shown() -> dict[str, Extractor]:
    return run.networks(None, None, random=True)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 48, 48), dtype=np.uint8))


def test_one_network_serves_all(shown: dict[str, Extractor], images: torch.Tensor) -> None:
    found = {name: network(images)["features"] for name, network in shown.items()}
    assert set(found) == {MAIN, CLEAN, LEGACY}
    assert len({id(network.network) for network in shown.values()}) == 1
    assert all("random weights" in network.note for network in shown.values())
    for name in (CLEAN, LEGACY):
        assert (found[name] - found[MAIN]).abs().max() > 0.1  # the resize matters
    theirs: Any = shown[MAIN].network(images)  # torch-fidelity's own way through the network
    torch.testing.assert_close(found[MAIN], theirs[0], rtol=1e-5, atol=1e-6)


def test_legacy_pytorch_is_clean_fids_own_network_on_the_same_weights(
    shown: dict[str, Extractor], images: torch.Tensor
) -> None:
    from cleanfid import inception_pytorch
    from cleanfid.resize import build_resizer

    weights = shown[MAIN].network.state_dict()
    with patch.object(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: weights):
        theirs = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).eval()
    resize = build_resizer("legacy_pytorch")
    pixels = torch.from_numpy(np.stack([resize(image) for image in images.permute(0, 2, 3, 1).numpy()]))
    with torch.no_grad():
        expected = theirs(pixels.permute(0, 3, 1, 2) / 255)[0].flatten(1)
    torch.testing.assert_close(shown[LEGACY](images)["features"], expected, rtol=1e-4, atol=1e-5)


def test_stored_statistics_belong_to_the_published_weights(shown: dict[str, Extractor]) -> None:
    statistics = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    reference = Reference("adm", Path("adm.npz"), "0" * 64, "", statistics, 10)
    stored, notes = run._stored(reference, shown[MAIN])
    assert stored is None and "the statistics of adm are of the published Inception" in notes[1]
