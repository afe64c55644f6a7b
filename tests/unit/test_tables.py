"""Text of the tables."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest
from fabricate import fabricate, small

from mar.config import Study
from mar.tables import escape, paper_rows, table


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = small({"ce": ()})
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0 + 5 * setting.endswith("cfg"), noise=0.1)
    table(study, tmp_path, "table1")
    return study


def test_csv_has_ours_and_the_papers(study: Study, tmp_path: Path) -> None:
    with open(tmp_path / "tables" / "table1.csv", newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["ar-raster-crossent", "mar-default-crossent", "mar-default-diffloss", "real versus real"]
    ours = rows["mar-default-diffloss"]
    assert float(ours["fid"]) == pytest.approx(20.0) and float(ours["fid_guided"]) == pytest.approx(25.0)
    half = math.log(float(ours["fid_high"]) / 20.0)
    assert half == pytest.approx(4.302653 * 0.1 / math.sqrt(2), rel=1e-4)  # tau = 0, two degrees of freedom
    assert (ours["paper_fid"], ours["paper_is_guided"]) == ("3.50", "290.3")
    assert (ours["seeds"], ours["n"], ours["setting_guided"]) == ("0 1", "40", "s4-cfg")
    untrained = rows["mar-default-crossent"]
    assert {untrained[k] for k in ("fid", "fid_low", "is", "is_guided", "seeds", "n")} == {"not run"}
    assert untrained["paper_fid"] == "8.79"
    floor = rows["real versus real"]
    assert (float(floor["fid"]), floor["paper_fid"], floor["n"]) == (10.0, "", "40")


def test_markdown(study: Study, tmp_path: Path) -> None:
    text = (tmp_path / "tables" / "table1.md").read_text()
    low, high = 20 * math.exp(-0.304243), 20 * math.exp(0.304243)
    described = "| MAR (default) | random | bidirectional | >1 (64 steps) | DiffLoss | KL-16 |"
    assert f"{described} 20.0 [{low:.1f}, {high:.1f}] | 3.50 |" in text
    assert "| not run | 8.79 | not run | 146.1 |" in text
    assert "| real versus real |" in text
    assert "not comparable with the paper's; orderings are" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_latex_has_equal_columns_and_no_raw_specials(study: Study, tmp_path: Path) -> None:
    text = (tmp_path / "tables" / "table1.tex").read_text()
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    widths = []
    for row in rows:
        spans = [int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row)]
        widths.append(len(re.findall(r"(?<!\\)&", row)) + 1 + sum(spans))
    assert set(widths) == {15}
    assert r"\caption{100\% of A\_B \& C." in text, "LaTeX numbers the table itself"
    assert r"\textgreater{}1 (64 steps)" in text
    assert text.count("{") == text.count("}") and text.count(r"\begin") == text.count(r"\end")


def test_escape() -> None:
    assert escape(r"a_b & 5% #1 $x$ {y} ~ ^ \z <3") == (
        r"a\_b \& 5\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z \textless{}3"
    )


def test_unknown_names_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table 'nope': not in tables; accepted: table1"):
        table(study, tmp_path, "nope")
    with pytest.raises(ValueError, match=r"paper table 'nope'.*accepted: .*mar_table1"):
        paper_rows("nope")


def test_missing_metrics_are_named(study: Study, tmp_path: Path) -> None:
    (tmp_path / "metrics" / "ar" / "seed0" / "a4.json").unlink()
    with pytest.raises(ValueError, match=r"metrics/ar/seed0/a4.json: missing"):
        table(study, tmp_path, "table1")


def test_the_papers_numbers_are_read_in_its_order() -> None:
    rows = paper_rows("mar_table1")
    assert len(rows) == 8
    assert (rows["mar-one-diffloss"]["fid_cfg"], rows["ar-raster-crossent"]["is_nocfg"]) == ("1.84", "60.8")
