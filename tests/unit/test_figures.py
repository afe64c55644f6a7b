"""Figures: their numbers, and that drawing again changes no byte."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from fabricate import fabricate, small
from PIL import Image

from mar import figures
from mar.config import Study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    study = small({"ce": (0,)})
    fabricate(study, tmp_path, lambda v, s, k: {"s2": 40.0, "s4": 20.0}.get(s, 30.0), lambda v, s: 0.1, noise=0.05)
    held = np.full((10, 16, 16, 3), 200, np.uint8)
    monkeypatch.setattr(figures, "real", lambda study, root, classes: (held, np.arange(10)))
    return study


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["tradeoff", "samples", "losses"])
def test_drawing_again_gives_the_same_bytes(study: Study, tmp_path: Path, name: str) -> None:
    made = []
    for folder in ("a", "b"):
        figures.draw(study, tmp_path, name, tmp_path / folder)
        made.append([(tmp_path / folder / f"{name}.{suffix}").read_bytes() for suffix in ("pdf", "png", "csv")])
    assert made[0] == made[1]
    assert made[0][0].startswith(b"%PDF") and made[0][1].startswith(b"\x89PNG")
    with Image.open(tmp_path / "a" / f"{name}.png") as image:
        assert min(image.size) > 300


def test_tradeoff_numbers(study: Study, tmp_path: Path) -> None:
    _, found = figures.tradeoff(study, tmp_path)
    assert [(r["curve"], r["setting"], r["steps"]) for r in found[:2]] == [
        ("MAR, Diffusion Loss", "s2", 2),
        ("MAR, Diffusion Loss", "s4", 4),
    ]
    assert float(found[0]["fid"]) == pytest.approx(40) and float(found[0]["fid_low"]) < 40 < float(found[0]["fid_high"])
    assert float(found[0]["seconds_low"]) == pytest.approx(0.09)
    assert (found[-1]["curve"], float(found[-1]["fid"])) == ("real versus real", 10.0)


def test_untrained_curves_are_left_out_and_said(tmp_path: Path) -> None:
    study = small({"diff": ()})
    fabricate(study, tmp_path, lambda v, s, k: 30.0)
    figure, found = figures.tradeoff(study, tmp_path)
    assert [r["curve"] for r in found] == ["AR, cross-entropy, kv-cache", "real versus real"]
    caption = figure.get_supxlabel()
    assert "not run: MAR, Diffusion Loss" in caption
    assert "batch 8, median of 3 batches after 1 for warm-up, decoding included" in caption
    assert "fp32 on cpu, 2 threads, A & B_CPU" in caption


def test_grid_rows_are_classes(study: Study, tmp_path: Path) -> None:
    picture, chosen = figures.sample_grid(tmp_path, "diff", 0, "s4", 10)
    assert picture.shape == (10 * 17, 8 * 17, 3)
    labels = np.load(tmp_path / "samples" / "diff" / "seed0" / "s4" / "labels.npy")
    assert len(chosen) == 40 and all(labels[index] == row for row, _, index in chosen)  # 4 of 8 columns are filled
    # the fabricated images grow brighter by 15 a class
    grey = [picture[17 * c : 17 * c + 16, :16].mean() for c in range(10)]
    assert np.diff(grey) == pytest.approx([15.0] * 9, abs=4.0)
    assert (picture[:, 4 * 17 :] == 255).all()


def test_large_images_are_reduced_and_few_classes_shown() -> None:
    images = np.zeros((2, 256, 256, 3), np.uint8)
    assert figures.grid(images, np.array([0, 1]), 2).shape == (2 * 65, 8 * 65, 3)


def test_shown_setting_is_the_last_guided_one(study: Study) -> None:
    assert figures.shown_setting(study, "diff") == "s4-cfg"


def test_losses_csv_and_missing_curve(study: Study, tmp_path: Path) -> None:
    figures.draw(study, tmp_path, "losses", tmp_path)
    found = rows(tmp_path / "losses.csv")
    assert {(r["variant"], r["seed"]) for r in found} == {
        ("ar", "0"),
        ("ar", "1"),
        ("ce", "0"),
        ("diff", "0"),
        ("diff", "1"),
    }
    (tmp_path / "runs" / "diff" / "seed1" / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"diff/seed1/metrics.jsonl: missing or empty"):
        figures.losses(study, tmp_path)


def test_smooth_keeps_lines_straight() -> None:
    assert figures.smooth(range(5)) == [0.5, 1, 2, 3, 3.5]
    assert figures.smooth([2.0]) == [2.0]


def test_unknown_figure(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"figure 'nope': accepted: tradeoff, samples, losses"):
        figures.draw(study, tmp_path, "nope", tmp_path)
