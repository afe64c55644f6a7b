"""The figures and the table of learning, and the figure of guidance, of fabricated curves."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from fabricate import PROVENANCE, _values, cell, fabricate, write

from mar.report.figures import draw
from mar.report.tables import learning
from mar.study import layout
from mar.study.products import figure_names, learned, learning_setting, table_names
from mar.study.reading import resolve
from mar.study.study import Study

AT = (0.25, 0.5, 0.75)


def study_of(samples: bool = True) -> Study:
    values = _values(None)
    for recipe in values["recipes"].values():
        recipe["evaluate_at"] = list(AT)
    values["sampling"]["s4-cfg"].pop("guidance")
    values["sampling"]["s4-cfg"]["sweep"] = {"samples": 20, "guidance": [1.0, 2.0, 3.0], "temperature": [0.95, 1.0]}
    if samples:
        values["learning"] = {"samples": 100, "setting": {"diff": "s4"}}
    return resolve(values, "learning.yaml")


def curves(study: Study, root: Path) -> None:
    """Learning of every training: the loss is lowest half way, FID falls by a tenth in each quarter."""
    for i, (variant, seed) in enumerate(learned(study)):
        images = study.recipes[study.variants[variant].recipe].points
        points: list[dict[str, Any]] = []
        for k, seen in enumerate(images):
            loss, fid = 3 + abs(k - 1) / 10, (10 + 2 * i) * 0.9**k
            losses = {ratio: cell(loss + float(ratio), 0.01, 100, False) for ratio in ("0.5", "1")}
            point = {"images": seen, "checkpoint": "e" * 64, "heldout": losses, "train": losses}
            points.append(point | {"fid": cell(fid, 0.3, 100, False)})
        fall = {"since": images[2], "effect": math.log(0.9), "error": 0.04 if variant == "diff" else 0.2}
        record = {"variant": variant, "seed": seed, "split": "heldout", "operations": 1e6 * (i + 1)}
        record |= {"setting": learning_setting(study, variant), "samples": 100, "extractor": "classifier"}
        record |= {"points": points, "fall": fall, "recipe": {"slice": "", "inputs": {}}, "provenance": PROVENANCE}
        write(layout.learning(root, variant, seed), record)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = study_of()
    fabricate(study, tmp_path, lambda v, s, k: 20.0, noise=0.05, images=False)
    curves(study, tmp_path)
    return study


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_they_appear_where_there_is_data() -> None:
    asked, losses = study_of(), study_of(samples=False)
    assert {"guidance", "heldout_loss", "fid_images", "fid_operations"} <= set(figure_names(asked))
    assert "learning" in table_names(asked) and "learning" in table_names(losses)
    assert "heldout_loss" in figure_names(losses) and "fid_images" not in figure_names(losses)
    plain = resolve(_values(None), "plain.yaml")
    assert not {"guidance", "heldout_loss", "fid_images"} & set(figure_names(plain))
    assert "learning" not in table_names(plain) and learned(plain) == []


@pytest.mark.parametrize("name", ["guidance", "heldout_loss", "fid_images", "fid_operations"])
def test_drawn_twice_the_bytes_are_the_same(study: Study, tmp_path: Path, name: str) -> None:
    made = []
    for folder in ("a", "b"):
        draw.draw(study, tmp_path, name, tmp_path / folder)
        made.append([(tmp_path / folder / f"{name}.{suffix}").read_bytes() for suffix in ("pdf", "png", "csv")])
    assert made[0] == made[1]


def test_numbers_of_the_figures(study: Study, tmp_path: Path) -> None:
    for name in ("heldout_loss", "fid_operations", "guidance"):
        draw.draw(study, tmp_path, name, tmp_path)
    losses = rows(tmp_path / "heldout_loss.csv")
    images = {int(row["images"]) for row in losses}
    assert len(losses) == len(learned(study)) * 4 * 2 * 2, "four points, two splits, two mask ratios"
    last = max(images)
    points = [r for r in rows(tmp_path / "fid_operations.csv") if r["variant"] == "diff"]
    assert [float(row["operations"]) / float(row["images"]) for row in points] == [points_of(study, "diff")] * 4
    assert int(points[-1]["images"]) == last
    scales = rows(tmp_path / "guidance.csv")
    assert [row["guidance"] for row in scales] == ["1.0", "2.0", "3.0"] and {row["temperature"] for row in scales} == {
        "0.95"
    }
    assert [row["chosen"] for row in scales].count("1") == 1 and scales[0]["precision"] == ""


def points_of(study: Study, variant: str) -> float:
    """Operations of one image of the first training of a variant, as they were fabricated."""
    return 1e6 * (1 + [name for name, _ in learned(study)].index(variant))


def test_table_names_optimum_best_checkpoint_and_who_still_learns(study: Study, tmp_path: Path) -> None:
    learning.table(study, tmp_path)
    found = {row["variant"]: row for row in rows(layout.table(tmp_path, "learning", "csv"))}
    points = study.recipes[study.variants["diff"].recipe].points
    assert found["diff"]["heldout_loss_lowest_at"] == str(points[1])
    assert float(found["diff"]["heldout_loss_lowest"]) == pytest.approx(3.75)
    assert found["diff"]["fid_lowest_at"] == str(points[-1]) and found["diff"]["since"] == str(points[2])
    assert found["diff"]["still_learning"] == "True" and found["ce"]["still_learning"] == "False"
    text = layout.table(tmp_path, "learning", "md").read_text()
    assert "best checkpoint" in text and "no claim uses" in text
