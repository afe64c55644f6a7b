"""Every metric equals the reference values, at the tolerances of the golden index, and the evaluators' own functions.

torch-fidelity and clean-fid get the same features, in float64, so that only the mathematics is compared.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance, kernel_distance
from safetensors.numpy import load_file
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from mar.metrics import formulas, moments
from mar.metrics.bootstrap import Bootstrap

GOLDEN = Path(__file__).parent / "golden"
TENSORS = load_file(GOLDEN / "metrics.safetensors")
VALUES = json.loads((GOLDEN / "metrics.json").read_text())["values"]
REAL, GENERATED, LOGITS = TENSORS["in.ref_features"], TENSORS["in.sample_features"], TENSORS["in.logits"]
DEFICIENT = VALUES["fid_rank_deficient"]["rows_used_of_each"]


def test_fid() -> None:
    found = formulas.fid(moments.of(GENERATED), moments.of(REAL))
    assert found == pytest.approx(VALUES["fid"]["adm_sqrtm"], rel=1e-6)
    assert found == pytest.approx(VALUES["fid"]["torch_fidelity_eigvals"], rel=1e-6)


def test_fid_of_rank_deficient_covariances() -> None:
    found = formulas.fid(moments.of(GENERATED[:DEFICIENT]), moments.of(REAL[:DEFICIENT]))
    assert found == pytest.approx(VALUES["fid_rank_deficient"]["adm_sqrtm"], rel=1e-3)


def test_fid_of_the_evaluators() -> None:
    generated, real = moments.of(GENERATED), moments.of(REAL)
    found = formulas.fid(generated, real)
    theirs = [fid_features_to_statistics(torch.from_numpy(x.astype(np.float64))) for x in (GENERATED, REAL)]
    for ours, expected in zip((generated, real), theirs, strict=True):
        for key in ("mu", "sigma"):
            np.testing.assert_allclose(ours[key], expected[key], rtol=1e-9, atol=1e-12)
    assert found == pytest.approx(fid_statistics_to_metric(*theirs, False)["frechet_inception_distance"], rel=1e-9)
    clean = frechet_distance(generated["mu"], generated["sigma"], real["mu"], real["sigma"])
    assert found == pytest.approx(clean, rel=1e-9)


def test_fid_of_the_intervals_is_the_value() -> None:
    draw = Bootstrap(np.zeros(len(GENERATED), int), 10, seed=0)
    found = draw.fid(GENERATED, moments.of(REAL)).value
    assert found == pytest.approx(formulas.fid(moments.of(GENERATED), moments.of(REAL)), rel=1e-9)


def test_statistics() -> None:
    found = moments.of(REAL)
    assert found["mu"].dtype == found["sigma"].dtype == np.float64
    np.testing.assert_allclose(found["mu"], TENSORS["out.ref_mu"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["sigma"], TENSORS["out.ref_cov"], rtol=1e-4, atol=1e-5)


def test_inception_score() -> None:
    expected, _ = VALUES["inception_score"]["torch_fidelity_10splits_shuffled_seed2020"]
    assert formulas.inception_score(LOGITS) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [6000, 257, 10])
def test_inception_score_of_torch_fidelity(n: int) -> None:
    theirs = isc_features_to_metric(torch.from_numpy(LOGITS[:n]))["inception_score_mean"]
    assert formulas.inception_score(LOGITS[:n]) == pytest.approx(theirs, rel=1e-9)


def test_inception_score_of_adm() -> None:
    found = formulas.ordered_inception_score(LOGITS, None)
    assert found == pytest.approx(VALUES["inception_score"]["adm_split5000"], rel=1e-6)
    whole = formulas.ordered_inception_score(LOGITS, None, size=6000)
    assert whole == pytest.approx(VALUES["inception_score"]["one_split"], rel=1e-6)


def test_precision_and_recall() -> None:
    precision, recall = formulas.precision_recall(GENERATED, REAL, 3)
    assert [precision, recall] == VALUES["prc"]["k3"]["adm_definition_exact"]


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_precision_and_recall_of_torch_fidelity(neighbours: int) -> None:
    tensors = [torch.from_numpy(x.astype(np.float64)) for x in (GENERATED[:400], REAL)]
    theirs = prc_features_to_metric(*tensors, prc_neighborhood=neighbours, verbose=False)
    found = formulas.precision_recall(GENERATED[:400], REAL, neighbours)
    assert found == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-7)  # their mean is float32


def test_membership_behind_precision_and_recall() -> None:
    np.testing.assert_array_equal(formulas.inside(GENERATED, REAL, 3), TENSORS["out.k3.sample_in_ref_manifold"])
    np.testing.assert_array_equal(formulas.inside(REAL, GENERATED, 3), TENSORS["out.k3.ref_in_sample_manifold"])


def test_radii_behind_precision_and_recall() -> None:
    for name, features in (("ref", REAL), ("sample", GENERATED)):
        found = formulas.nearest_others(features.astype(np.float64), 3)[0][:, 2]
        np.testing.assert_allclose(found, TENSORS[f"out.k3.{name}_radii_sq"], rtol=1e-6)


@pytest.mark.parametrize(("subsets", "size"), [(100, 200), (20, 100)])
def test_kid(subsets: int, size: int) -> None:
    found = formulas.kid(GENERATED, REAL, subsets, size)
    mean, deviation = VALUES[f"kid_subsets{subsets}_size{size}"]["independent_float64"]
    assert (found.mean(), found.std()) == pytest.approx((mean, deviation), rel=1e-5)


def test_kid_of_whole_sets() -> None:
    found = formulas.kid(GENERATED, REAL, 1, 10_000)
    assert found[0] == pytest.approx(VALUES["kid_full_unbiased_mmd2"], rel=1e-6)


@pytest.mark.parametrize(("subsets", "size"), [(7, 500), (100, 150), (2, 60)])  # the last sums over the subsets
def test_kid_of_torch_fidelity(subsets: int, size: int) -> None:
    tensors = [torch.from_numpy(x.astype(np.float64)) for x in (GENERATED, REAL)]
    theirs = kid_features_to_metric(*tensors, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    found = formulas.kid(GENERATED, REAL, subsets, size)
    expected = theirs["kernel_inception_distance_mean"], theirs["kernel_inception_distance_std"]
    assert (found.mean(), found.std()) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_kid_of_clean_fid() -> None:
    theirs = kernel_distance(GENERATED.astype(np.float64), REAL.astype(np.float64), num_subsets=1)
    assert formulas.kid(GENERATED, REAL, 1)[0] == pytest.approx(theirs, rel=1e-9)  # the subsets are the whole sets
