"""What a reader is warned of before the numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fabricate import PROVENANCE, cell, fabricate, small

from mar.analysis.estimates import Results
from mar.analysis.verdicts import decide
from mar.analysis.warnings import warnings
from mar.report.terminal import summary
from mar.runtime import code_digest
from mar.study import layout


def change(path: Path, **over: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | over))


def poor(root: Path) -> list[str]:
    return [f"{w.about}: {w.text}" for w in warnings(Results(small(), root))]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A study with a floor of 10, FIDs of 40 and 60, a judge of accuracy 0.99 and tokenizers whose rFID is 20."""
    root = tmp_path / "small"
    study = small()
    fabricate(study, root, lambda variant, setting, seed: 40.0 if variant == "diff" else 60.0)
    for name in study.tokenizers:
        lost = {"rfid": cell(20.0, 0.1, 504), "floor": cell(10.0, 0.1, 504), "psnr": cell(20.0, 0.1, 504)}
        change(layout.rfid(root, name), metrics=lost)
    spread = {"classifier": {"features": 64, "effective": 6.8, "dead": 16}}
    change(layout.reference_metrics(root), spread=spread)
    return root


def test_a_sound_study_has_none(root: Path) -> None:
    assert poor(root) == []


def test_a_poor_judge(root: Path) -> None:
    change(root / "classifier" / "classifier.json", accuracy=0.74)
    change(layout.reference_metrics(root), spread={"classifier": {"features": 64, "effective": 6.7, "dead": 17}})
    found = poor(root)
    assert len(found) == 3 and all(text.startswith("judge: ") for text in found)
    assert "names 74% of 504 held-out images" in found[0]
    assert "effective dimension of 6.70, below 75% of the 9 that tell 10 classes apart" in found[1]
    assert "Of the judge's 64 features 17 do not vary" in found[2]


def test_a_tokenizer_that_costs_most_of_the_best_fid(root: Path) -> None:
    study = small()
    tokenizer = study.variants["diff"].tokenizer
    best = min(40.0 if v == "diff" else 60.0 for v, x in study.variants.items() if x.seeds and x.tokenizer == tokenizer)
    for share, count in ((0.79, 0), (0.81, 1)):
        lost = {"rfid": cell(10.0 + share * (best - 10.0), 0.1, 504), "floor": cell(10.0, 0.1, 504)}
        change(layout.rfid(root, tokenizer), metrics=lost)
        assert len(poor(root)) == count
    assert poor(root)[0].startswith(
        f"tokenizer: Tokenizer {tokenizer} has an rFID of 34.3, and the best FID with it is 40.0"
    )
    # a floor of few images is too high, and is not taken off what was reached
    metrics = json.loads(layout.reference_metrics(root).read_text())["metrics"]
    few = study.metrics.samples - 1
    change(layout.reference_metrics(root), metrics=metrics | {"fid": metrics["fid"] | {"n": few}})
    assert poor(root) == []


def test_samples_that_are_no_images(root: Path) -> None:
    sets = sorted((root / "metrics").glob("*/seed*/*.json"))
    for path in sets:
        precision = 0.09 if path.relative_to(root / "metrics").parts[0] == "diff" and path.stem == "s4" else 0.11
        change(path, metrics=json.loads(path.read_text())["metrics"] | {"precision": cell(precision, 0.0, 504)})
    (found,) = poor(root)
    assert found.startswith(
        "samples: Precision is below 0.1 of MAR, Diffusion Loss at 4 steps, 25 diffusion steps (0.0900): "
    )


def test_a_denoiser_narrower_than_its_tokens(root: Path) -> None:
    study = small()
    narrow = {"diff": study.heads["diff"].model_copy(update={"width": 1})}
    (found,) = warnings(Results(study.model_copy(update={"heads": study.heads | narrow}), root))
    assert found.about == "head" and "diff: heads.diff.width is 1 and a token of " in found.text


def test_a_study_of_an_older_version_has_no_spread(root: Path) -> None:
    record = json.loads(layout.reference_metrics(root).read_text())
    del record["spread"]
    layout.reference_metrics(root).write_text(json.dumps(record))
    (root / "classifier" / "classifier.json").unlink()
    assert poor(root) == []


def test_the_summary_begins_with_them(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    change(root / "classifier" / "classifier.json", accuracy=0.5)
    decide(small(), root, layout.shipped("claims.yaml"))
    capfd.readouterr()
    summary(small(), root)
    assert capfd.readouterr().out.startswith("Warning: The classifier, which judges, names 50% of 504 held-out images")


def test_cells_of_a_table_that_were_made_under_different_versions(root: Path) -> None:
    metrics = layout.metrics(root, "diff/seed1/s4-cfg")
    change(metrics, provenance=json.loads(metrics.read_text())["provenance"] | {"torch": "9.9"})
    change(layout.metrics(root, "diff/seed0/s2"), provenance=PROVENANCE | {"device": "A100"})  # in no table
    (found,) = poor(root)
    assert found == (
        "versions: The cells of table table1 were measured under different versions or on different devices: "
        "Python 3.11.7, torch 2.0, cpu; Python 3.11.7, torch 9.9, cpu."
    )
    change(layout.run_record(root, "ar", 1), provenance=PROVENANCE | {"device": "A100"})
    assert len(poor(root)) == 2 and "were trained under" in poor(root)[0] and "A100" in poor(root)[0]


def test_what_other_code_made(root: Path) -> None:
    today = code_digest.today(layout.own_code(root))
    state = {"time": "now", "git_commit": "c0ffee", "modules": {"mar.models.order": today["mar.models.order"]}}
    for seed in (0, 1):
        folder = layout.run(root, "diff", seed)
        (folder / code_digest.CODE).write_text(json.dumps({"format": 1, "states": [state]}))
    assert poor(root) == []
    other = state | {"modules": {"mar.models.order": "0" * 64, "mar.models.gone": "1" * 64}}
    for seed in (0, 1):
        folder = layout.run(root, "diff", seed)
        (folder / code_digest.CODE).write_text(json.dumps({"format": 1, "states": [other]}))
    said = "made by other code than today's mar.models.gone, mar.models.order"
    assert poor(root) == [f"code: Of runs/diff/seed0, runs/diff/seed1: {said} (`mar status` lists all)."]
