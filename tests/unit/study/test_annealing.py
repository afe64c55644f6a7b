"""Numbers of denoising steps that fall over the autoregressive steps: laws of the schedules, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mar.study.annealing import Annealed
from mar.study.canonical import canonical
from mar.study.parts import Sampling
from mar.study.reading import StudyError, resolve

SCHEDULES = ("linear", "cosine", "two-stage")
numbers = st.integers(1, 1000)


def numbers_of(first: int, last: int, schedule: Any, steps: int) -> list[int]:
    annealed = Annealed(first=first, last=last, schedule=schedule)
    return [annealed.at(k, steps) for k in range(steps)]


@given(numbers, numbers, st.sampled_from(SCHEDULES), st.integers(2, 300))
def test_it_falls_from_the_first_to_the_last(a: int, b: int, schedule: str, steps: int) -> None:
    first, last = max(a, b), min(a, b)
    found = numbers_of(first, last, schedule, steps)
    assert (found[0], found[-1], found) == (first, last, sorted(found, reverse=True))


@given(numbers, numbers, st.integers(2, 300))
def test_all_schedules_are_symmetric_about_the_middle(a: int, b: int, steps: int) -> None:
    """Numbers at k and K - 1 - k sum to first + last; the smooth ones are rounded down, each by less than 1."""
    first, last = max(a, b), min(a, b)
    for schedule in SCHEDULES:
        found = numbers_of(first, last, schedule, steps)
        for k, (one, other) in enumerate(zip(found, found[::-1], strict=True)):
            if schedule == "two-stage" and 2 * k != steps - 1:
                assert one + other == first + last
            elif schedule != "two-stage":
                assert one + other - first - last in (0, -1)


@given(numbers, numbers, st.integers(2, 300))
def test_the_cosine_is_above_the_line_at_first_and_below_it_at_last(a: int, b: int, steps: int) -> None:
    first, last = max(a, b), min(a, b)
    cosine, line = (numbers_of(first, last, schedule, steps) for schedule in ("cosine", "linear"))
    half = steps // 2
    assert all(c >= x for c, x in zip(cosine[:half], line[:half], strict=True))
    assert all(c <= x for c, x in zip(cosine[-half:], line[-half:], strict=True))


def test_by_hand() -> None:
    """Of 50 to 5 in 64 steps: DiSA's setting of MAR. 63 intervals over a fall of 45: 5 + floor(45 (63 - k) / 63)."""
    line = numbers_of(50, 5, "linear", 64)
    assert line[:4] == [50, 49, 48, 47] and line[-3:] == [6, 5, 5]
    assert sum(line) == sum(5 + 5 * (63 - k) // 7 for k in range(64)) == 1733
    assert numbers_of(50, 5, "two-stage", 64) == [50] * 32 + [5] * 32
    assert numbers_of(9, 1, "cosine", 5) == [9, 7, 5, 2, 1]  # 1 + 4 (1 + cos(pi k / 4)) = 9, 7.83, 5, 2.17, 1
    assert numbers_of(9, 1, "two-stage", 5) == [9, 9, 1, 1, 1]
    assert [numbers_of(9, 1, schedule, 1) for schedule in SCHEDULES] == [[9]] * 3


def test_a_number_that_does_not_fall_is_that_number() -> None:
    plain = Sampling(steps=4, diffusion_steps=25)
    for schedule in SCHEDULES:
        said = Sampling.model_validate({"steps": 4, "diffusion_steps": {"first": 25, "last": 25, "schedule": schedule}})
        assert said == plain and canonical(said) == canonical(plain) == '{"diffusion_steps":25,"steps":4}'
    assert plain.at_step(1, 4) is plain


def test_a_setting_at_a_step_has_numbers() -> None:
    said = Sampling.model_validate({"steps": 4, "diffusion_steps": {"first": 10, "last": 1}, "solver": "dpm"})
    assert canonical(said) == '{"diffusion_steps":{"first":10,"last":1},"solver":"dpm","steps":4}'
    assert [said.at_step(k, 4) for k in range(4)] == [
        Sampling.model_validate({"steps": 4, "diffusion_steps": n, "solver": "dpm"}) for n in (10, 7, 4, 1)
    ]
    flow = Sampling.model_validate({"steps": 2, "head": {"evaluations": {"first": 8, "last": 2}, "method": "heun"}})
    assert [flow.at_step(k, 2).head.values for k in range(2)] == [
        {"evaluations": 8, "method": "heun"},
        {"evaluations": 2, "method": "heun"},
    ]
    assert Sampling.model_validate_json(said.model_dump_json()) == said


# what a setting says -> what the message says of it
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rising": ({"first": 5, "last": 50}, ".diffusion_steps: first 5, last 50; accepted: last at most first"),
    "too many": ({"first": 1001, "last": 5}, ".diffusion_steps.first: found 1001; accepted: at most 1000"),
    "none": ({"first": 5, "last": 0}, ".diffusion_steps.last: found 0; accepted: above 0"),
    "no end": ({"first": 5}, ".diffusion_steps.last: is missing"),
    "half a step": ({"first": 5, "last": 2.5}, ".diffusion_steps.last: found 2.5; accepted: a whole number"),
    "another schedule": (
        {"first": 5, "last": 2, "schedule": "step"},
        ".diffusion_steps.schedule: found 'step'; accepted: 'linear', 'cosine' or 'two-stage'",
    ),
    "another key": (
        {"first": 5, "last": 2, "shedule": "linear"},
        ".diffusion_steps: unknown key 'shedule' (did you mean 'schedule'?); accepted: first, last, schedule",
    ),
}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(StudyError) as caught:
        resolve(values, "config/tiny.yaml")
    return str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, values: dict[str, Any]) -> None:
    said, expected = REFUSED[case]
    values["sampling"]["mar"]["diffusion_steps"] = said
    assert refusal(values) == f"config/tiny.yaml: sampling.mar{expected}"


