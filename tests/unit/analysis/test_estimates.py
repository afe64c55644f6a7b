"""Intervals and comparisons with answers worked out by hand (formulas: mar/analysis/estimates.py)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from fabricate import BEST, fabricate, large, replicated, small, write
from scipy.stats import t as student

from mar.analysis.estimates import Results
from mar.analysis.result_files import short
from mar.runtime.files import read, read_json
from mar.study.reading import resolve

# Three variants with two seeds each: a variant's spread is 1/3 its own and 2/3 the pool's. So a cell has weights 5/9,
# 2/9 and 2/9 on the three variances, and a comparison of two has 7/18, 7/18 and 4/18. The degrees of freedom are
# 1 / (sum of squares).
T_CELL = float(student.ppf(0.975, 81 / 33))
D_BOTH = 324 / 114
T_BOTH = float(student.ppf(0.975, D_BOTH))
Z = 1.959964
MEAN = {"ar": 4.0, "ce": 3.5, "diff": 3.0}  # log FID


def shifted(d: float):
    """log FID of a variant, d up with seed 0 and d down with seed 1, the same for all its settings."""
    return lambda variant, setting, seed: math.exp(MEAN[variant] + (d if seed == 0 else -d))


def results(root: Path, d: float, noise: float, seeds: dict[str, tuple[int, ...]] | None = None) -> Results:
    study = small(seeds)
    fabricate(study, root, shifted(d), noise=noise)
    return Results(study, root)


def test_cell_is_the_geometric_mean_with_the_pooled_seed_spread(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.1, noise=0.0)
    assert found.spread("fid").sd == pytest.approx(0.1 * math.sqrt(2))
    assert found.spread("fid").dof == 3  # variants, not (variant, setting) pairs: settings share weights
    cell = found.cell("ar", "a4", "fid")
    assert cell is not None
    assert (cell.value, cell.n, cell.seeds) == (pytest.approx(math.exp(4.0)), 40, (0, 1))
    assert math.log(cell.high) == pytest.approx(4.0 + T_CELL * 0.1, rel=1e-5)
    assert math.log(cell.low) == pytest.approx(4.0 - T_CELL * 0.1, rel=1e-5)


def test_image_noise_is_not_counted_twice(tmp_path: Path) -> None:
    """The scatter over seeds contains the images' noise: tau^2 = 2 d^2 - b^2, and 0 when noise explains it all."""
    found = results(tmp_path / "a", d=0.1, noise=0.05)
    assert found.spread("fid").sd == pytest.approx(math.sqrt(0.02 - 0.0025))
    cell = found.cell("ar", "a4", "fid")
    assert cell is not None
    b = 0.05**2 / 2  # S is 0.02 / 2; of B all but 1 / dof is taken off it
    half = math.sqrt(Z**2 * b + T_CELL**2 * (0.01 - (1 - 33 / 81) * b))
    assert math.log(cell.high) == pytest.approx(4.0 + half, rel=1e-5)

    found = results(tmp_path / "b", d=0.01, noise=0.05)
    assert found.spread("fid").sd == 0.0
    cell = found.cell("ar", "a4", "fid")
    assert cell is not None and math.log(cell.high) == pytest.approx(4.0 + Z * 0.05 / math.sqrt(2), rel=1e-5)


def test_interval_that_reaches_below_zero_stays_usable(tmp_path: Path) -> None:
    """The bootstrap of a FID close to the floor can end below zero, where there is no logarithm."""
    study = small()
    fabricate(study, tmp_path, lambda *_: 2.0)
    for file in (tmp_path / "metrics").glob("*/*/*.json"):
        values = json.loads(file.read_text())
        values["metrics"]["fid"] |= {"low": 2.0 - 2 * 1.959964, "high": 2.0 + 2 * 1.959964}
        file.write_text(json.dumps(values))
    cell = Results(study, tmp_path).cell("ar", "a4", "fid")
    assert cell is not None and 0 < cell.low < cell.value < cell.high
    assert math.log(cell.high / cell.value) == pytest.approx(Z * 1.0 / math.sqrt(2), rel=1e-5)  # b = 2 / value


