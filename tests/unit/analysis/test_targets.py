"""Claims on absolute numbers, and claims that consist of others."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fabricate import cell, fabricate, large, write

from mar.analysis.estimates import Results
from mar.analysis.findings import cell_of
from mar.analysis.verdicts import decide
from mar.paper.claims import load
from mar.runtime.files import read_json
from mar.study.records import Verdict
from mar.study.study import Study

BECAUSE = "decides: imagenet, because: the number is absolute, "
TARGET = "{kind: target, table: mar_table4, guided: true, row: mar-l, within: 1.05}"  # printed: 1.78


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the large study on ImageNet."""
    root = tmp_path_factory.mktemp("made")
    fabricate(large(imagenet=True), root, lambda v, s, k: 20.0, noise=0.01, images=False)
    return root


def judged(root: Path, claims: str, study: Study) -> list[Verdict]:
    file = root / "claims.yaml"
    file.write_text(f"claims: [{claims}]")
    return list(decide(study, root, file))


def with_fid(root: Path, value: float, seeds: tuple[int, ...] = (0, 1)) -> None:
    """Give the guided samples of `diff` a FID."""
    for seed in seeds:
        file = root / "metrics" / "diff" / f"seed{seed}" / "s4-cfg.json"
        values, exact = read_json(file), value * (1.004 if seed else 0.996)
        values["metrics"]["fid"] = cell(exact, 0.01 * exact, 40, False)
        write(file, values)


