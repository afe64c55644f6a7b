"""Fast modes accepted and refused on numbers that are known: the same features, moved ones, fewer seconds."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate import PROVENANCE, fabricate, small, write

from mar.analysis import acceptance
from mar.analysis.estimates import Results
from mar.analysis.noninferiority import MARGINS
from mar.metrics import formulas, jackknife, moments
from mar.report.tables import fast_modes
from mar.report.tables.inputs import inputs
from mar.runtime.files import read_json, sha256
from mar.study.products import speed_settings, table_names
from mar.study.reading import resolve
from mar.study.study import Study

JUDGE = {"name": "classifier", "weights": "0" * 64, "note": ""}
SOURCE = {"kind": "split", "name": "train", "sha256": "a" * 64}
N, WIDTH, SHIFT = 600, 4, 0.5
MEASURED = ("fid", "precision", "recall")  # the features of this file have no logits
SECONDS = {"s4": 0.8, "s2": 0.2, "s4-cfg": 0.4}


def study(samples: int = N, **more: Any) -> Study:
    """The small study; s2 and s4-cfg of `diff` are held against s4."""
    values = small({"ar": (0,), "ce": (0,), "diff": (0, 1)}).model_dump(mode="json", exclude_unset=True)
    values["metrics"] |= {"samples": samples, "bootstrap": 100}
    values["fast"] = {"variant": "diff", "default": "s4", "modes": ["s2", "s4-cfg"]} | more
    return resolve(values, "fast.yaml")


def keep(folder: Path, rows: np.ndarray, labels: np.ndarray, role: str) -> None:
    """Features of a set as `mar features` leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "part-00000.npz", features=rows, labels=labels)
    part = {"file": "part-00000.npz", "count": len(rows), "sha256": sha256(folder / "part-00000.npz")}
    about = {"role": role, "source": SOURCE, "count": len(rows), "keys": ["features", "labels"], "parts": [part]}
    write(folder / "manifest.json", about | {"extractor": JUDGE, "provenance": PROVENANCE})


def made(root: Path, move: dict[str, float], samples: int = N, labels: dict[str, int] | None = None) -> Study:
    """Results in which a setting's features are the default's and `move` of noise of their own, FID by their mean."""
    found = study(samples)
    fabricate(found, root, lambda variant, setting, seed: 2.0, lambda variant, setting: SECONDS.get(setting, 1.0))
    rng = np.random.default_rng(0)
    real = rng.normal(size=(samples, WIDTH))
    keep(root / "features" / "classifier" / "train", real, np.arange(samples) % 10, "real")
    digest = sha256(root / "features" / "classifier" / "train" / "manifest.json")
    about = {"extractor": JUDGE, "role": "real", "source": SOURCE, "n": samples, "features": digest}
    path = root / "statistics" / "classifier" / "train.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **moments.of(real), about=np.array(json.dumps(about)))
    for seed in (0, 1):
        default = rng.normal(size=(samples, WIDTH)) + SHIFT
        for setting in ("s4", "s2", "s4-cfg"):
            rows = default + move.get(setting, 0.0) * rng.normal(size=default.shape)
            classes = np.arange(samples) % 10 + (labels or {}).get(setting, 0)
            keep(root / "features" / "classifier" / f"diff/seed{seed}/{setting}", rows, classes, "generated")
    return found


def judged(found: Study, root: Path) -> dict[str, acceptance.Mode]:
    return {mode.setting: mode for mode in acceptance.modes(Results(found, root))}


def test_the_same_images_differ_by_nothing_and_are_accepted(tmp_path: Path) -> None:
    modes = judged(made(tmp_path, {}), tmp_path)
    default, mode = modes["s4"], modes["s2"]
    assert default.differs.startswith("steps 4") and "{}" not in default.differs
    assert mode.difference is not None
    assert (mode.difference.value, mode.difference.low, mode.difference.bound) == pytest.approx((0, 0, 0), abs=1e-12)
    assert {metric: lost.bound for metric, lost in mode.losses.items()} == pytest.approx(dict.fromkeys(MEASURED, 0.0))
    assert mode.refused == () and mode.power == 1.0 and mode.speedup == pytest.approx(4.0)
    assert mode.differs == "steps 2"


def test_another_real_side_than_that_of_the_metrics_is_refused(tmp_path: Path) -> None:
    found = made(tmp_path, {})
    path = tmp_path / "metrics" / "diff" / "seed1" / "s2.json"
    values = read_json(path)
    real = sha256(tmp_path / "statistics" / "classifier" / "train.npz")
    write(path, values | {"inputs": values["inputs"] | {"real classifier": real}})
    assert judged(found, tmp_path)["s2"].refused == ()
    write(path, values | {"inputs": values["inputs"] | {"real classifier": "b" * 64}})
    with pytest.raises(
        ValueError, match=r"train\.npz: not the file that .*seed1/s2\.json was made with; accepted: the"
    ):
        judged(found, tmp_path)


