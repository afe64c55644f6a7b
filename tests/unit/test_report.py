"""The report page and the summary."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fabricate import fabricate, large, small
from PIL import Image

from mar.config import Study
from mar.deviations import deviations
from mar.report import report, summary
from mar.study import figure_names
from mar.verdicts import judge

CLAIMS = Path(__file__).parents[2] / "config" / "claims.yaml"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "results" / "small"
    return root


def build(root: Path) -> Study:
    study = small({"ce": ()})
    fabricate(
        study, root, lambda v, s, k: 20.0 if v == "diff" else 40.0, lambda v, s: 0.05 if v == "diff" else 0.1, 0.05
    )
    judge(study, root, CLAIMS)
    for name in ("tradeoff", "samples", "losses"):
        Image.new("RGB", (4, 4)).save(root / f"{name}.png")
    return study


def test_report_is_one_page_with_everything(root: Path) -> None:
    study = build(root)
    report(study, root, root)
    html = (root / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', html), "self-contained: nothing is loaded from elsewhere"
    assert html.count("data:image/png;base64,") == 3
    order = [html.index(f"<h2>{title}") for title in ("Verdicts", "Table 1", "Figures", "Tokenizers", "All metrics")]
    assert order == sorted(order)
    assert "100% of A_B &amp; C" in html, "texts of the study are escaped"
    for text in ("not run", "real versus real", "sqrt(alpha_bar), 5e-5", "A &amp; B_CPU", "c0ffee", "codebook used"):
        assert text in html
    assert "NO: run the workflow again" not in html
    assert "<td>all 4 trainings" in html.replace(' colspan="4"', "")


def test_all_tables_and_figures_of_a_study_are_shown(root: Path) -> None:
    study = large()
    fabricate(study, root, lambda v, s, k: 20.0, noise=0.05)
    judge(study, root, CLAIMS)
    for name in figure_names(study):
        Image.new("RGB", (4, 4)).save(root / f"{name}.png")
    report(study, root, root)
    html = (root / "report.html").read_text()
    places = [html.index(f"<h2>Table {i}") for i in (1, 2, 3, 4)]
    places += [
        html.index(f'<figure id="{n}"') for n in ("tradeoff", "diffusion_steps", "temperature", "samples", "losses")
    ]
    assert places == sorted(places)
    for text in (
        "not decidable here",
        "weights imported",
        "<td>ADM</td>",
        "parameters of the head",
        "seconds an image",
    ):
        assert text in html
    assert "at 100 steps: FID 2.85 without guidance, 1.97 with guidance." in html
    assert "all 7 trainings" in html, "what is imported is not trained"
    assert "NO: run the workflow again" not in html
    widths = [
        sum(int(n or 1) for n in re.findall(r"<t[hd](?:[^>]*?colspan=\"(\d+)\")?[^>]*>", row))
        for row in re.findall(r"<tr.*?</tr>", html[places[3] : places[4]], re.S)
    ]
    assert len(set(widths)) == 1, "every row of Table 4 spans all columns"


def test_a_broken_chain_is_shown(root: Path) -> None:
    study = build(root)
    run = root / "runs" / "diff" / "seed0" / "run.json"
    run.write_text(json.dumps({**json.loads(run.read_text()), "checkpoint": "other"}))
    report(study, root, root)
    assert (root / "report.html").read_text().count("NO: run the workflow again") == 3  # its three settings


def test_missing_figure_is_named(root: Path) -> None:
    study = build(root)
    (root / "losses.png").unlink()
    with pytest.raises(ValueError, match=r"losses.png: missing; draw it"):
        report(study, root, root)


def test_deviations_are_those_of_trained_variants() -> None:
    found = {(d["where"], d["key"]): d for d in deviations(small({"ce": (), "ar": ()}))}
    clamp = found["sampling: s2, s4, s4-cfg", "clamp"]
    assert (clamp["ours"], clamp["published"]) == ("4", "none") and "2.4e-9" in clamp["why"]
    assert found["recipes: r", "ema"]["published"] == "0.9999"
    assert found["sampling", "guidance, temperature"]["ours"] == "2 and 1, not swept"
    assert found["metrics", "feature extractor"]["published"] == "Inception"
    assert not any("a4" in where or "vq" in where for where, _ in found), "only ar uses these"
    assert not any(key in ("label_drop", "betas", "weight_decay", "guidance_schedule") for _, key in found)


def test_imported_weights_and_dit_have_no_recipe_to_depart_from() -> None:
    found = deviations(large({"ce": (), "ar": (), "diff": ()}))
    assert not any(where.startswith("recipes") for where, _ in ((d["where"], d["key"]) for d in found))
    assert any(d["where"] == "sampling: s4, s4-cfg" and d["key"] == "clamp" for d in found), "published is sampled here"
    assert not any("j50" in d["where"] for d in found)
    assert "data set" not in {d["key"] for d in deviations(large(imagenet=True))}


def test_summary_prints_table_verdicts_and_where_to_look(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = build(root)
    capsys.readouterr()
    summary(study, root)
    text = capsys.readouterr().out
    assert "Table 1: 100% of A_B & C" in text
    row, paper = (line for line in text.splitlines() if re.match(r"\s+(mar-default-diffloss|paper +3.50)", line))
    assert re.search(r"20\.0 \[\d\d\.\d, \d\d\.\d\]", row) and "290.3" in paper
    for expected in ("real versus real", "not run", "replicated", f"Report: {root / 'report.html'} (not written yet)"):
        assert expected in text
    assert "not decidable here" in text
    assert f"mlflow ui --backend-store-uri sqlite:///{root.parent / 'mlflow.db'}" in text
    (root / "claims.json").unlink()
    with pytest.raises(ValueError, match=r"claims.json: missing"):
        summary(study, root)