def test_other_metrics_are_compared_by_difference(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.0, noise=0.1)
    c = found.compare(("diff", "s4"), ("ce", "c4"), "precision")
    assert c is not None
    assert c.effect == pytest.approx((math.exp(3.5) - math.exp(3.0)) / 1000)
    assert c.high - c.effect == pytest.approx(Z * 0.1, rel=1e-5)  # sqrt(b^2 / 2 + b^2 / 2)
    assert not c.better and not c.worse and not c.log


def test_shares_stay_within_one(tmp_path: Path) -> None:
    cell = results(tmp_path, d=0.0, noise=0.1).cell("diff", "s4", "agreement")
    assert cell is not None and cell.low < cell.value < cell.high == 1.0


def test_unpaired_comparison(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.1, noise=0.05)
    c = found.compare(("diff", "s4"), ("ar", "a4"), "fid")
    assert c is not None
    assert c.effect == pytest.approx(-1.0)
    half = math.sqrt(Z**2 * 0.0025 + T_BOTH**2 * (0.02 - (1 - 1 / D_BOTH) * 0.0025))  # S = 0.02, B = b^2
    assert c.high - c.effect == pytest.approx(half, rel=1e-5)
    assert c.better and not c.worse and not c.few


def test_settings_of_one_variant_are_paired_by_seed(tmp_path: Path) -> None:
    """A seed that moves all settings alike leaves their difference alone: only the image noise is left."""
    found = results(tmp_path, d=0.5, noise=0.01)
    c = found.compare(("diff", "s4"), ("diff", "s2"), "fid")
    assert found.spread("fid", paired=True).sd == 0.0
    assert c is not None and c.high - c.effect == pytest.approx(Z * 0.01, rel=1e-4)  # sqrt(2 b^2 / 2)


def test_paired_spread_is_that_of_the_differences(tmp_path: Path) -> None:
    study = small({"diff": ()})

    def fid(variant: str, setting: str, seed: int) -> float:
        opposite = -1 if setting.endswith("cfg") else 1
        return math.exp(3.0 + opposite * (0.1 if seed == 0 else -0.1))

    fabricate(study, tmp_path, fid)
    spread = Results(study, tmp_path).spread("fid", paired=True)
    assert (spread.sd, spread.dof) == (pytest.approx(0.2 * math.sqrt(2)), 2)  # differences +-0.2


def test_one_seed_decides_nothing_unless_far(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.01, noise=0.0, seeds={"ce": (0,)})
    # tau^2 = 2 d^2, one seed a side: 4 d^2, halved for two; ar has 1/3 + 2/3 / 2 + 1/2 of the weight, diff 5/6 of 2
    threshold = 3 * student.ppf(0.975, 2**2 / ((7 / 6) ** 2 + (5 / 6) ** 2)) * math.sqrt(2) * 0.01  # = 0.19
    c = found.compare(("ce", "c4"), ("ar", "a4"), "fid")
    assert c is not None and c.few
    assert abs(c.effect) > threshold and c.far and c.better

    MEAN["ce"] = 3.9
    try:
        found = results(tmp_path / "near", d=0.01, noise=0.0, seeds={"ce": (0,)})
    finally:
        MEAN["ce"] = 3.5
    c = found.compare(("ce", "c4"), ("ar", "a4"), "fid")
    assert c is not None and c.few and abs(c.effect) < threshold
    assert c.high < 0, "the interval alone would say better"
    assert not c.far and not c.better and not c.worse


def test_far_is_measured_from_the_line_that_a_claim_draws(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.01, noise=0.0, seeds={"diff": (0,)})
    cells = (("diff", "s4"), ("ce", "c4"))
    plain = found.compare(*cells, "fid")
    assert plain is not None and plain.few and plain.far
    at_the_line = found.compare(*cells, "fid", edge=plain.effect + 1e-3)
    assert at_the_line is not None and not at_the_line.far and at_the_line.effect == plain.effect


