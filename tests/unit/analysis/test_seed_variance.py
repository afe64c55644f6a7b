"""Sources of scatter with answers worked out by hand (formulas: mar/analysis/seed_variance.py)."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import variance

import numpy as np
import pytest
from fabricate import BEST, fabricate, replicated, small, swept, write

from mar.analysis import seed_variance
from mar.analysis.estimates import Results
from mar.report.tables import paper_tables
from mar.report.tables import variance as sources
from mar.runtime.files import read_json
from mar.study.products import replicas, table_names
from mar.study.reading import resolve

AGAIN = (-0.03, -0.01, 0.01, 0.03)  # what four sampling seeds do to log FID
MOVED = variance(AGAIN)


def fid(variant: str, setting: str, seed: int) -> float:
    """Training seeds move log FID by 0.1 either way, sampling seeds of `diff` by AGAIN."""
    number = int(setting.partition("-r")[2] or 0)
    again = AGAIN[number] if setting.startswith("s4") and "cfg" not in setting else 0.0
    return math.exp(3.0 + (0.1 if seed == 0 else -0.1) + again)


def made(root: Path, noise: float, replicas: int = 4) -> seed_variance.Parts:
    study = replicated(replicas)
    fabricate(study, root, fid, noise=noise)
    return seed_variance.decompose(Results(study, root), "fid")


def test_each_source_is_what_it_was_made_of(tmp_path: Path) -> None:
    parts = made(tmp_path, noise=0.02)
    assert parts.images.sd == pytest.approx(0.02)
    assert parts.images.dof == (2 * 2 + 2 * 2 + 2 * 6) * 19, "sample sets times resamples less one"
    assert (parts.sampling.sd, parts.sampling.dof) == (pytest.approx(math.sqrt(MOVED)), 6)  # 3 of each training
    assert (parts.training.sd, parts.training.dof) == (pytest.approx(0.1 * math.sqrt(2)), 3)
    assert parts.retraining == pytest.approx(math.sqrt(0.02 - 0.02**2)), "without the images' part"
    assert parts.times == pytest.approx(0.1 * math.sqrt(2) / 0.02)
    assert parts.ratio == pytest.approx(MOVED / 0.02**2) and parts.agrees
    # 95% interval of a standard deviation with 6 degrees of freedom: chi^2 quantiles 1.237344 and 14.449375
    assert parts.sampling.high == pytest.approx(math.sqrt(MOVED * 6 / 1.237344), rel=1e-5)
    assert parts.sampling.low == pytest.approx(math.sqrt(MOVED * 6 / 14.449375), rel=1e-5)


@pytest.mark.parametrize(("noise", "said"), [(0.01, "too narrow"), (0.02, "agrees"), (0.08, "too wide")])
def test_whether_the_bootstrap_foresees_sampling_seeds(tmp_path: Path, noise: float, said: str) -> None:
    parts = made(tmp_path, noise)
    assert parts.agrees == (said == "agrees")
    study = replicated(4)
    values = sources.texts(Results(study, tmp_path))
    assert values.iloc[0, 0] == "FID" and values.iloc[0, -1] == said
    note = paper_tables.note(study, Results(study, tmp_path))
    assert ("the intervals are " + said in note) == (said != "agrees")


def test_a_right_bootstrap_is_accepted_in_95_of_100_cases() -> None:
    """The check's error rate on normal numbers: m - 1 = 3 degrees of freedom for each of 2 trainings."""
    rng = np.random.default_rng(0)
    ratios = rng.normal(0.0, 0.02, (20_000, 2, 4)).var(axis=2, ddof=1).mean(axis=1) / 0.02**2
    low, high = seed_variance._range(6)
    assert (ratios < low).mean() == pytest.approx(0.025, abs=0.004)
    assert (ratios > high).mean() == pytest.approx(0.025, abs=0.004)


