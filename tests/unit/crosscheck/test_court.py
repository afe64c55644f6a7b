"""The parity court: ADM's definitions, differences accounted for, what is not let in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from mar.crosscheck import adm, inputs, reasons, table
from mar.crosscheck.evaluators import CLEAN, LEGACY, MAIN, Case, Evaluator, evaluators
from mar.features.image_sets import Images
from mar.metrics import formulas, moments

GOLDEN = Path(__file__).parents[2] / "parity" / "golden"
TENSORS = load_file(GOLDEN / "metrics.safetensors")
VALUES = json.loads((GOLDEN / "metrics.json").read_text())["values"]
REAL, GENERATED, LOGITS = TENSORS["in.ref_features"], TENSORS["in.sample_features"], TENSORS["in.logits"]


def test_frechet_distance_of_adm() -> None:
    found = adm.frechet(moments.of(GENERATED), moments.of(REAL))
    assert found == pytest.approx(VALUES["fid"]["adm_sqrtm"], rel=1e-6)
    few = VALUES["fid_rank_deficient"]["rows_used_of_each"]
    found = adm.frechet(moments.of(GENERATED[:few]), moments.of(REAL[:few]))
    assert found == pytest.approx(VALUES["fid_rank_deficient"]["adm_sqrtm"], rel=1e-3)


def test_precision_and_recall_of_adm_in_float16_and_in_float32() -> None:
    expected = VALUES["prc"]["k3"]
    assert adm.precision_recall(GENERATED, REAL, 3) == tuple(expected["adm_float16_distances_emulated"])
    assert adm.precision_recall(GENERATED, REAL, 3, half=False) == tuple(expected["adm_definition_float32"])


def test_blocks_of_adm_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = adm.precision_recall(GENERATED, REAL, 3)
    monkeypatch.setattr(adm, "ROWS", 77)
    monkeypatch.setattr(adm, "COLUMNS", 130)
    assert adm.precision_recall(GENERATED, REAL, 3) == whole


def test_distances_that_float16_cannot_hold_are_taken_in_float32() -> None:
    large = GENERATED * 100.0  # squared norms far above 65,504
    assert adm.precision_recall(large, REAL * 100.0, 3) == adm.precision_recall(large, REAL * 100.0, 3, half=False)


NUMBER = 250  # of the golden rows, for a case that is judged in a second


def case(stored: bool = True, bias: np.ndarray | None = None) -> Case:
    """A case of made-up resizes: features of the golden sets, a little other ones for the other resizes."""
    rng = np.random.default_rng(0)

    def shown(features: np.ndarray, **more: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        main = {"features": features, "spatial": np.ascontiguousarray(features[:, :20]), **more}
        return {MAIN: main, CLEAN: {"features": features * 1.01}, LEGACY: {"features": features * np.float32(0.98)}}

    real, generated = REAL[:NUMBER], GENERATED[:NUMBER]
    some = {key: moments.of(x) for key, x in (("", REAL), ("_s", REAL[:, :20]))}
    brought = {f"{name}{key}": value for key, found in some.items() for name, value in found.items()}
    labels = np.arange(NUMBER) % 10
    logits = LOGITS[:NUMBER].copy()
    logits[np.arange(len(logits)), labels] += 8.0
    return Case(
        shown(generated, logits=logits),
        shown(real),
        brought if stored else None,
        rng.permutation(NUMBER),
        labels,
        bias=bias,
    )


def images(source: str, labels_checked: bool = False) -> Images:
    """A set by name, whose images nobody reads."""
    return Images(source, "npz", "generated", "", NUMBER, None, None, NUMBER, lambda first: iter(()), labels_checked)


def judged(of: Case) -> list[tuple[Evaluator, dict[str, float | None]]]:
    return [(evaluator, evaluator.evaluate(of)) for evaluator in evaluators(of, 256)]


@pytest.fixture(scope="module")
def whole() -> tuple[Case, list[tuple[Evaluator, dict[str, float | None]]]]:
    of = case(bias=np.linspace(-1.0, 1.0, LOGITS.shape[1], dtype=np.float32))
    return of, judged(of)


def test_every_evaluator_has_its_row(whole: Any) -> None:
    found = {evaluator.name: values for evaluator, values in whole[1]}
    assert [name.split(" ")[0] for name in found] == ["ours", "torch-fidelity", *["clean-fid"] * 3, "ADM"]
    ours, theirs, adms = (found[name] for name in ("ours", "torch-fidelity 0.4.0", "ADM suite"))
    direct = formulas.fid(moments.of(GENERATED[:NUMBER]), moments.of(REAL[:NUMBER]))
    assert theirs["fid"] == pytest.approx(direct, rel=1e-6)
    assert found["clean-fid legacy_tensorflow"]["fid"] == pytest.approx(theirs["fid"], rel=1e-6)
    assert ours["fid"] == pytest.approx(adms["fid"], rel=1e-6) and ours["fid"] != pytest.approx(theirs["fid"], rel=0.01)
    assert ours["sfid"] == pytest.approx(adms["sfid"], rel=1e-6)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score"], rel=1e-6)
    assert adms["inception_score"] != pytest.approx(theirs["inception_score"], rel=0.01)


def test_every_difference_is_accounted_for(whole: Any) -> None:
    found = {(x.evaluator, x.metric): x for x in reasons.differences(*whole)}
    assert all(x.explained for x in found.values())
    steps = {key: len(x.steps) for key, x in found.items()}
    assert steps["torch-fidelity 0.4.0", "fid"] == 1  # the real side
    assert steps["clean-fid clean", "fid"] == 2  # and the resize
    assert steps["clean-fid clean", "kid"] == 1  # the resize; all images are in every subset
    assert steps["ADM suite", "inception_score"] == 2  # bias, splits


def test_a_difference_that_nothing_explains_is_said(whole: Any) -> None:
    of, rows = whole
    wrong = [(evaluator, dict(values)) for evaluator, values in rows]
    wrong[1][1]["kid"] *= 1.001
    found = reasons.differences(of, wrong)
    assert [(x.evaluator, x.metric) for x in found if not x.explained] == [("torch-fidelity 0.4.0", "kid")]
    assert [row["from"] for row in table.reasons(found)].count("NOT ACCOUNTED FOR") == 1


def test_without_stored_statistics_libraries_agree_as_they_are() -> None:
    of = case(stored=False)
    found = {evaluator.name: values["fid"] for evaluator, values in judged(of)}
    assert found["ours"] == pytest.approx(found["torch-fidelity 0.4.0"], rel=1e-6)
    assert found["ours"] == pytest.approx(found["ADM suite"], rel=1e-6)


def test_of_many_real_images_precision_and_recall_take_some() -> None:
    of = case(stored=False)
    of.real_subset = np.arange(0, NUMBER, 2)
    rows = judged(of)
    by_subset = ["125 images" in evaluator.precision_recall for evaluator, _ in rows]
    assert by_subset == [True, False, False, False, False, True]
    found = {(x.evaluator, x.metric): x for x in reasons.differences(of, rows)}
    assert all(x.explained for x in found.values())
    said = found["torch-fidelity 0.4.0", "recall"].steps[0][0]
    assert said == "all 250 real images instead of 125"
    assert len(found["clean-fid clean", "kid"].steps) == 2  # and the resize; every subset has all images


def test_without_images_only_what_statistics_allow_is_judged() -> None:
    of = case()
    of.real = {}
    found = {evaluator.name: values for evaluator, values in judged(of)}
    assert list(found) == ["ours", "ADM suite"]
    assert {name for name, value in found["ours"].items() if value is not None} == {"fid", "sfid", "inception_score"}


def test_the_order_of_a_file_moves_its_inception_score() -> None:
    shuffled, sorted_ = reasons.order_matters(case())
    assert sorted_ < 0.6 * shuffled
    of = case()
    of.order = np.argsort(of.labels, kind="stable")
    with pytest.raises(ValueError, match=r"the set is sorted by class; accepted for an Inception score of consecutive"):
        of_adm = next(evaluator for evaluator in evaluators(of, 256) if evaluator.name == "ADM suite")
        of_adm.evaluate(of)
    of.labels = None  # then by what the network sees in them
    with pytest.raises(ValueError, match="sorted by class"):
        of_adm.evaluate(of)


def test_labels_that_belong_to_the_images_pass() -> None:
    of = case()
    said = inputs.check_labels(images("x"), of.labels, of.logits(), same_classes=True)
    assert "names 87.6% of the classes asked for" in said
    renamed = (of.labels + 3) % 10
    inputs.check_labels(images("x"), renamed, of.logits(), same_classes=False)  # one meaning a label is enough
    few = inputs.check_labels(images("x"), of.labels[:10], of.logits()[:10], same_classes=True)
    assert few == "labels not tested: 10 images of 10 classes are too few for it"


def test_labels_of_other_images_are_refused() -> None:
    of = case()
    shuffled = np.random.default_rng(1).permutation(of.labels)
    with pytest.raises(ValueError, match=r"labels\.npy: the labels do not belong to the images: .* nats"):
        inputs.check_labels(images("labels.npy"), shuffled, of.logits(), same_classes=False)
    with pytest.raises(ValueError, match=r"classes carry other numbers .* asked for, renumbered 87.6%"):
        inputs.check_labels(images("x"), (of.labels + 3) % 10, of.logits(), same_classes=True)


def test_labels_by_checksum_are_told_from_a_generator_that_ignores_them() -> None:
    of = case()
    shuffled = np.random.default_rng(1).permutation(of.labels)
    said = inputs.check_labels(images("x", labels_checked=True), shuffled, of.logits(), same_classes=True)
    assert said.endswith("this generator ignores its class")
    said = inputs.check_labels(images("x", labels_checked=True), of.labels, of.logits(), same_classes=True)
    assert said.endswith("names 87.6% of the classes asked for")


def test_information_of_labels() -> None:
    labels = np.arange(60) % 3
    assert inputs.information(labels, labels * 7) == pytest.approx(np.log(3))
    assert inputs.information(labels, np.repeat(np.arange(2), 30)) == pytest.approx(0.0, abs=1e-12)


def test_copies_of_real_images_are_refused() -> None:
    rng = np.random.default_rng(0)
    real, other = (inputs.digests(rng.integers(256, size=(20, 4, 4, 3), dtype=np.uint8)) for _ in range(2))
    assert inputs.check_copies("s", real[:9] + other[:11], real, "the reference") == 9
    with pytest.raises(ValueError, match=r"--samples s: 10 of 20 images are bit for bit images of the reference"):
        inputs.check_copies("s", real[:10] + other[:10], real, "the reference")