def test_the_difference_is_that_of_fid_over_the_defaults_and_pairs_are_narrower(tmp_path: Path) -> None:
    found = made(tmp_path, {"s2": 0.1, "s4-cfg": 1.0})
    mode = judged(found, tmp_path)
    want, alone = [], []
    with np.load(tmp_path / "statistics" / "classifier" / "train.npz") as arrays:
        real = {"mu": arrays["mu"], "sigma": arrays["sigma"]}
    for seed in (0, 1):
        folder = tmp_path / "features" / "classifier" / "diff" / f"seed{seed}"
        rows = [np.load(folder / s / "part-00000.npz")["features"] for s in ("s2", "s4")]
        (fid, moves), (default, theirs) = (jackknife.fid(x, real) for x in rows)
        want.append((fid - default) / default)
        alone.append((moves.var() + theirs.var()) / N / default**2)
    close, far = mode["s2"].difference, mode["s4-cfg"].difference
    assert close is not None and far is not None
    assert close.value == pytest.approx(np.mean(want)) and close.low < close.value < close.bound
    # two seeds are averaged; unpaired, the interval would be that of two independent sets
    assert close.bound - close.low < 0.3 * 2 * 1.96 * np.sqrt(np.sum(alone)) / 2
    assert far.low > MARGINS["fid"], "twice the variance in every direction is far beyond it"
    assert mode["s4-cfg"].refused[0] == f"FID up by up to {100 * far.bound:.1f}%"
    assert mode["s4"].difference is None and mode["s4"].speedup == 1.0


def test_a_mode_that_is_as_good_is_refused_where_images_are_too_few(tmp_path: Path) -> None:
    """The margin holds the end of the interval, so that few images prove nothing."""
    mode = judged(made(tmp_path, {"s2": 0.3}, samples=40), tmp_path)["s2"]
    assert mode.difference is not None and mode.difference.low < 0
    assert mode.difference is not None and mode.difference.bound > MARGINS["fid"]
    assert mode.refused and "FID up by up to" in mode.refused[0] and mode.power < 0.5
    assert mode.enough is None or mode.enough > 40


def test_losses_of_precision_and_recall_are_those_of_the_metrics(tmp_path: Path) -> None:
    found = made(tmp_path, {"s2": 1.0})
    lost = judged(found, tmp_path)["s2"].losses
    folder = tmp_path / "features" / "classifier"
    real = np.load(folder / "train" / "part-00000.npz")["features"]
    falls = []
    for seed in (0, 1):
        both = [np.load(folder / f"diff/seed{seed}/{s}" / "part-00000.npz")["features"] for s in ("s4", "s2")]
        default, mode = (formulas.precision_recall(rows, real, found.metrics.neighbours) for rows in both)
        falls.append(np.subtract(default, mode))
    assert (lost["precision"].value, lost["recall"].value) == pytest.approx(tuple(np.mean(falls, axis=0)))
    assert lost["precision"].low < lost["precision"].value < lost["precision"].bound


def test_other_labels_are_no_pairs(tmp_path: Path) -> None:
    found = made(tmp_path, {}, labels={"s2": 1})
    with pytest.raises(ValueError, match=r"s2: of other labels than .*s4; accepted: the same"):
        judged(found, tmp_path)


def test_the_table_says_verdict_reason_and_how_many_images_it_takes(tmp_path: Path) -> None:
    found = made(tmp_path, {"s2": 0.02, "s4-cfg": 1.0})
    fast_modes.table(found, tmp_path)
    with open(tmp_path / "tables" / "fast.csv", newline="") as file:
        rows = {row["setting"]: row for row in csv.DictReader(file)}
    assert [rows[s]["accepted"] for s in ("s4", "s2", "s4-cfg")] == ["", "True", "False"]
    assert float(rows["s2"]["speedup"]) == pytest.approx(4.0)
    assert float(rows["s2"]["seconds_high"]) == pytest.approx(0.22)
    text = (tmp_path / "tables" / "fast.md").read_text()
    assert (
        re.search(r"\| yes +\|", text)
        and "no: FID up by up to" in text
        and "A mode that loses nothing passes in" in text
    )
    assert (tmp_path / "tables" / "fast.tex").read_text().count(r"\\") >= 4


def test_a_study_with_modes_times_them_and_has_the_table() -> None:
    found = study()
    assert table_names(found)[-1] == "fast" and speed_settings(found, "diff") == ["s2", "s4", "s4-cfg"]
    assert speed_settings(found, "ce") == speed_settings(small(), "ce")
    needed = [path.as_posix() for path in inputs(found, Path(), "fast")]
    assert "features/classifier/diff/seed1/s4-cfg/manifest.json" in needed and "speed/diff.json" in needed
    assert "fast" not in table_names(small())
