"""Text of the tables."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path

import pytest
from fabricate import fabricate, large, small, write

from mar.config import Study
from mar.files import read_json
from mar.paper import paper_lines, paper_rows
from mar.tables import escape, frame, inputs, printed, table


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


@pytest.fixture
def wide(tmp_path: Path) -> Study:
    study = large()
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0, lambda variant, setting: 0.25, noise=0.1)
    return study


def test_columns_are_those_of_the_papers_file(wide: Study, tmp_path: Path) -> None:
    values = frame(wide, tmp_path, "table4").set_index("row")
    for column in ("params", "precision", "recall", "precision_guided", "recall_guided"):
        assert f"paper_{column}" in values
    assert "seconds" not in values and "rfid" not in values and "source" not in values
    ours = values.loc["mar-l"]
    assert (ours["params"], ours["paper_params"]) == (1234567, "479M")
    assert ours["recall"] == pytest.approx(0.78) and ours["recall_low"] < 0.78 < ours["recall_high"]
    assert (ours["paper_recall"], ours["paper_precision_guided"]) == ("0.60", "0.81")
    assert values.loc["real versus real", "recall"] == pytest.approx(0.79)
    assert values.loc["real versus real", "params"] == ""
    for name in wide.tables:
        table(wide, tmp_path, name)
        text = (tmp_path / "tables" / f"{name}.md").read_text()
        assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1
        text = (tmp_path / "tables" / f"{name}.tex").read_text()
        kind = "sidewaystable" if name == "table4" else "table"
        assert (rf"\begin{{{kind}}}" in text) and text.rstrip().endswith(rf"\end{{{kind}}}")
        assert ("rotating" in text.splitlines()[0]) == (name == "table4")
    assert "| 1.23M | 479M |" in (tmp_path / "tables" / "table4.md").read_text()


def test_rows_of_other_systems_and_settings_that_a_row_lacks(wide: Study, tmp_path: Path) -> None:
    values = frame(wide, tmp_path, "table4").set_index("row")
    other = values.loc["adm"]
    assert {other[k] for k in ("ours", "setting", "seeds", "n", "params", "fid", "fid_low", "is_guided")} == {"-"}
    assert (other["system"], other["paper_fid"], other["paper_recall_guided"]) == ("ADM", "10.94", "0.52")
    dit = values.loc["dit-xl"]
    assert (dit["fid_guided"], dit["setting_guided"], dit["paper_fid_guided"]) == ("-", "-", "2.27")
    assert dit["fid"] == pytest.approx(20.0)


def test_rfid_is_that_of_the_train_split(wide: Study, tmp_path: Path) -> None:
    assert frame(wide, tmp_path, "table2").set_index("row").loc["kl16", "rfid"] == "-", (
        "measured on held-out images only"
    )
    file = tmp_path / "tokenizers" / "kl" / "rfid.json"
    values = read_json(file)
    train = {"metrics": {"rfid": {"value": 1.5, "low": 1.4, "high": 1.6, "n": 1293}}}
    write(file, values | {"train": train})
    ours = frame(wide, tmp_path, "table2").set_index("row").loc["kl16"]
    assert (ours["rfid"], ours["rfid_high"], ours["paper_rfid"]) == (1.5, 1.6, "1.43")
    table(wide, tmp_path, "table2")
    assert "1.50 [1.40, 1.60] | 1.43 |" in (tmp_path / "tables" / "table2.md").read_text()
    assert "rFID: of the reconstructed train split" in (tmp_path / "tables" / "table2.tex").read_text()


def test_seconds_and_parameters_of_the_head(wide: Study, tmp_path: Path) -> None:
    ours = frame(wide, tmp_path, "table3").set_index("row").loc["mlp-256"]
    assert (ours["seconds"], ours["seconds_low"], ours["paper_seconds"]) == (0.25, 0.225, "0.286")
    # by hand, width 8 and 4 numbers a token; a block is a norm, two linear layers and the modulation
    time, condition, tokens = (256 * 8 + 8) + (8 * 8 + 8), 8 * 8 + 8, 4 * 8 + 8
    block, output = 2 * 8 + 2 * (8 * 8 + 8) + (8 * 24 + 24), (8 * 16 + 16) + (8 * 8 + 8)
    assert (ours["head_params"], ours["paper_head_params"]) == (time + condition + tokens + block + output, "2M")


def test_files_that_a_table_reads_beside_the_metrics(wide: Study) -> None:
    assert inputs(wide, "table1") == []
    assert inputs(wide, "table2") == ["tokenizers/kl/rfid.json"]
    assert inputs(wide, "table3") == ["speed/diff.json"]
    assert inputs(wide, "table4") == [f"runs/{name}/seed0/run.json" for name in ("dit", "published", "diff")]


def test_a_difference_is_printed_on_the_papers_scale_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = large(imagenet=True)
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    assert "fid_minus_paper" not in frame(study, tmp_path, "table4"), "too few images a sample set"
    monkeypatch.setattr("mar.results.paper_samples", lambda: 40)
    values = frame(study, tmp_path, "table4").set_index("row")
    assert values.loc["mar-l", "fid_minus_paper"] == pytest.approx(20.0 - 2.60)
    assert values.loc["adm", "fid_minus_paper"] == "" and "params_minus_paper" not in values
    table(study, tmp_path, "table4")
    assert "not comparable" not in (tmp_path / "tables" / "table4.md").read_text()


@pytest.mark.parametrize(
    ("text", "metric", "said"),
    [("3.5", "fid", "3.50"), ("290.30", "inception_score", "290.3"), ("", "fid", ""), ("2B", "parameters", "2B")],
)
def test_the_papers_numbers_are_printed_as_in_the_paper(text: str, metric: str, said: str) -> None:
    assert printed(text, metric) == said


def test_escape() -> None:
    assert escape(r"a_b & 5% #1 $x$ {y} ~ ^ \z <3") == (
        r"a\_b \& 5\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z \textless{}3"
    )


def test_unknown_names_are_refused(study: Study, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table 'nope': not in tables; accepted: table1"):
        table(study, tmp_path, "nope")
    with pytest.raises(ValueError, match=r"paper table 'nope'.*accepted: .*mar_table1"):
        paper_rows("nope")
    with pytest.raises(ValueError, match=r"mar_recipe.csv: found columns section, .*; accepted: row among them"):
        paper_rows("mar_recipe")
    assert paper_lines("mar_recipe")[0]["section"] == "data"


def test_missing_metrics_are_named(study: Study, tmp_path: Path) -> None:
    (tmp_path / "metrics" / "ar" / "seed0" / "a4.json").unlink()
    with pytest.raises(ValueError, match=r"metrics/ar/seed0/a4.json: missing"):
        table(study, tmp_path, "table1")


def test_the_papers_numbers_are_read_in_its_order() -> None:
    rows = paper_rows("mar_table1")
    assert len(rows) == 8
    assert (rows["mar-one-diffloss"]["fid_cfg"], rows["ar-raster-crossent"]["is_nocfg"]) == ("1.84", "60.8")