def test_nothing_is_far_without_a_measured_spread(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.0, noise=0.001, seeds={"ar": (0,), "ce": (0,), "diff": (0,)})
    assert found.spread("fid").dof == 0
    c = found.compare(("diff", "s4"), ("ar", "a4"), "fid")
    assert c is not None and c.few and not c.far and not c.better
    cell = found.cell("ar", "a4", "fid")
    assert cell is not None and math.log(cell.high) == pytest.approx(4.0 + 1.959964 * 0.001, rel=1e-6)


def test_untrained_variants_have_no_numbers(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.1, noise=0.0, seeds={"ce": ()})
    assert found.cell("ce", "c4", "fid") is None
    assert found.seconds("ce", "c4") is None
    assert found.seconds("ar", "a4-cfg") is None, "on no curve of the trade-off, so nobody timed it"
    assert found.compare(("diff", "s4"), ("ce", "c4"), "fid") is None


def test_seconds_need_no_seeds(tmp_path: Path) -> None:
    study = small({"ar": (0,), "diff": (0,)})
    fabricate(study, tmp_path, shifted(0.1), seconds=lambda variant, _: 0.2 if variant == "ar" else 0.1)
    c = Results(study, tmp_path).compare(("diff", "s4"), ("ar", "a4"), "seconds")
    assert c is not None and c.better
    assert [math.exp(x) for x in (c.low, c.effect, c.high)] == pytest.approx([0.5 * 0.9 / 1.1, 0.5, 0.5 * 1.1 / 0.9])


def test_missing_and_stale_files_are_named(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.1, noise=0.0)
    file = tmp_path / "metrics" / "diff" / "seed1" / "s4.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "samples": 7}))
    with pytest.raises(ValueError, match=r"diff/seed1/s4.json: samples: found 7; the study asks for 40"):
        found.cell("diff", "s4", "fid")
    del values["metrics"]["fid"]
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"s4.json: metrics: 'fid' is missing; found fid_infinity"):
        found.cell("diff", "s4", "fid")
    file.unlink()
    with pytest.raises(ValueError, match=r"diff/seed1/s4.json: missing"):
        Results(found.study, tmp_path).cell("ar", "a4", "fid")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.98, "1.98"),
        (20.0, "20.0"),
        (476.2, "476"),
        (1234.5, "1234"),
        (0.00123, "0.00123"),
        (0, "0"),
        (-0.5, "-0.500"),
    ],
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


def test_counts_and_rfid_of_a_variant(tmp_path: Path) -> None:
    study = large()
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    found = Results(study, tmp_path)
    assert found.parameters("diff").value == 1234567
    assert found.head_parameters("dit") is None, "its one process is no head on a backbone"
    assert found.rfid("diff") is None
    heldout = found.rfid("diff", "heldout")
    assert heldout is not None and (heldout.value, heldout.n) == (5.0, 40)


def test_training_seconds_are_those_of_all_devices(tmp_path: Path) -> None:
    study = large()
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    file = tmp_path / "runs" / "diff" / "seed1" / "run.json"
    write(file, read_json(file) | {"processes": 4})  # 61 seconds on each
    cost = Results(study, tmp_path).training("diff")
    assert cost is not None and (cost.value, cost.low, cost.high) == ((60 + 4 * 61) / 2, 60, 244)
    assert Results(study, tmp_path).training("published") is None


def test_numbers_compare_with_the_papers_on_its_images_and_features_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = large(imagenet=True)
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    assert Results(study, tmp_path).incomparable == "40 images a sample set, not 50000"
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)
    assert Results(study, tmp_path).comparable
    reference = tmp_path / "metrics" / "reference.json"
    values = read_json(reference)
    values["extractors"]["inception"] |= {"weights": "random", "note": "random weights"}
    write(reference, values)
    found = Results(study, tmp_path)
    assert (found.incomparable, found.random) == ("Inception with random weights", ("inception",))
    study = small()
    fabricate(study, tmp_path / "small", lambda variant, setting, seed: 20.0)
    found = Results(study, tmp_path / "small")
    assert found.incomparable == "other images than ImageNet's, features of its own classifier"