def test_refused_where_nothing_can_fall(values: dict[str, Any]) -> None:
    values["sampling"]["mar"] |= {"steps": 1, "diffusion_steps": {"first": 5, "last": 2}}
    expected = "sampling.mar: diffusion_steps 5-2-linear with steps 1: nothing to fall over; accepted: a number"
    assert expected in refusal(values)


def test_refused_of_another_head(values: dict[str, Any]) -> None:
    values["sampling"]["ar"]["diffusion_steps"] = {"first": 5, "last": 2}
    expected = "sampling.ar.diffusion_steps 5-2-linear with a categorical head: belongs to diffusion, joint"
    assert expected in refusal(values)


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        ({"first": 8, "last": 3}, "head: evaluations 8-3-linear with solver heun, 2 a step; accepted: a multiple of 2"),
        ({"first": 52, "last": 4}, "head: evaluations.first: found 52; accepted: at most 50"),
        ({"first": 8, "lasts": 4}, "head.evaluations: unknown key 'lasts' (did you mean 'last'?)"),
    ],
)
def test_refused_of_a_flow(evaluations: dict[str, Any], expected: str, values: dict[str, Any]) -> None:
    values["heads"]["diffloss"] = {"kind": "flow", "width": 16, "depth": 1, "noise_draws": 1}
    values["sampling"]["mar"] = {"steps": 4, "solver": "heun", "head": {"evaluations": evaluations}}
    assert expected in refusal(values)


def test_a_figure_over_a_number_takes_none_that_falls(values: dict[str, Any]) -> None:
    values["sampling"]["mar"]["diffusion_steps"] = {"first": 5, "last": 2}
    for figure in ("diffusion_steps", "evaluations"):
        changed = values | {figure: [{"label": "a", "variant": "mar", "sampling": ["mar"]}]}
        assert f"{figure}[0]: sampling.mar has diffusion_steps 5-2-linear, which fall" in refusal(changed)


def test_a_curve_varies_how_they_fall(values: dict[str, Any]) -> None:
    said = [25, {"first": 25, "last": 5}, {"first": 25, "last": 5, "schedule": "cosine"}]
    curve = {"label": "a", "variant": "mar", "base": "mar", "vary": {"diffusion_steps": said}}
    values["tradeoff"] = [curve | {"name": "mar-{diffusion_steps}"}]
    values["variants"]["mar"]["sampling"] = ["mar", "tradeoff"]
    study = resolve(values, "config/tiny.yaml")
    assert study.tradeoff[0].sampling[1:] == ("mar-25-5-linear", "mar-25-5-cosine")
    assert study.sampling["mar-25-5-cosine"].annealed["diffusion_steps"].schedule == "cosine"
