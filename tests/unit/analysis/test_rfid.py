"""rFID with a tokenizer for each training seed: by hand, coverage by simulation, and its files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import fabricate
import numpy as np
import pytest

from mar.analysis import rfid
from mar.analysis.estimates import Results
from mar.analysis.result_files import Estimate
from mar.report.tables.inputs import inputs
from mar.study.reading import resolve
from mar.study.study import Study

T1, T2 = 12.706205, 4.302653  # 97.5% quantiles of Student's t


def estimates(logs: list[float], noise: float) -> list[Estimate]:
    """rFID of one tokenizer for each seed, from its logarithm and the bootstrap standard error of that."""
    values = [math.exp(y) for y in logs]
    half = rfid.Z * noise
    return [Estimate(v, v * (1 - half), v * (1 + half), 100, (seed,)) for seed, v in enumerate(values)]


def test_mean_with_the_spread_of_all_sections() -> None:
    kl, vq = estimates([1.0, 1.2], 0.01), estimates([2.0, 2.4], 0.03)
    alone = rfid.over_seeds(kl, [kl])
    assert (alone.value, alone.seeds, alone.n) == (pytest.approx(math.exp(1.1)), (0, 1), 100)
    assert math.log(alone.high) == pytest.approx(1.1 + math.hypot(T1 * 0.1, rfid.Z * 0.01), rel=1e-5)
    both = rfid.over_seeds(kl, [kl, vq])
    half = math.hypot(T2 * math.sqrt((0.02 + 0.08) / 2 / 2), rfid.Z * 0.01)
    assert math.log(both.low) == pytest.approx(1.1 - half, rel=1e-5)


def test_one_seed_has_the_noise_of_the_images() -> None:
    one = estimates([1.0], 0.02)
    assert math.log(rfid.over_seeds(one, [one]).high) == pytest.approx(1.0 + rfid.Z * 0.02)
    pooled = rfid.over_seeds(one, [one, estimates([2.0, 2.4], 0.0)])
    assert math.log(pooled.high) == pytest.approx(1.0 + math.hypot(T1 * math.sqrt(0.08), rfid.Z * 0.02), rel=1e-5)


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0, 2.0, 4.0])  # of the images, in units of the tokenizers' scatter
@pytest.mark.parametrize(("sections", "seeds"), [(1, 2), (2, 2), (2, 3), (4, 3)])
def test_intervals_cover(sections: int, seeds: int, noise: float) -> None:
    """The truth is the mean over all tokenizers and images; the images' noise is common to the seeds of a section."""
    rng = np.random.default_rng(0)
    sd, repeats, hits = 0.05, 400, 0
    for _ in range(repeats):
        images = noise * sd * rng.normal(size=(sections, 1))
        logs = 2.0 + images + sd * rng.normal(size=(sections, seeds))
        pools = [estimates(list(row), noise * sd) for row in logs]
        found = rfid.over_seeds(pools[0], pools)
        hits += found.low <= math.exp(2.0) <= found.high
    assert hits / repeats >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


def seeded() -> Study:
    """The large study with a tokenizer for each seed of the continuous one, which `diff` uses with two seeds."""
    study = fabricate.large()
    values = json.loads(study.model_dump_json(exclude_defaults=True))
    section = study.variants["diff"].tokenizer
    values["tokenizers"][section]["per_seed"] = True
    return resolve(values, "seeded.yaml")


def test_a_variant_has_the_mean_of_its_tokenizers(tmp_path: Path) -> None:
    study = seeded()
    fabricate.fabricate(study, tmp_path, lambda variant, setting, seed: 20.0)
    names = [study.tokenizer_of("diff", seed) for seed in (0, 1)]
    for name, value in zip(names, (4.0, 9.0), strict=True):
        file = tmp_path / "tokenizers" / name / "rfid.json"
        values = json.loads(file.read_text())
        values["metrics"]["rfid"] |= {"value": value, "low": value, "high": value}
        fabricate.write(file, values)
    found = Results(study, tmp_path)
    assert [(e.value, e.seeds) for e in found.rfids("diff", "heldout")] == [(4.0, (0,)), (9.0, (1,))]
    mean = found.rfid("diff", "heldout")
    assert mean is not None and mean.source is not None
    assert (mean.value, mean.seeds) == (pytest.approx(6.0), (0, 1))
    assert mean.source.files == tuple(f"tokenizers/{name}/rfid.json" for name in names)
    assert found.rfid("diff") is None and found.rfids("diff") == [], "not measured on the train split"
    vq = found.rfid("ar", "heldout")
    assert vq is not None and (vq.value, vq.seeds) == (5.0, ())


def test_tables_of_rfid_read_all_tokenizers_that_their_interval_needs(tmp_path: Path) -> None:
    study = seeded()
    table = next(
        name for name in study.tables if any(path.name == "rfid.json" for path in inputs(study, tmp_path, name))
    )
    files = {path.parent.name for path in inputs(study, tmp_path, table) if path.name == "rfid.json"}
    assert {study.tokenizer_of("diff", seed) for seed in (0, 1)} <= files