@pytest.fixture(autouse=True)
def published_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 40 images of a fabricated set count as enough."""
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)


@pytest.mark.parametrize(
    ("fid", "said"),
    [(1.5, "replicated"), (1.78, "replicated"), (1.78 * 1.05, "undecided"), (2.0, "not replicated")],
)
def test_target(made: Path, fid: float, said: str) -> None:
    with_fid(made, fid)
    (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {TARGET}}}", large(imagenet=True))
    assert found.verdict == said
    assert "against 1.78, the paper's" in found.reason and "accepted up to ratio 1.05" in found.reason
    assert found.seeds == (2, 0) and [e.setting for e in found.evidence] == ["s4-cfg"]


def test_target_of_other_systems_is_their_lowest(made: Path) -> None:
    with_fid(made, 2.0)
    for others, said in (("[adm, ldm-4, givt]", "replicated"), ("[adm, diffit]", "not replicated")):
        check = TARGET.replace("within: 1.05", f"of: {others}, within: 1.0")
        (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {check}}}", large(imagenet=True))
        assert found.verdict == said and "the lowest that the paper prints for adm, " in found.reason


@pytest.mark.parametrize(("fid", "said"), [(1.84, "undecided"), (1.4, "replicated"), (4.0, "not replicated")])
def test_one_seed_reaches_a_target_only_from_afar(made: Path, fid: float, said: str) -> None:
    with_fid(made, fid)
    one = large({"diff": (0,)}, imagenet=True)  # `ar` and `ce` measure the seed spread
    (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {TARGET}}}", one)
    assert found.verdict == said and (found.missing is not None and found.missing.kind == "one seed") == (
        said == "undecided"
    )
    lone = large({"diff": (0,), "ar": (0,), "ce": (0,)}, imagenet=True)
    (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {TARGET}}}", lone)
    assert found.verdict == "undecided" and found.reason.startswith("undecided (one seed): FID")


def test_target_elsewhere_is_not_decidable_and_needs_the_row(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = TARGET.replace("mar-l", "mar-h")
    (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {other}}}", large(imagenet=True))
    assert found.verdict == "not run"
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 50_000)
    (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {TARGET}}}", large(imagenet=True))
    assert found.verdict == "not decidable here" and "the number is absolute" in found.reason


@pytest.mark.parametrize(("below", "said"), [(0.075, "replicated"), (0.04, "not replicated")])
def test_parameters(made: Path, below: float, said: str) -> None:
    """54,321 of the other 1,180,246 parameters are 4.6%."""
    check = f"{{kind: parameters, table: mar_table3, row: mlp-256, below: {below}}}"
    (found,) = judged(made, f"{{id: c, text: t, source: s, check: {check}}}", large(imagenet=True))
    assert found.verdict == said and "54,321 parameters, 4.6% of the other 1,180,246" in found.reason
    assert "the paper: 2M" in found.reason and found.evidence[0].metric == "parameters"
    other = check.replace("mlp-256", "mlp-512")
    (found,) = judged(made, f"{{id: c, text: t, source: s, check: {other}}}", large(imagenet=True))
    assert found.verdict == "not run"


def test_close_in_seconds(made: Path) -> None:
    rows = "a: mar-default-diffloss, b: ar-raster-crossent"
    check = f"{{kind: close, table: mar_table1, metric: seconds, guided: false, {rows}"
    for within, said in ((2.0, "replicated"), (1.1, "undecided"), (0.5, "not replicated")):
        claim = f"{{id: c, text: t, source: s, check: {check}, within: {within}}}}}"
        (found,) = judged(made, claim, large(imagenet=True))
        assert found.verdict == said and "time per image" in found.reason


WON = "{id: won, text: t, source: s, check: {kind: parameters, table: mar_table3, row: mlp-256, below: 0.5}}"
LOST = WON.replace("won", "lost").replace("0.5", "0.01")
OPEN = (
    "{id: open, text: t, source: s, check: {kind: better, table: mar_table1, metric: fid, guided: false, "
    "a: mar-default-crossent, b: ar-raster-crossent}}"
)
ABSENT = WON.replace("won", "absent").replace("mlp-256", "mlp-512")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (("won", "won2"), "replicated"),
        (("won", "lost"), "not replicated"),
        (("won", "open"), "undecided"),
        (("won", "open", "absent"), "not run"),
        (("lost", "open", "absent"), "not replicated"),
    ],
)
def test_all(made: Path, parts: tuple[str, ...], said: str) -> None:
    every = f"{{id: every, text: t, source: s, check: {{kind: all, claims: [{', '.join(parts)}]}}}}"
    claims = ", ".join((every, WON, WON.replace("won", "won2"), LOST, OPEN, ABSENT))
    found = judged(made, claims, large(imagenet=True))
    assert [v.id for v in found] == ["every", "won", "won2", "lost", "open", "absent"], "in the order of the file"
    assert found[0].verdict == said and found[0].reason.startswith(f"of {len(parts)} claims ")
    assert ("open undecided" in found[0].reason) == ("open" in parts)
    assert {e for e in found[0].evidence} == {e for v in found[1:] if v.id in parts for e in v.evidence}


@pytest.mark.parametrize(
    ("more", "check", "message"),
    [
        ("", TARGET, r"claim c: kind target compares with numbers of the paper; accepted: decides: imagenet"),
        (BECAUSE, TARGET.replace("mar-l", "u-vit-h").replace("true", "false"), r"check: found row u-vit-h, for which"),
        (BECAUSE, TARGET.replace("within", "of: [none], within"), r"check.of\[0\]: found 'none'; accepted: adm"),
        ("", "{kind: all, claims: [a, b]}", r"claim c: check.claims: found 'a'; accepted: "),
        ("", "{kind: all, claims: [a]}", r"claim c: check.claims: "),
        (
            "",
            "{kind: recovers, table: mar_table1, a: mar-one-diffloss, b: mar-one-crossent, least: 2.0, most: 1.0}",
            r"claim c: check: least 2; accepted: below most 1",
        ),
    ],
)
def test_errors_name_claim_and_key(tmp_path: Path, more: str, check: str, message: str) -> None:
    file = tmp_path / "claims.yaml"
    file.write_text(f"claims: [{{id: c, text: t, source: s, {more}check: {check}}}]")
    with pytest.raises(ValueError, match=r"claims\.yaml: .*" + message):
        load(file)


PUBLISHED = "{kind: published, table: mar_table4, metric: fid, guided: true, row: mar-b}"  # printed: 2.31


def with_published(root: Path, metric: str, value: float, error: float) -> None:
    """Give the guided samples of the imported weights a number with a standard error, as a share of it."""
    file = root / "metrics" / "published" / "seed0" / "s4-cfg.json"
    values = read_json(file)
    values["metrics"][metric] = cell(value, error * value, 40, metric != "fid")
    write(file, values)


@pytest.mark.parametrize(
    ("value", "half", "said"),
    [
        (2.31, 0.01, "replicated"),
        (2.27, 0.01, "replicated"),
        (2.41, 0.02, "undecided"),
        (2.60, 0.01, "not replicated"),
        (2.05, 0.01, "not replicated"),
        (2.31, 0.05, "undecided"),
    ],
)
def test_published_weights(made: Path, value: float, half: float, said: str) -> None:
    with_published(made, "fid", value, half)
    (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {PUBLISHED}}}", large(imagenet=True))
    assert found.verdict == said, found.reason
    assert "with the published weights; the paper: 2.31, accepted within 5%" in found.reason
    assert (said == "undecided") == ("images (now 40) would decide" in found.reason)
    assert [(e.variant, e.setting) for e in found.evidence] == [("published", "s4-cfg")]


@pytest.mark.parametrize(
    ("metric", "printed", "inside", "outside"),
    [("inception_score", 281.7, 275.0, 272.0), ("precision", 0.82, 0.81, 0.79), ("recall", 0.57, 0.585, 0.60)],
)
def test_other_numbers_of_published_weights_have_tolerances_of_their_own(
    made: Path, metric: str, printed: float, inside: float, outside: float
) -> None:
    check = PUBLISHED.replace("fid", metric)
    for value, said in ((printed, "replicated"), (inside, "replicated"), (outside, "not replicated")):
        with_published(made, metric, value, 0.001)
        (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {check}}}", large(imagenet=True))
        assert found.verdict == said, found.reason


def test_published_weights_have_no_seed_spread(made: Path) -> None:
    """Two seeds of `diff` measure a spread, which is no part of the interval of weights that are what they are."""
    with_published(made, "fid", 2.31, 0.01)
    results = Results(large(imagenet=True), made)
    ours, theirs = results.cell("diff", "s4-cfg", "fid"), results.cell("published", "s4-cfg", "fid")
    assert ours and theirs and results.spread("fid").dof > 0
    assert theirs.high / theirs.value == pytest.approx(math.exp(1.96 * 0.01), rel=1e-4)
    pair = results.compare(("published", "s4-cfg"), ("diff", "s4-cfg"), "fid")
    assert pair and not pair.few  # one set of published weights is no lonely seed
    alone = results.compare(("published", "s4-cfg"), ("published", "s4"), "fid")
    assert alone and not alone.few and alone.variance == pytest.approx(alone.images)


def test_the_row_of_published_weights_comes_first_where_a_claim_is_about_them(made: Path) -> None:
    study = large(imagenet=True)
    row = study.tables["table4"].rows[2]
    official = study.tables["table4"].model_copy(update={"rows": (row.model_copy(update={"paper": "mar-l"}),)})
    both = Results(study.model_copy(update={"tables": {**study.tables, "official": official}}), made)
    assert cell_of(both, "mar_table4", "mar-l", True) == ("diff", "s4-cfg")
    assert cell_of(both, "mar_table4", "mar-l", True, imported=True) == ("published", "s4-cfg")
    variants = {**study.variants, "diff": study.variants["diff"].model_copy(update={"seeds": ()})}
    alone = study.model_copy(update={"tables": {**study.tables, "official": official}, "variants": variants})
    assert cell_of(Results(alone, made), "mar_table4", "mar-l", True) == ("published", "s4-cfg")
    (found,) = judged(made, f"{{id: c, text: t, source: s, {BECAUSE}check: {TARGET}}}", alone)
    assert found.verdict != "not run" and "with published weights: published" in found.reason
