"""The study of three lines: config/images.yaml on a zip of a user, from the file to counted lengths."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mar.cli.__main__ import main
from mar.cli.group import open_study
from mar.data.images import open_split
from mar.study.reading import load, write_resolved


def test_three_lines_are_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    with zipfile.ZipFile(tmp_path / "home" / "photos.zip", "w") as archive:
        for i in range(60):
            file = io.BytesIO()
            Image.fromarray(np.full((40, 50, 3), 4 * i, np.uint8)).save(file, "JPEG")
            archive.writestr(f"photos/{'ab'[i % 2]}/{i}.jpg", file.getvalue())
    (tmp_path / "mine.yaml").write_text("extends: images.yaml\nstudy: mine\ndata: {path: ~/photos.zip}\n")
    path = write_resolved(load(tmp_path / "mine.yaml"), tmp_path / "results")
    told = CliRunner().invoke(main, ["prepare", "--study", str(path)])
    assert told.exit_code == 0, told.output
    assert "of 60 images: 60 larger than 32 pixels, scaled down, 60 cropped to a square; 0 files skipped" in told.output
    study, root = open_study(str(path))
    assert study.recipes["causal"].images == study.recipes["masked"].images == 80 * 48
    assert open_split(study, root, "train").arrays([0]).shape == (1, 32, 32, 3)
    corners = {(v.order.kind, v.head): len(v.seeds) for v in study.variants.values()}
    assert corners == {(order, head): 2 for order in ("raster", "random") for head in ("crossent", "diffloss")}
