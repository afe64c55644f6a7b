"""The figure of tokenizers: who has it, what it draws of the first scales, and older files."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
import tiny
from fabricate import cell, fabricate

from mar.report.figures import draw
from mar.report.figures.style import STYLE
from mar.report.figures.tokenizers import tokenizers
from mar.runtime.files import read, write
from mar.study import layout
from mar.study.products import figure_names
from mar.study.records import FirstScales, RfidRecord
from mar.study.study import Study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """VAR beside AR, each with its tokenizer; that of VAR has been measured by scale."""
    variants = {name: tiny.STUDY["variants"][name] for name in ("ar-ce", "var")}
    study = tiny.study(variants=variants, tradeoff=[])
    fabricate(study, tmp_path, lambda v, s, k: 20.0, noise=0.05, images=False)
    file = layout.rfid(tmp_path, "msvq")
    record = read(file, RfidRecord)
    found = {k: {"rfid": cell(40.0 / k, 1.0, 100), "psnr": cell(10.0 + k, 0.1, 100)} for k in (1, 2, 3)}
    parts = [FirstScales.model_validate({"scales": k, "metrics": metrics}) for k, metrics in found.items()]
    write(file, record.model_copy(update={"by_scale": tuple(parts)}))
    return study


def test_studies_of_var_have_it(study: Study) -> None:
    assert "tokenizers" in figure_names(study)
    plain = tiny.study(variants={"ar-ce": tiny.STUDY["variants"]["ar-ce"]}, tradeoff=[])
    assert "tokenizers" not in figure_names(plain)


def test_lines_are_what_the_files_say(study: Study, tmp_path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        figure, rows = tokenizers(study, tmp_path)
    by_scale = {row["tokenizer"]: [] for row in rows}
    for row in rows:
        if "scales" in row:
            by_scale[row["tokenizer"]].append((row["scales"], round(row["rfid"], 6), round(row["psnr"], 6)))
    assert by_scale == {
        "vq": [(1, 5.0, 22.0)],
        "msvq": [(1, 40.0, 11.0), (2, 20.0, 12.0), (3, round(40 / 3, 6), 13.0)],
    }
    _, centre, right = figure.axes
    drawn = [
        [list(line.get_xydata()[:, 1]) for line in axes.lines if line.get_marker() != "None"]
        for axes in (centre, right)
    ]
    assert drawn == [[[5.0], pytest.approx([40, 20, 40 / 3])], [[22.0], [11, 12, 13]]]
    assert sum("loss" in row for row in rows) == 2 * 10  # a line each 64 of 640 images
    draw.draw(study, tmp_path, "tokenizers", tmp_path / "figures")
    assert (tmp_path / "figures" / "tokenizers.png").stat().st_size > 10_000


def test_a_file_from_before_has_one_point(study: Study, tmp_path: Path) -> None:
    file = layout.rfid(tmp_path, "msvq")
    write(file, read(file, RfidRecord).model_copy(update={"by_scale": ()}))
    _, rows = tokenizers(study, tmp_path)
    assert [(row["tokenizer"], row["scales"]) for row in rows if "scales" in row] == [("vq", 1), ("msvq", 1)]