def test_what_can_be_zero_or_less_is_compared_by_difference_in_units_of_fid(tmp_path: Path) -> None:
    study = small()
    mean = {"ar": 5.0, "ce": 10.0, "diff": 100.0}  # FID; fid_infinity is 10 less
    fabricate(study, tmp_path, lambda v, s, k: mean[v] * (1.1 if k == 0 else 0.9))
    found = Results(study, tmp_path)
    assert found.spread("fid_infinity").sd == pytest.approx(0.1 * math.sqrt(2)), "of FID, in all variants alike"
    for variant, setting in (("ar", "a4"), ("ce", "c4"), ("diff", "s4")):
        cell = found.cell(variant, setting, "fid_infinity")
        assert cell is not None and cell.value == pytest.approx(mean[variant] - 10)
        assert cell.high - cell.value == pytest.approx(T_CELL * 0.1 * mean[variant], rel=1e-5)
    below = found.cell("ar", "a4", "kid")
    assert below is not None and below.value == pytest.approx(-0.005) and below.low < below.value
    c = found.compare(("ar", "a4"), ("diff", "s4"), "fid_infinity")
    assert c is not None and c.better and not c.log and c.effect == pytest.approx(-95)
    weights = [(25 * w + 1e4 * v) / (25 + 1e4) for w, v in ((5 / 9, 2 / 9), (2 / 9, 5 / 9), (2 / 9, 2 / 9))]
    t = student.ppf(0.975, 1 / sum(w**2 for w in weights))
    assert c.high - c.effect == pytest.approx(t * math.sqrt(0.01 * (5**2 + 100**2)), rel=1e-5)
    assert found.spread("kid", paired=True).sd == pytest.approx(0.0, abs=1e-9), "settings of a variant are alike here"


def test_another_sampling_seed_is_no_other_setting(tmp_path: Path) -> None:
    """The difference of two settings that differ in the sampling seed alone says nothing about a change of settings."""
    up = {"s4": 0.2}  # with seed 0; of all other settings the training seeds do the same

    def fid(variant: str, setting: str, seed: int) -> float:
        return math.exp(3.0 + (up.get(setting.partition("-r")[0], 0.0) if seed == 0 else 0.0))

    study = replicated(3)
    fabricate(study, tmp_path, fid)
    alone = small()
    fabricate(alone, tmp_path / "alone", fid)
    found, without = (
        Results(s, r).spread("fid", paired=True) for s, r in ((study, tmp_path), (alone, tmp_path / "alone"))
    )
    assert (found.sd, found.dof) == (pytest.approx(without.sd), without.dof) and found.sd > 0


def test_a_setting_that_a_sweep_made_equal_to_another_is_the_same_images(tmp_path: Path) -> None:
    """Counted as a pair, its difference of nothing would dilute the spread of the others."""
    up = {"s4-best": 0.2, "s4-like": 0.2}  # with seed 0

    def fid(variant: str, setting: str, seed: int) -> float:
        return math.exp(3.0 + (up.get(setting, 0.0) if seed == 0 else 0.0))

    values = json.loads(small({"ar": (), "ce": ()}).model_dump_json(exclude_defaults=True))
    values["sampling"]["s4-best"] = values["sampling"]["s4"] | {
        "sweep": {"samples": 20, "guidance": [2.0, BEST["guidance"]], "temperature": [BEST["temperature"], 1.0]}
    }
    values["sampling"]["s4-best"].pop("temperature", None)
    values["variants"]["diff"]["sampling"] = ["s4", "s4-best"]
    values |= {"tradeoff": [], "tables": {}}
    spreads = []
    for also in ([], ["s4-like"]):
        values["sampling"]["s4-like"] = values["sampling"]["s4"] | BEST
        values["variants"]["diff"]["sampling"] += also
        study = resolve(values, "swept.yaml")
        root = tmp_path / str(len(also))
        fabricate(study, root, fid)
        spreads.append(Results(study, root).spread("fid", paired=True).sd)
    assert spreads[0] == pytest.approx(spreads[1]) and spreads[0] == pytest.approx(0.2 / math.sqrt(2))
    found = Results(study, root)
    assert found.distinct("diff") == ["s4", "s4-best"]
    assert found.spread("fid").sd == pytest.approx(0.1), "of s4, which does not move, and of one of the others"


