"""FID, Inception score, precision and recall equal the reference values, at the tolerances of the golden index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mar.metrics import metrics, statistics

GOLDEN = Path(__file__).parent / "golden"
TENSORS = load_file(GOLDEN / "metrics.safetensors")
VALUES = json.loads((GOLDEN / "metrics.json").read_text())["values"]
REAL, GENERATED, LOGITS = TENSORS["in.ref_features"], TENSORS["in.sample_features"], TENSORS["in.logits"]


def test_fid() -> None:
    found = metrics.fid(statistics.of(GENERATED), statistics.of(REAL))
    assert found == pytest.approx(VALUES["fid"]["adm_sqrtm"], rel=1e-6)
    assert found == pytest.approx(VALUES["fid"]["torch_fidelity_eigvals"], rel=1e-6)


def test_fid_of_rank_deficient_covariances() -> None:
    rows = VALUES["fid_rank_deficient"]["rows_used_of_each"]
    found = metrics.fid(statistics.of(GENERATED[:rows]), statistics.of(REAL[:rows]))
    assert found == pytest.approx(VALUES["fid_rank_deficient"]["adm_sqrtm"], rel=1e-3)


def test_statistics() -> None:
    found = statistics.of(REAL)
    assert found["mu"].dtype == found["sigma"].dtype == np.float64
    np.testing.assert_allclose(found["mu"], TENSORS["out.ref_mu"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["sigma"], TENSORS["out.ref_cov"], rtol=1e-4, atol=1e-5)


def test_fast_fid_of_the_bootstrap_equals_torch_fidelity() -> None:
    real = statistics.of(REAL)
    root = metrics.symmetric_root(real["sigma"])
    generated = statistics.weighted(GENERATED.astype(np.float64), np.ones(len(GENERATED)))
    assert metrics.frechet(generated, real, root) == pytest.approx(VALUES["fid"]["adm_sqrtm"], rel=1e-6)
    rows = VALUES["fid_rank_deficient"]["rows_used_of_each"]
    real, generated = statistics.of(REAL[:rows]), statistics.of(GENERATED[:rows])
    found = metrics.frechet(generated, real, metrics.symmetric_root(real["sigma"]))
    assert found == pytest.approx(VALUES["fid_rank_deficient"]["adm_sqrtm"], rel=1e-3)


def test_inception_score() -> None:
    expected, _ = VALUES["inception_score"]["torch_fidelity_10splits_shuffled_seed2020"]
    assert metrics.inception_score(LOGITS) == pytest.approx(expected, rel=1e-6)


def test_precision_and_recall() -> None:
    precision, recall = metrics.precision_recall(GENERATED, REAL, 3)
    assert [precision, recall] == pytest.approx(VALUES["prc"]["k3"]["adm_definition_exact"], abs=1e-6)


def test_membership_behind_precision_and_recall() -> None:
    np.testing.assert_array_equal(metrics.inside(GENERATED, REAL, 3), TENSORS["out.k3.sample_in_ref_manifold"])
    np.testing.assert_array_equal(metrics.inside(REAL, GENERATED, 3), TENSORS["out.k3.ref_in_sample_manifold"])
