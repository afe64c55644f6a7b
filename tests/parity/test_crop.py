"""The centre crop equals the published one, pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from mar.data.images import center_crop

GOLDEN = Path(__file__).parent / "golden"
TENSORS = load_file(GOLDEN / "crop.safetensors")
CROPS = [name for name in json.loads((GOLDEN / "crop.json").read_text())["tensors"] if ".crop" in name]


@pytest.mark.parametrize("name", CROPS)
def test_center_crop_equals_adm(name: str) -> None:
    image, size = name.split(".crop")
    cropped = np.asarray(center_crop(Image.fromarray(TENSORS[image]), int(size)))
    assert cropped.dtype == np.uint8
    np.testing.assert_array_equal(cropped, TENSORS[name])


def test_all_golden_crops_are_seen() -> None:
    assert len(CROPS) == 10