def test_settings_of_figures_do_not_outweigh_those_of_tables(tmp_path: Path) -> None:
    """Settings over diffusion steps and temperature, whose seeds differ by nothing."""

    def fid(variant: str, setting: str, seed: int) -> float:
        return math.exp(3.0 + (0.2 if seed == 0 and setting[0] == "s" else 0.0))

    study = large({"ar": (), "ce": (), "dit": (), "diff": (0, 1)})
    fabricate(study, tmp_path, fid, images=False)
    found = Results(study, tmp_path)
    assert len(found.distinct("diff")) == 25 - 4, "d25, t1.0 and their guided ones are s4 and s4-cfg"
    assert found.spread("fid").dof == 1
    assert found.spread("fid").sd == pytest.approx(0.2 / math.sqrt(2))


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    study = large(imagenet=True)
    fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    file = tmp_path / "metrics" / "diff" / "seed1" / "s4.json"
    values = read_json(file)
    write(file, values | {"reference": {"name": "other", "sha256": "b" * 64}})
    with pytest.raises(
        ValueError,
        match=r"mixed references in one table: .*diff/seed1/s4.json has bbbbbbbbbbbb, .*/metrics/.* has aaaaaaaaaaaa",
    ):
        Results(study, tmp_path).cell("diff", "s4", "fid")
    judges = values["extractors"]
    for extractors in (
        {"inception": judges["inception"]},
        judges | {"dinov2": judges["dinov2"] | {"weights": "c" * 64}},
    ):
        write(file, values | {"extractors": extractors})
        with pytest.raises(
            ValueError, match=r"mixed weights of dinov2 in one table: .*seed1/s4.json has (none|c{12}), .* has 1{12}"
        ):
            Results(study, tmp_path).cell("diff", "s4", "fid")
    other = judges["dinov2"] | {"reference": {"name": "other", "sha256": "d" * 64}}
    write(file, values | {"extractors": judges | {"dinov2": other}})
    with pytest.raises(ValueError, match=r"mixed references of dinov2 in one table: .*s4.json has d{12}, .* has a{12}"):
        Results(study, tmp_path).cell("diff", "s4", "fid")
    write(file, values | {"extractor": "dinov2"})
    with pytest.raises(ValueError, match=r"s4.json: extractor: found 'dinov2'; the study asks for 'inception'"):
        Results(study, tmp_path).cell("diff", "s4", "fid")
    del values["reference"]
    write(file, values)
    with pytest.raises(ValueError, match=r"s4.json: reference: Field required; accepted: a MetricsFile"):
        Results(study, tmp_path).cell("diff", "s4", "fid")


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small()
    fabricate(study, tmp_path, shifted(0.1))
    seen: list[Path] = []
    monkeypatch.setattr("mar.analysis.result_files.read", lambda path, kind: (seen.append(path), read(path, kind))[1])
    found = Results(study, tmp_path)
    for _ in range(2):
        for metric in found.measured:
            found.compare(("diff", "s4"), ("ar", "a4"), metric)
        found.compare(("diff", "s4"), ("ar", "a4"), "seconds")
        found.parameters("diff"), found.training("diff"), found.rfid("diff")
    assert len(seen) == len(set(seen)) > 10


def test_a_number_knows_its_files(tmp_path: Path) -> None:
    found = results(tmp_path, d=0.1, noise=0.0)
    cell, seconds, cost = found.cell("diff", "s4", "fid"), found.seconds("diff", "s4"), found.training("diff")
    assert cell and cell.source and seconds and seconds.source and cost and cost.source
    assert (cell.source.variant, cell.source.setting, cell.source.metric) == ("diff", "s4", "fid")
    assert cell.source.files == ("metrics/diff/seed0/s4.json", "metrics/diff/seed1/s4.json")
    assert seconds.source.files == ("speed/diff.json",)
    assert cost.source.files == ("runs/diff/seed0/run.json", "runs/diff/seed1/run.json")
    assert all((tmp_path / file).exists() for e in (cell, seconds, cost) for file in e.source.files)
