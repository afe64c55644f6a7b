"""Curves of learning: the rule "still learning" by simulation, what it does to verdicts, and where an optimum lies."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from benchmarks.learning import RULES, reach, shares
from mar.analysis import confounds, wording
from mar.analysis.estimates import Comparison
from mar.analysis.learning_curves import FAR, Trend, along, mean, optimum, still_learning, trend
from mar.analysis.result_files import Estimate
from mar.study.parts import Backbone, Head, Order, Recipe
from mar.study.records import Missing, Range


def record(effect=-0.3, error=0.1, seed=0, fids=(9.0, 5.0, 6.0)):
    """A record of a training with three points, of which each training seed adds its number to FID."""
    points = tuple(
        SimpleNamespace(
            images=100 * (i + 1),
            heldout={"0.5": Range(value=4.0, low=3.0, high=5.0), "1": Range(value=2.0, low=1.0, high=3.0)},
            fid=Range(value=fid + seed, low=fid + seed - 1, high=fid + seed + 1),
        )
        for i, fid in enumerate(fids)
    )
    return SimpleNamespace(seed=seed, points=points, fall=SimpleNamespace(since=200, effect=effect, error=error))


def results(**records):
    """Results of a study whose variants have these records, one seed each, and samples along the training."""
    recipe = Recipe(images=64, batch=8, checkpoint_images=64, log_images=64, evaluate_at=(0.5,))
    factors = {"recipe": "r", "backbone": "b", "head": "h", "order": Order.of(kind="random")}
    variants = {n: SimpleNamespace(pretrained=False, seeds=(0,), sampling=("s",), **factors) for n in records}
    parts = {
        "backbones": {"b": Backbone.of(kind="masked", width=8, depth=1, heads=1, buffer=1)},
        "heads": {"h": Head.of(kind="diffusion", width=8, depth=1, noise_draws=1)},
    }
    study = SimpleNamespace(variants=variants, recipes={"r": recipe}, learning=SimpleNamespace(setting={}), **parts)
    return SimpleNamespace(study=study, names=["fid"], learning=lambda name, seed: records[name])


@pytest.mark.parametrize(("fall", "least", "most"), [(0.0, 0.0, 0.05), (0.1, 0.45, 0.8), (0.2, 0.95, 1.0)])
def test_coverage_and_power_at_1000_images(fall, least, most):
    """A flat curve is called still learning in 2.5% of trials, a fall of a fifth nearly always.

    With 300 trials the share of false alarms is below 5% with probability 0.99, coverage above 91% with 0.997.
    """
    coverage, called = shares(1000, fall, 300)
    assert 0.91 <= coverage <= 0.98
    assert least <= called <= most


def test_seeds_are_averaged():
    found = trend([record(-0.3, 0.1), record(-0.1, 0.1, seed=1)])
    assert found.effect == pytest.approx(-0.2) and found.high == pytest.approx(
        -0.2 + 1.96 * 0.1 / math.sqrt(2), abs=1e-4
    )
    assert found.falls and str(found) == "-18.1% [-28.7%, -6.0%]"
    assert not trend([record(-0.1, 0.1)]).falls
    assert trend([]) is None


def test_those_that_still_learn_are_named():
    both = results(a=record(-0.3, 0.01), b=record(-0.001, 0.01))
    said = still_learning(both, ("a", "b"))
    assert said.kind == "still learning" and said.variants == ("a",)
    model = "MAR, Diffusion Loss (a)"
    assert said.text == f"FID still falls at the end of training: {model} -25.9% [-27.4%, -24.5%] since 200 images"
    assert still_learning(both, ("b",)) is None
    assert still_learning(results(a=record(0.3, 0.01), b=record(-0.001, 0.01)), ("a", "b")) is None


@pytest.mark.parametrize("learning", ["a", "b"])
def test_nobody_wins_over_a_side_that_still_learns(learning, monkeypatch):
    """A winner that still learns would win by more; and settings of one training are compared with each other."""
    both = results(**{name: record(-0.3 if name == learning else -0.001, 0.01) for name in ("a", "b")})
    monkeypatch.setattr(confounds, "recites", lambda results, cell: None)
    of_a, of_b = ([why.kind for why in unfair] for unfair in confounds.both(both, ("a", "s"), ("b", "s")))
    assert (of_a, of_b) == (([], ["still learning"]) if learning == "a" else (["still learning"], []))
    assert confounds.both(both, (learning, "s"), (learning, "t")) == ((), ())


def test_how_much_longer_it_would_take():
    """FID as n^-p falls by a log ratio of p log(4/3) in the last quarter, by p log 10 over ten times as many images."""
    fall = -0.3 * math.log(4 / 3)
    assert Trend(75, 100, fall + 0.01, fall, fall + 0.02).longer(0.3 * math.log(10)) == pytest.approx(10)
    assert Trend(75, 100, 0.01, 0.0, 0.02).longer(0.1) == math.inf
    assert Trend(75, 100, -0.001, -0.001, 0.0).longer(1.0) == math.inf, "no overflow"


@pytest.mark.parametrize("higher", [False, True])
def test_what_is_out_of_reach_forbids_no_verdict(higher, monkeypatch):
    """Both learn, b at 1% a quarter: from 1.05 times the FID it might have come level, from four times not."""
    monkeypatch.setattr(confounds, "recites", lambda results, cell: None)
    both = results(a=record(-0.1, 0.001), b=record(-0.01, 0.001))
    side = Estimate(10.0, 9.0, 11.0, 100, (0, 1))

    def compared(low, high):
        cells = (("b", "s"), ("a", "s")) if higher else (("a", "s"), ("b", "s"))
        ends = (-high, -low) if higher else (low, high)
        both.compare = lambda a, b, metric, edge: Comparison(metric, side, side, sum(ends) / 2, *ends, edge=edge)
        return confounds.compare(both, *cells, "fid"), confounds.compare(both, *cells, "kid")

    near, _ = compared(-math.log(1.07), -math.log(1.05))
    times = math.exp(math.log(1.05) / (0.01 + 1.96 * 0.001) * math.log(300 / 200))
    assert near.blocked.kind == "still learning" and not near.said and times < FAR
    assert near.blocked.text.endswith(f"turns after {times:.3g} times as many images at the soonest")
    far, other = compared(-math.log(4.2), -math.log(4))
    assert (far.worse if higher else far.better) and not far.blocked
    assert [why.kind for why in far.said] == ["still learning"] and "more than 100 times" in far.said[0].text
    assert "still learning" in wording.reason(far, "replicated")
    assert other.blocked.kind == "still learning", "of KID the rate is not known"


def test_out_of_reach_decides_more_and_errs_less():
    """Of clear pairs any fall blocks all but 5%, reach all but 14%, of which at most 1% have another order later."""
    decided = reach(2000)
    always, never, ours = (decided[rule] for rule in RULES)
    assert always[0] == 1.0 and always[1] > 0.15
    assert ours[0] > 2 * never[0] and ours[1] < 0.01


@pytest.mark.parametrize("ends", [(-0.4, -0.2), (0.2, 0.4)])
def test_a_verdict_waits_for_the_end_of_learning(ends):
    why = Missing(kind="still learning", text="FID still falls")
    sides = [Estimate(10.0, 9.0, 11.0, 100, (0, 1))] * 2
    open_ = Comparison("fid", *sides, sum(ends) / 2, *ends)
    assert open_.better or open_.worse
    held = replace(open_, unfair=((why,), (why,)))
    assert not held.better and not held.worse and held.blocked == why
    assert wording.reason(held, "undecided").startswith("undecided (still learning): FID")


def test_the_blockers_of_all_steps_are_told_together():
    sides = [Estimate(10.0, 9.0, 11.0, 100, (0, 1))] * 2
    open_ = Comparison("fid", *sides, -0.3, -0.4, -0.2)
    first, second = (
        replace(open_, unfair=((Missing(kind="still learning", text=text, variants=(text,)),), ())) for text in "ab"
    )
    recites = replace(open_, unfair=((Missing(kind="recites", text="c"),), ()))
    assert wording.blocked(open_, first, recites, second, first) == Missing(
        kind="still learning", text="a; b", variants=("a", "b")
    )
    assert wording.blocked(recites, first).text == "c" and wording.blocked(open_) is None


def test_optimum_is_of_the_mean_over_seeds():
    seeds = [record(fids=(9.0, 5.0, 6.0)), record(seed=1, fids=(9.0, 5.0, 1.0))]
    curve = along(seeds, "fid")
    assert [(images, number.value) for images, number in curve] == [(100, 9.5), (200, 5.5), (300, 4.0)]
    assert optimum(curve)[0] == 300 and optimum([]) is None
    assert curve[0][1].high == pytest.approx(9.5 + 1 / math.sqrt(2))
    losses = along(seeds, "heldout")
    assert losses[0][1].value == 3.0, "mean of the mask ratios"
    assert mean([Range(value=1.0, low=0.0, high=3.0)]) == Range(value=1.0, low=0.0, high=3.0)
