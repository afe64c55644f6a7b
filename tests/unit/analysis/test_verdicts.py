"""Verdicts of each kind of predicate, and the errors of a claims file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, large, small, write

from mar.analysis.tally import false_verdicts, tally
from mar.analysis.verdicts import RELATIVE, decide
from mar.paper.claims import load
from mar.runtime.files import read, read_json
from mar.study.records import Missing, Verdict, Verdicts
from mar.study.sections import Reference
from mar.study.study import Study

ROWS = {"ar": "ar-raster-crossent", "ce": "mar-default-crossent", "diff": "mar-default-diffloss"}


def judged(study: Study, root: Path, file: Path) -> list[dict[str, Any]]:
    """Content of claims.json, which is what was returned; an undecided claim says what it lacks."""
    found = decide(study, root, file)
    assert read(root / "claims.json", Verdicts).root == found
    entries: list[dict[str, Any]] = json.loads((root / "claims.json").read_text())
    for verdict, entry in zip(found, entries, strict=True):
        assert (verdict.missing is not None) == (entry["verdict"] == "undecided")
        if "undecided (one seed)" in entry["reason"]:
            assert verdict.missing is None or verdict.missing.kind == "one seed"
    return entries


def verdict(
    root: Path,
    check: str,
    fid: Callable[[str, str], float],
    seeds: dict[str, tuple[int, ...]] | None = None,
    seconds: Callable[[str, str], float] = lambda variant, setting: 0.1,
    study: Study | None = None,
    more: str = "",
) -> dict[str, Any]:
    """Judge one predicate on a study whose seeds scatter by 1% in FID; `more` keys of the claim."""
    study = study or small(seeds)
    fabricate(study, root, lambda v, s, k: fid(v, s) * (1.01 if k else 0.99), seconds, noise=0.002, images=False)
    file = root / "claims.yaml"
    file.write_text(f"claims: [{{id: c, text: t, source: s, {more}check: {check}}}]")
    (found,) = judged(study, root, file)
    return found


BETTER = f"{{kind: better, table: mar_table1, metric: fid, guided: false, a: {ROWS['diff']}, b: {ROWS['ce']}}}"


@pytest.mark.parametrize(("diff", "said"), [(10, "replicated"), (30, "not replicated"), (20, "undecided")])
def test_better(tmp_path: Path, diff: float, said: str) -> None:
    found = verdict(tmp_path, BETTER, lambda v, s: diff if v == "diff" else 20)
    assert found["verdict"] == said
    assert found["effect"] == pytest.approx(math.log(diff / 20), abs=1e-6)
    assert found["low"] < found["effect"] < found["high"] and found["scale"] == "log ratio"
    assert found["seeds"] == [2, 2]
    assert "the paper: 3.50 against 8.79" in found["reason"] and "2 seeds a side" in found["reason"]
    assert (found["decides"], found["because"]) == ("any", RELATIVE)


def cells(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(e["variant"], e["setting"], e["metric"]) for e in found["evidence"]]


def test_evidence_is_every_number_that_a_verdict_rests_on(tmp_path: Path) -> None:
    found = verdict(tmp_path, BETTER, lambda v, s: 20)
    assert found["evidence"] == [
        {
            "variant": variant,
            "setting": setting,
            "metric": "fid",
            "seeds": [0, 1],
            "files": [f"metrics/{variant}/seed{k}/{setting}.json" for k in (0, 1)],
        }
        for variant, setting in (("diff", "s4"), ("ce", "c4"))
    ]
    check = '{kind: dominates, metric: fid, a: "MAR, Diffusion Loss", b: "AR, cross-entropy, kv-cache"}'
    found = verdict(tmp_path, check, lambda v, s: 20)
    points = [("diff", "s2"), ("ar", "a4"), ("diff", "s4")]
    assert set(cells(found)) == {(*point, m) for point in points for m in ("fid", "seconds_per_image")}
    check = "{kind: optimum, metric: fid, curve: no guidance}"
    found = verdict(tmp_path / "large", check, heated(0.95), study=large())
    assert {s for _, s, _ in cells(found)} == {"t0.85", "t0.9", "t0.95", "t1.0", "t1.05"}, "also those not chosen"
    for entry in found["evidence"]:
        assert all((tmp_path / "large" / file).exists() for file in entry["files"])
    check = "{kind: saturates, metric: fid, curve: no guidance, at: 100, within: 1.2}"
    found = verdict(tmp_path / "large", check, heated(0.95), study=large())
    assert {s for _, s, _ in cells(found)} == {"d100", "d250", "d1000"}
    assert verdict(tmp_path, BETTER, lambda v, s: 20, seeds={"ce": ()})["evidence"] == []


def test_not_run(tmp_path: Path) -> None:
    found = verdict(tmp_path, BETTER, lambda v, s: 20, seeds={"ce": ()})
    assert (found["verdict"], found["effect"], found["seeds"]) == ("not run", None, [])
    other = BETTER.replace(ROWS["ce"], "mar-one-crossent")  # a row of the paper that the study's table lacks
    assert verdict(tmp_path, other, lambda v, s: 20)["verdict"] == "not run"


@pytest.mark.parametrize(("diff", "said"), [(17, "undecided"), (9, "replicated"), (200, "not replicated")])
def test_one_seed_is_undecided_unless_far(tmp_path: Path, diff: float, said: str) -> None:
    found = verdict(tmp_path, BETTER, lambda v, s: diff if v == "diff" else 20, seeds={"diff": (0,)})
    assert found["verdict"] == said and found["seeds"] == [1, 2]
    assert ("undecided (one seed)" in found["reason"]) == (said == "undecided")
    assert ("far outside" in found["reason"]) == (said != "undecided")
    assert found["high"] < 0 or diff > 20, "with two seeds this interval would decide"


def test_one_seed_everywhere_is_always_undecided(tmp_path: Path) -> None:
    found = verdict(tmp_path, BETTER, lambda v, s: 1 if v == "diff" else 500, {"ar": (0,), "ce": (0,), "diff": (0,)})
    assert found["verdict"] == "undecided"


@pytest.mark.parametrize(("diff", "said"), [(21, "replicated"), (30, "not replicated"), (24, "undecided")])
def test_close(tmp_path: Path, diff: float, said: str) -> None:
    check = BETTER.replace("better", "close").replace("}", ", within: 1.2}")
    found = verdict(tmp_path, check, lambda v, s: diff if v == "diff" else 20)
    assert found["verdict"] == said and "accepted up to ratio 1.20" in found["reason"]


@pytest.mark.parametrize(("guided", "said"), [(10, "replicated"), (30, "not replicated")])
def test_guidance(tmp_path: Path, guided: float, said: str) -> None:
    check = f"{{kind: guidance, table: mar_table1, metric: fid, row: {ROWS['diff']}}}"
    found = verdict(tmp_path, check, lambda v, s: guided if s.endswith("cfg") else 20)
    assert found["verdict"] == said and "the paper: 1.98 against 3.50" in found["reason"]


def test_higher_is_better_for_the_inception_score(tmp_path: Path) -> None:
    check = f"{{kind: guidance, table: mar_table1, metric: inception_score, row: {ROWS['diff']}}}"
    # the fabricated score falls with FID
    assert verdict(tmp_path, check, lambda v, s: 10 if s.endswith("cfg") else 200)["verdict"] == "replicated"
    assert verdict(tmp_path, check, lambda v, s: 200 if s.endswith("cfg") else 10)["verdict"] == "not replicated"


@pytest.mark.parametrize(("diff", "said"), [(0.05, "replicated"), (0.2, "not replicated"), (0.1, "undecided")])
def test_faster(tmp_path: Path, diff: float, said: str) -> None:
    check = f"{{kind: faster, table: mar_table1, guided: false, a: {ROWS['diff']}, b: {ROWS['ar']}}}"
    one = {"ar": (0,), "ce": (0,), "diff": (0,)}  # times do not depend on the training seed
    found = verdict(tmp_path, check, lambda v, s: 20, one, lambda v, s: diff if v == "diff" else 0.1)
    assert found["verdict"] == said


@pytest.mark.parametrize(
    ("two", "four", "said"), [(30, 20, "replicated"), (20, 30, "not replicated"), (20, 20, "undecided")]
)
def test_improves(tmp_path: Path, two: float, four: float, said: str) -> None:
    check = '{kind: improves, metric: fid, curve: "MAR, Diffusion Loss"}'
    assert verdict(tmp_path, check, lambda v, s: two if s == "s2" else four)["verdict"] == said


@pytest.mark.parametrize(
    ("fid", "seconds", "said"),
    [
        ({"s2": 10, "s4": 8}, {"s2": 0.05, "s4": 0.2}, "replicated"),  # s2 is faster and better
        ({"s2": 30, "s4": 8}, {"s2": 0.05, "s4": 0.2}, "not replicated"),  # s2 is worse, s4 slower
        ({"s2": 30, "s4": 8}, {"s2": 0.05, "s4": 0.1}, "undecided"),  # s4 is better, as fast
        ({"s2": 20, "s4": 20}, {"s2": 0.05, "s4": 0.2}, "undecided"),  # s2 is faster, as good
    ],
)
def test_dominates(tmp_path: Path, fid: dict[str, float], seconds: dict[str, float], said: str) -> None:
    check = '{kind: dominates, metric: fid, a: "MAR, Diffusion Loss", b: "AR, cross-entropy, kv-cache"}'
    found = verdict(tmp_path, check, lambda v, s: fid.get(s, 20), None, lambda v, s: seconds.get(s, 0.1))
    assert found["verdict"] == said and "time per image" in found["reason"]


@pytest.mark.parametrize(("diff", "said"), [(8, "replicated"), (10, "undecided"), (15, "not replicated")])
def test_close_below_one_asks_for_a_cut(tmp_path: Path, diff: float, said: str) -> None:
    check = BETTER.replace("better", "close").replace("}", ", within: 0.5}")
    assert verdict(tmp_path, check, lambda v, s: diff if v == "diff" else 20)["verdict"] == said


@pytest.mark.parametrize(
    ("ar", "ce", "diff", "said"),
    [
        (30, 20, 10, "replicated"),
        (30, 20, 20, "undecided"),
        (20, 30, 10, "not replicated"),
        (10, 20, 30, "not replicated"),
    ],
)
def test_ordered(tmp_path: Path, ar: float, ce: float, diff: float, said: str) -> None:
    rows = f"[{ROWS['ar']}, {ROWS['ce']}, {ROWS['diff']}]"
    check = f"{{kind: ordered, table: mar_table1, metric: fid, guided: false, rows: {rows}}}"
    values = {"ar": ar, "ce": ce, "diff": diff}
    found = verdict(tmp_path, check, lambda v, s: values[v])
    assert found["verdict"] == said and "the paper: 19.58, 8.79, 3.50" in found["reason"]
    # what is shown is the least improvement
    assert found["effect"] == pytest.approx(max(math.log(ce / ar), math.log(diff / ce)), abs=1e-6)
    assert verdict(tmp_path, check, lambda v, s: values[v], {"ce": ()})["verdict"] == "not run"


def heated(best: float) -> Callable[[str, str], float]:
    """FID that is lowest at a temperature."""
    return lambda v, s: 10 + 4000 * (float(s[1:]) - best) ** 2 if s.startswith("t") and "cfg" not in s else 20.0


@pytest.mark.parametrize(("best", "said"), [(0.95, "replicated"), (1.2, "not replicated"), (0.7, "not replicated")])
def test_optimum(tmp_path: Path, best: float, said: str) -> None:
    check = "{kind: optimum, metric: fid, curve: no guidance}"
    found = verdict(tmp_path, check, heated(best), study=large())
    assert found["verdict"] == said and "against 0.85" in found["reason"] and "against 1.05" in found["reason"]


def test_a_flat_curve_has_no_optimum_that_its_interval_shows(tmp_path: Path) -> None:
    check = "{kind: optimum, metric: fid, curve: no guidance}"
    assert verdict(tmp_path, check, lambda v, s: 20, study=large())["verdict"] == "undecided"


@pytest.mark.parametrize(("last", "said"), [(19.5, "replicated"), (10, "not replicated"), (30, "replicated")])
def test_saturates(tmp_path: Path, last: float, said: str) -> None:
    check = "{kind: saturates, metric: fid, curve: no guidance, at: 100, within: 1.2}"
    found = verdict(tmp_path, check, lambda v, s: last if s == "d1000" else 20.0, study=large())
    assert found["verdict"] == said and "accepted up to ratio 1.20" in found["reason"]
    assert found["effect"] == pytest.approx(max(math.log(20 / last), 0.0), abs=1e-6), "the largest gain is shown"


def test_saturates_takes_a_point_there_and_one_after_it(tmp_path: Path) -> None:
    for at in (20, 1000):
        check = f"{{kind: saturates, metric: fid, curve: no guidance, at: {at}, within: 1.2}}"
        found = verdict(tmp_path, check, lambda v, s: 20.0, study=large())
        assert found["verdict"] == "not run" and "has 10, 25, 50, 100, 250, 1000" in found["reason"]


@pytest.mark.parametrize(
    ("fid", "seconds", "seeds", "said"),
    [
        (9.0, 0.2, (0, 1), "replicated"),
        (9.0, 0.4, (0, 1), "not replicated"),
        (11.0, 0.2, (0, 1), "not replicated"),
        (9.0, 0.3, (0, 1), "undecided"),
        (9.0, 0.2, (0,), "undecided"),  # one training seed decides nothing
        (9.0, 0.4, (0,), "not replicated"),  # but seconds do
    ],
)
def test_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fid: float, seconds: float, seeds: tuple[int, ...], said: str
) -> None:
    check = '{kind: reaches, curve: "MAR, Diffusion Loss", fid: 10.0, seconds: 0.3}'
    trained = {"ar": (0,), "ce": (0, 1), "diff": seeds}
    monkeypatch.setattr("mar.analysis.verdicts.Results.timed_as_published", lambda results, variant: True)
    found = verdict(tmp_path, check, lambda v, s: fid if s == "s4" else 50, trained, lambda v, s: seconds)
    assert found["verdict"] == said and "asked for FID below 10.0 in 0.300 seconds" in found["reason"]


def test_seconds_of_another_device_do_not_reach(tmp_path: Path) -> None:
    check = '{kind: reaches, curve: "MAR, Diffusion Loss", fid: 2.0, seconds: 0.3}'
    found = verdict(tmp_path, check, lambda v, s: 1.5, seconds=lambda v, s: 0.2)
    assert found["verdict"] == "not decidable here"
    assert "diff was not timed as in the paper, on one A100 in batches of 256" in found["reason"]


def test_timings_of_different_devices_decide_nothing(tmp_path: Path) -> None:
    check = f"{{kind: faster, table: mar_table1, guided: false, a: {ROWS['diff']}, b: {ROWS['ar']}}}"
    study = small()
    found = verdict(tmp_path, check, lambda v, s: 20, seconds=lambda v, s: 0.1 if v == "diff" else 0.2, study=study)
    assert found["verdict"] == "replicated"
    file = tmp_path / "speed" / "diff.json"
    speed = read_json(file)
    speed["protocol"]["device"] = "NVIDIA H100"
    write(file, speed)
    (found,) = judged(study, tmp_path, tmp_path / "claims.yaml")
    assert found["verdict"] == "undecided" and "timed by different protocols" in found["reason"]


def test_an_open_interval_says_what_would_decide(tmp_path: Path) -> None:
    found = verdict(tmp_path, BETTER, lambda v, s: 19.7 if v == "diff" else 20)
    assert found["missing"]["kind"] == "interval"
    assert "the interval reaches both sides of 1.00, to 0." in found["missing"]["text"]
    assert "seeds a side (now 2) would decide" in found["missing"]["text"]
    assert found["reason"].endswith(found["missing"]["text"])
    found = verdict(tmp_path, BETTER, lambda v, s: 20)
    assert found["missing"]["text"].endswith("too near to it for any number of them")
    found = verdict(tmp_path, BETTER, lambda v, s: 17 if v == "diff" else 20, seeds={"diff": (0,)})
    assert found["missing"]["kind"] == "one seed"
    assert verdict(tmp_path, BETTER, lambda v, s: 10 if v == "diff" else 20)["missing"] is None


def test_each_further_extractor_has_its_verdict(tmp_path: Path) -> None:
    better = BETTER.replace(ROWS["ce"], ROWS["ar"])
    study = large({"ar": (0, 1)}, imagenet=True)
    found = verdict(tmp_path, better, lambda v, s: 10 if v == "diff" else 20, study=study)
    (other,) = found["extractors"]
    assert (other["extractor"], other["verdict"], found["verdict"]) == ("dinov2", "replicated", "replicated")
    assert other["effect"] == pytest.approx(math.log(0.5), abs=1e-6)
    for file in (tmp_path / "metrics" / "diff").rglob("s4.json"):
        values = read_json(file)
        values["metrics"]["fid_dinov2"] |= {"value": 150.0, "low": 149.0, "high": 151.0}
        write(file, values)
    (found,) = decide(study, tmp_path, tmp_path / "claims.yaml")
    assert found.shown == "replicated (dinov2: not replicated)"
    assert "In 1 another extractor has another verdict." in tally([found])
    score = better.replace("metric: fid", "metric: inception_score")
    assert verdict(tmp_path, score, lambda v, s: 10, study=study)["extractors"] == [], "it has no number of another"


def test_false_verdicts_are_bounded_by_what_was_tested(tmp_path: Path) -> None:
    found = verdict(tmp_path, BETTER, lambda v, s: 10 if v == "diff" else 20)
    decided, lone = Verdict.model_validate_json(json.dumps(found)), {"kind": "one seed", "text": "t"}
    open_ = decided.model_copy(update={"verdict": "undecided", "missing": Missing(kind="interval", text="t")})
    one = open_.model_copy(update={"missing": Missing(**lone)})
    verdicts = [decided] * 4 + [open_] * 5 + [one] * 3
    assert false_verdicts(verdicts) == pytest.approx(0.035 * 9)
    assert tally(verdicts) == [
        "12 claims: 4 replicated, 8 undecided.",
        "Undecided because of: interval 5, one seed 3.",
        "Of 4 decided at most 0.32 are expected to be false: 3.5% of 9 tested.",
    ]
    assert false_verdicts([open_]) == 0.0 and tally([one])[-1] == "Undecided because of: one seed 1."


def copying(root: Path, low: float, of: str, floor: float = 0.03) -> None:
    """Say that a variant copies training images, and how high the interval of the held-out images reaches."""
    files = {root / "metrics" / "reference.json": floor - 0.06}
    files |= dict.fromkeys((root / "metrics").rglob("seed*/*.json"), -0.03)
    files |= dict.fromkeys((root / "metrics" / of).rglob("*.json"), low)
    for file, least in files.items():
        values = read_json(file)
        values["copied"] = values["metrics"]["nearest"] | {"value": least + 0.03, "low": least, "high": least + 0.06}
        write(file, values)


@pytest.mark.parametrize(
    ("reciting", "low", "floor", "said"),
    [
        ("diff", 0.2, 0.03, "undecided"),
        ("diff", 0.09, 0.03, "replicated"),  # the interval does not imply 10% copies
        ("ce", 0.2, 0.03, "replicated"),  # the reciting side loses
        ("diff", 0.2, -0.05, "undecided"),
        ("diff", 0.2, -0.15, "replicated"),  # held-out images are not distributed as training images are
    ],
)
def test_a_model_that_recites_does_not_win_by_it(
    tmp_path: Path, reciting: str, low: float, floor: float, said: str
) -> None:
    study = small()
    assert verdict(tmp_path, BETTER, lambda v, s: 10 if v == "diff" else 20, study=study)["verdict"] == "replicated"
    copying(tmp_path, low, reciting, floor)
    (found,) = judged(study, tmp_path, tmp_path / "claims.yaml")
    assert found["verdict"] == said
    assert found["reason"].startswith("undecided (recites): FID") == (said == "undecided")
    model = {"diff": "MAR, Diffusion Loss at 4 steps, 25 diffusion steps", "ce": "MAR, cross-entropy at 4 steps"}[
        reciting
    ]
    shown = f"recites: {low + 0.03:.0%} [{low:.0%}, {low + 0.06:.0%}] of {model} are copies"
    assert (shown in found["reason"]) == (low > 0.1 and floor > -0.1)


def longer(study: Study, variant: str) -> Study:
    """The study in which a variant is trained on twice as many images as its recipe says."""
    recipe = study.recipes[study.variants[variant].recipe]
    recipes = study.recipes | {"long": recipe.model_copy(update={"images": 2 * recipe.images})}
    variants = study.variants | {variant: study.variants[variant].model_copy(update={"recipe": "long"})}
    return study.model_copy(update={"recipes": recipes, "variants": variants})


DOMINATES = '{kind: dominates, metric: fid, a: "MAR, Diffusion Loss", b: "AR, cross-entropy, kv-cache"}'
ORDERED = f"{{kind: ordered, table: mar_table1, metric: fid, guided: false, rows: [{ROWS['ce']}, {ROWS['diff']}]}}"
IMPROVES = '{kind: improves, metric: fid, curve: "MAR, Diffusion Loss"}'
CLOSE = BETTER.replace("better", "close").replace("}", ", within: 1.5}")


@pytest.mark.parametrize("check", [BETTER, CLOSE, DOMINATES, ORDERED])
@pytest.mark.parametrize(("fid", "equal"), [(10, "replicated"), (40, "not replicated")])
@pytest.mark.parametrize("side", ["diff", "others"])
def test_the_side_that_trained_longer_does_not_win_by_it(
    tmp_path: Path, check: str, fid: float, equal: str, side: str
) -> None:
    study = small()

    def found(study: Study) -> dict[str, Any]:
        return verdict(
            tmp_path, check, lambda v, s: fid if v == "diff" else 20, None, lambda v, s: 0.1 + 0.1 * (v == "ar"), study
        )

    assert found(study)["verdict"] == equal
    unequal = longer(study, "diff") if side == "diff" else longer(longer(study, "ce"), "ar")
    wins = (side == "diff") == (equal == "replicated")
    again = found(unequal)
    assert again["verdict"] == ("undecided" if wins else equal) and "trained unequally: " in again["reason"]
    assert ("undecided (trained unequally): FID" in again["reason"]) == wins


@pytest.mark.parametrize("check", [BETTER, ORDERED])
@pytest.mark.parametrize(("fid", "said"), [(10, "replicated"), (40, "not replicated")])
def test_longer_published_recipes_are_said_and_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str, fid: float, said: str
) -> None:
    """A claim about models with a recipe each; a small study trains by none of these, and should train alike."""
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)
    published = check.replace("guided: false,", "guided: false, recipes: published,")
    longest = "diff" if said == "replicated" else "ce"
    for study, verdict_of in ((large(imagenet=True), said), (small(), "undecided")):
        root = tmp_path / study.study
        found = verdict(root, published, lambda v, s: fid if v == "diff" else 20, study=longer(study, longest))
        assert found["verdict"] == verdict_of and "; trained unequally: " in found["reason"]
        found = verdict(root, check, lambda v, s: fid if v == "diff" else 20, study=longer(study, longest))
        assert found["verdict"] == "undecided" and "undecided (trained unequally): FID" in found["reason"]


@pytest.mark.parametrize("imported", ["diff", "ce"])
def test_of_published_weights_no_length_of_training_is_known(tmp_path: Path, imported: str) -> None:
    study = longer(small(), "diff")
    variants = {**study.variants, imported: study.variants[imported].model_copy(update={"pretrained": True})}
    study = study.model_copy(update={"variants": variants})
    found = verdict(tmp_path, BETTER, lambda v, s: 10 if v == "diff" else 20, study=study)
    assert found["verdict"] == "replicated" and "unequally" not in found["reason"]


def test_points_of_one_training_are_trained_equally_but_can_recite(tmp_path: Path) -> None:
    study = longer(small(), "diff")
    found = verdict(tmp_path, IMPROVES, lambda v, s: 10 if s == "s4" else 20, study=study)
    assert found["verdict"] == "replicated" and "unequally" not in found["reason"]
    copying(tmp_path, 0.4, "diff")
    (found,) = judged(study, tmp_path, tmp_path / "claims.yaml")
    assert found["verdict"] == "undecided" and "undecided (recites): FID" in found["reason"]


@pytest.mark.parametrize(("share", "said"), [(0.1, "replicated"), (0.2, "not replicated"), (0.15, "undecided")])
def test_share(tmp_path: Path, share: float, said: str) -> None:
    check = f"{{kind: share, table: mar_table1, guided: false, row: {ROWS['diff']}, below: 0.15}}"
    study = small()
    assert verdict(tmp_path, check, lambda v, s: 20)["verdict"] == "not run", "timed before shares were measured"
    file = tmp_path / "speed" / "diff.json"
    speed = read_json(file)
    speed["points"]["s4"]["head_share"] = {"value": share, "low": share - 0.01, "high": share + 0.01}
    write(file, speed)
    (found,) = judged(study, tmp_path, tmp_path / "claims.yaml")
    assert found["verdict"] == said and "of the sampling time; asked for less than 0.150" in found["reason"]


def test_what_only_imagenet_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = '{kind: reaches, curve: "MAR, Diffusion Loss", fid: 2.0, seconds: 0.3}'
    more = "decides: imagenet, because: both numbers are absolute, "
    found = verdict(tmp_path, check, lambda v, s: 1.0, more=more)
    assert (found["verdict"], found["effect"], found["seeds"]) == ("not decidable here", None, [])
    assert "both numbers are absolute" in found["reason"]
    assert "other images than ImageNet's, features of its own classifier" in found["reason"]
    study = large(imagenet=True)
    found = verdict(tmp_path, check, lambda v, s: 1.0, study=study, more=more)
    assert found["verdict"] == "not decidable here" and "40 images a sample set" in found["reason"]
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)
    monkeypatch.setattr("mar.analysis.verdicts.Results.timed_as_published", lambda results, variant: True)
    (found,) = judged(study, tmp_path, tmp_path / "claims.yaml")
    assert found["verdict"] == "replicated" and "FID 1.00" in found["reason"]
    for own in (Reference(file="mine.npz", sha256="a" * 64), Reference(file="adm-imagenet512", unknown_hash=True)):
        metrics = study.metrics.model_copy(update={"reference": own})
        (other,) = judged(study.model_copy(update={"metrics": metrics}), tmp_path, tmp_path / "claims.yaml")
        assert other["verdict"] == "not decidable here" and f"a reference of its own, {own.file}" in other["reason"]
    pinned = study.metrics.model_copy(update={"reference": Reference(file="adm-imagenet512", sha256="a" * 64)})
    (other,) = judged(study.model_copy(update={"metrics": pinned}), tmp_path, tmp_path / "claims.yaml")
    assert other["verdict"] == "replicated"
    assert (found["decides"], found["because"]) == ("imagenet", "both numbers are absolute")


def test_features_of_random_weights_decide_nothing_about_quality(tmp_path: Path) -> None:
    better = (
        "{kind: better, table: mar_table1, metric: fid, guided: false, a: mar-default-diffloss, b: ar-raster-crossent}"
    )
    for check, said in ((better, "not decidable here"), (better.replace("better, ", "faster, "), "replicated")):
        check = check.replace("metric: fid, ", "") if "faster" in check else check
        study = large(imagenet=True)
        found = verdict(tmp_path, check, lambda v, s: 5 if v == "diff" else 20, None, timed, study)
        assert found["verdict"] == "replicated"
        for file in (tmp_path / "metrics").rglob("*.json"):
            values = read_json(file)
            values["extractors"]["inception"] |= {"weights": "random", "note": "random weights"}
            write(file, values)
        (found,) = judged(study, tmp_path, tmp_path / "claims.yaml")
        assert found["verdict"] == said and ("random weights" in found["reason"]) == (said != "replicated")


def timed(variant: str, setting: str) -> float:
    """Diffusion Loss is the faster one."""
    return 0.05 if variant == "diff" else 0.2


def test_a_metric_that_the_study_lacks_is_not_run(tmp_path: Path) -> None:
    check = BETTER.replace("metric: fid", "metric: agreement").replace(
        "a: mar-default-crossent", "a: ar-raster-crossent"
    )
    found = verdict(tmp_path, check, lambda v, s: 20, study=large(imagenet=True))
    assert (found["verdict"], found["reason"]) == ("not run", "the study's metrics have no agreement")


def test_rows_of_other_systems_are_not_run(tmp_path: Path) -> None:
    check = "{kind: better, table: mar_table4, metric: fid, guided: false, a: mar-l, b: adm}"
    assert verdict(tmp_path, check, lambda v, s: 20, study=large())["verdict"] == "not run"
    check = check.replace("guided: false", "guided: true").replace("adm", "dit-xl")  # no guided samples of it
    assert verdict(tmp_path, check, lambda v, s: 20, study=large())["verdict"] == "not run"


def test_curves_that_the_study_lacks_are_not_run(tmp_path: Path) -> None:
    for check in (
        "{kind: improves, metric: fid, curve: none}",
        "{kind: dominates, metric: fid, a: none, b: nothing}",
        "{kind: reaches, curve: none, fid: 2.0, seconds: 0.3}",
        "{kind: saturates, metric: fid, curve: none, at: 100, within: 1.2}",
        "{kind: optimum, metric: fid, curve: none}",
    ):
        assert verdict(tmp_path, check, lambda v, s: 20)["verdict"] == "not run"


def test_missing_metrics_are_an_error_not_a_verdict(tmp_path: Path) -> None:
    verdict(tmp_path, BETTER, lambda v, s: 20)
    (tmp_path / "metrics" / "ce" / "seed1" / "c4.json").unlink()
    with pytest.raises(ValueError, match=r"ce/seed1/c4.json: missing"):
        decide(small(), tmp_path, tmp_path / "claims.yaml")


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (BETTER.replace("better", "best"), r"claim c: check: .*'best'.*'better'"),
        (BETTER.replace("metric: fid", "metric: speed"), r"claim c: check.metric: found 'speed'; accepted: 'fid'"),
        (BETTER.replace("guided:", "guide:"), r"claim c: check: unknown key 'guide' \(did you mean 'guided'\?\)"),
        (BETTER.replace(ROWS["ce"], "mar-crossent"), r"claim c: check.b: found 'mar-crossent'; accepted: ar-raster"),
        (BETTER.replace("mar_table1", "mar_table9"), r"claim c: check.table: paper table 'mar_table9'.*mar_table1"),
        (
            BETTER.replace("better", "close").replace("}", ", within: 0}"),
            r"claim c: check.within: found 0; accepted: above 0",
        ),
        (
            f"{{kind: ordered, table: mar_table1, metric: fid, guided: false, rows: [{ROWS['ce']}, none]}}",
            r"claim c: check.rows\[1\]: found 'none'; accepted: ar-raster",
        ),
    ],
)
def test_errors_name_file_claim_and_key(tmp_path: Path, check: str, message: str) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(f"claims: [{{id: c, text: t, source: s, check: {check}}}]")
    with pytest.raises(ValueError, match=r"claims\.yaml: " + message):
        load(file)


def test_what_no_study_but_imagenet_decides_needs_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    for more in ("decides: imagenet", "because: of it"):
        file.write_text(f"claims: [{{id: c, text: t, source: s, {more}, check: {BETTER}}}]")
        with pytest.raises(ValueError, match=r"claim c: because belongs to decides: imagenet and is needed there"):
            load(file)


def test_other_errors_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "claims.yaml"
    with pytest.raises(ValueError, match=r"claims.yaml: cannot be read"):
        load(file)
    claim = f"{{id: c, text: t, source: s, check: {BETTER}}}"
    file.write_text(f"claims: [{claim}, {claim}]")
    with pytest.raises(ValueError, match=r"claim c: id: 2 claims have it"):
        load(file)
    file.write_text("- a list")
    with pytest.raises(ValueError, match=r"claims.yaml: "):
        load(file)


def test_the_projects_claims_are_accepted() -> None:
    claims = load(Path(__file__).parents[3] / "config" / "claims.yaml")
    kinds = {"better", "close", "ordered", "guidance", "faster", "share", "parameters", "target", "rfid", "recovers"}
    kinds |= {"improves", "dominates", "reaches", "saturates", "optimum", "all", "published", "law", "fits"}
    assert {c.check.kind for c in claims} == kinds
