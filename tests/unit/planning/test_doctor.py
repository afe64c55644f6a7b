"""The micro-run of `mar doctor`, and what counts as drift."""

import pytest

from mar.planning import doctor
from mar.runtime.files import read


@pytest.fixture(scope="module")
def golden():
    return read(doctor.GOLDEN, doctor.GoldenRecord)


def test_nothing_has_drifted_here():
    lines, well = doctor.examine(doctor.GOLDEN)
    assert well and lines[-1].startswith("nothing drifted: "), "\n".join(lines)
    assert sum("runs/" in line or "samples/" in line or "tokenizers/" in line for line in lines) == 11


@pytest.mark.parametrize(
    ("factor", "ids", "outcome"),
    [(1.0, False, doctor.SAME), (1 + 1e-6, False, doctor.NEAR), (1 + 1e-4, False, doctor.DRIFT)]
    + [(1 + 1e-3, True, doctor.NEAR), (1 + 1e-2, True, doctor.DRIFT)],
)
def test_a_loss_that_moves_by_more_than_rounding_is_drift(golden, factor, ids, outcome):
    losses = golden.losses | {"runs/var": tuple(x * factor for x in golden.losses["runs/var"])}
    changed = {"losses": losses, "ids": golden.ids | ({"var": "0" * 64} if ids else {})}
    found = {name: (said, text) for name, said, text in doctor.compare(golden, golden.model_copy(update=changed))}
    assert found["runs/var"][0] == outcome and found["runs/ar"][0] == doctor.SAME
    assert ("line 1" in found["runs/var"][1]) == (factor != 1.0)


@pytest.mark.parametrize(("levels", "outcome"), [(0.01, doctor.NEAR), (1.0, doctor.DRIFT)])
def test_images_that_move_are_drift(golden, levels, outcome):
    drawn = golden.samples["mar/diff"]
    other = doctor.Drawn(sha256="0" * 64, means=(drawn.means[0] + levels, *drawn.means[1:]))
    changed = golden.model_copy(update={"samples": golden.samples | {"mar/diff": other}})
    assert {name: said for name, said, _ in doctor.compare(golden, changed)}["samples/mar/diff"] == outcome


def test_what_was_not_recorded_is_drift(golden):
    less = golden.model_copy(update={"losses": {"runs/ar": golden.losses["runs/ar"][:-1]}})
    found = {name: said for name, said, _ in doctor.compare(less, golden)}
    assert found["runs/ar"] == found["runs/mar"] == doctor.DRIFT