def test_settings_that_share_noise_add_no_degrees_of_freedom(tmp_path: Path) -> None:
    study = replicated(4)
    values = study.model_dump(exclude_defaults=True)
    for i in (1, 2, 3):  # the guided setting four times as well
        values["sampling"][f"s4-cfg-r{i}"] = values["sampling"]["s4-cfg"] | {"seed": i}
    values["variants"]["diff"]["sampling"] = [*study.variants["diff"].sampling, *(f"s4-cfg-r{i}" for i in (1, 2, 3))]
    more = resolve(values, "more.yaml")
    fabricate(more, tmp_path, fid, noise=0.02)
    parts = seed_variance.decompose(Results(more, tmp_path), "fid")
    assert parts.sampling.dof == 6
    assert parts.sampling.sd == pytest.approx(math.sqrt(MOVED / 2)), "the guided ones do not scatter here"


def test_sets_of_other_guidance_are_no_replicas(tmp_path: Path) -> None:
    values = swept().model_dump(exclude_defaults=True)
    for i in (1, 2):
        values["sampling"][f"s4-cfg-r{i}"] = values["sampling"]["s4-cfg"] | {"seed": i}
    values["variants"]["diff"]["sampling"] = [*values["variants"]["diff"]["sampling"], "s4-cfg-r1", "s4-cfg-r2"]
    study = resolve(values, "swept.yaml")
    assert ["s4-cfg", "s4-cfg-r1", "s4-cfg-r2"] in replicas(study, "diff")
    fabricate(study, tmp_path, lambda v, s, k: 20.0, noise=0.02)
    assert seed_variance.decompose(Results(study, tmp_path), "fid").sampling.dof == 2 * 2
    file = tmp_path / "sweeps" / "diff" / "s4-cfg-r2.json"
    write(file, read_json(file) | {"best": BEST | {"guidance": 2.0}})
    assert seed_variance.decompose(Results(study, tmp_path), "fid").sampling.dof == 2 * 1


def test_what_is_not_measured_is_empty(tmp_path: Path) -> None:
    study = small()
    fabricate(study, tmp_path, fid, noise=0.02)
    parts = seed_variance.decompose(Results(study, tmp_path), "fid")
    assert parts.sampling.dof == 0 and parts.agrees is None and parts.training.dof == 3
    sources.table(study, tmp_path)
    with open(tmp_path / "tables" / "variance.csv", newline="") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert (rows["fid"]["sampling_sd"], rows["fid"]["agrees"], rows["fid"]["sampling_dof"]) == ("", "", "0")
    assert float(rows["fid"]["training_cv"]) == pytest.approx(10 * math.sqrt(2)) and rows["fid"]["scale"] == "log"
    assert float(rows["fid"]["images_cv"]) == pytest.approx(2.0)
    # by difference: in percent of the mean; KID is around zero and has none
    score = rows["inception_score"]
    assert (
        float(score["images_cv"]) == pytest.approx(100 * 0.02 / float(score["mean"])) and rows["kid"]["images_cv"] == ""
    )
    assert rows["fid_infinity"]["scale"] == "difference, in units of FID"
    text = (tmp_path / "tables" / "variance.md").read_text()
    assert "not measured" in text and "nan" not in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_the_table_is_there_where_seeds_show_something() -> None:
    one = {"ar": (0,), "ce": (0,), "diff": (0,)}
    assert table_names(small()) == ["table1", "metrics", "variance"]
    assert table_names(small(one)) == ["table1", "metrics"]
    assert table_names(replicated(2, one)) == ["table1", "metrics", "variance"]
    assert table_names(replicated(2, one | {"diff": ()})) == ["table1", "metrics"]


def test_names_of_our_own_tables_are_taken() -> None:
    values = small().model_dump(exclude_defaults=True)
    with pytest.raises(ValueError, match=r"tables.variance: every study has a table of this name"):
        resolve(values | {"tables": {"variance": values["tables"]["table1"]}}, "s.yaml")
