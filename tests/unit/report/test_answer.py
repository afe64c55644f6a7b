"""The answer of a study: what `mar summary` prints, and what it would take to decide more."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from fabricate import _values, cell, fabricate, large, small, write

from mar.analysis.estimates import Results
from mar.analysis.verdicts import decide
from mar.report import more
from mar.report.answer import answer, spent, time_text
from mar.report.first_screen import effects
from mar.report.page import claims
from mar.report.terminal import summary
from mar.runtime.files import read
from mar.study import labels, layout
from mar.study.reading import load, resolve
from mar.study.records import Missing, Verdicts
from mar.study.study import Study

CLAIMS = layout.shipped("claims.yaml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results" / "small"


def made(study: Study, root: Path, **more: Any) -> Study:
    fabricate(study, root, lambda v, s, k: {"diff": 20.0, "ce": 22.0}.get(v, 40.0) + k / 10, noise=0.05, images=False)
    decide(study, root, CLAIMS)
    return study


def said(capsys: pytest.CaptureFixture[str], study: Study, root: Path, all_claims: bool = False) -> list[str]:
    capsys.readouterr()
    summary(study, root, all_claims)
    return capsys.readouterr().out.splitlines()


def test_the_answer_fits_on_a_screen(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made(small(), root)
    lines = said(capsys, study, root)
    assert len(lines) <= 34 and max(len(line) for line in lines if "/" not in line) <= 80, "paths are not broken"
    text = "\n".join(lines)
    assert lines[0].startswith("small: A small study") and lines[0].endswith("on 2 CPU cores")
    assert "Does Diffusion Loss draw better images than cross-entropy (CE)? The paper: yes" in lines
    # AR without its partner, and the pair, with the ratio of the claim and the paper's numbers
    assert any(line.startswith("  AR, raster order        40.0     -         -      ") for line in lines)
    (pair,) = (line for line in lines if line.startswith("  MAR, one token a step"))
    (verdict,) = (v for v in claims(root) if v.id == "diffloss-mar-default")
    ratio = f"{math.exp(verdict.effect or 0.0):#.3g}"
    assert f"22.0     20.0      {ratio} [" in pair and pair.endswith("8.79   3.50")
    assert "  real images, held out   10.0     (as good as it gets)" in lines
    total = len(claims(root))
    for expected in (f"{total} claims of the paper", "✗", "(not written yet)", "mar summary --study small --claims"):
        assert expected in text
    counts = [int(line.split()[1]) for line in lines if line[2:3] in ("✓", "✗", "?", "-") and line.split()[1].isdigit()]
    assert sum(counts) == total > 100
    words = " ".join(text.split())
    assert (
        f"mlflow ui --backend-store-uri sqlite:///{layout.mlflow_database(root)}, then http://localhost:5000" in words
    )
    layout.claims(root).unlink()
    with pytest.raises(
        ValueError, match=r"small: is not finished: .*claims\.json is missing; .*`mar status --study small`"
    ):
        summary(study, root)


def test_claims_of_the_studys_own_stand_on_the_screen(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = _values(None)
    check = {"kind": "better", "table": "mar_table1", "metric": "fid", "guided": False}
    rows = {"a": "mar-default-diffloss", "b": "mar-default-crossent"}
    values["claims"] = [{"id": "mine", "text": "Mine is better.", "check": check | rows}]
    lines = said(capsys, made(resolve(values, "own.yaml"), root), root)
    (verdict,) = (verdict for verdict in claims(root) if verdict.id == "mine")
    assert any(line.endswith(" claims of the paper, 1 of the study's own") for line in lines)
    own = next(i for i, line in enumerate(lines) if "its own: Mine is better: ratio 0." in line)
    assert f"({verdict.shown})" in " ".join(" ".join(lines[own : own + 2]).split())
    assert len(lines) <= 34


def test_the_runs_are_found_in_mlflow_3(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made(small(), root)
    write(layout.tracked(root), {"experiment": "7", "runs": {}})
    assert said(capsys, study, root)[-1].endswith(
        " http://localhost:5000/#/experiments/7/runs?workflowType=machine_learning&orderByKey=metrics.%60fid%60&orderByAsc=true"
    )


def test_all_claims_are_printed_in_full(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made(small(), root)
    lines = said(capsys, study, root, all_claims=True)
    assert max(map(len, lines)) <= 80
    text = " ".join(" ".join(lines).split())
    found = claims(root)
    for verdict in found:
        assert verdict.text in text and verdict.reason in text
    assert f"{len(found)} claims: " in text


def test_a_model_that_recites_is_marked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = made(small(), root)
    for path, share in ((layout.reference_metrics(root), 0.0), (root / "metrics/ce/seed0/c4.json", 0.4)):
        values = read_json(path)
        write(path, values | {"copied": cell(share, 0.01, 40)})
    one = root / "metrics/ce/seed1/c4.json"
    write(one, read_json(one) | {"copied": cell(0.4, 0.01, 40)})
    lines = said(capsys, study, root)
    assert any("22.0 !   20.0 " in line for line in lines)
    assert any(line.startswith("  ! recites: 40% [38%, 42%] of MAR, cross-entropy at 4 steps") for line in lines)


def test_a_study_without_table_1_shows_its_rows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = _values(None)
    values["tables"] = {
        "t3": {
            "paper": "var_table3",
            "title": "VAR, Table 3",
            "rows": [
                {"paper": "ar", "variant": "ar", "without": "a4"},
                {"paper": "attn-norm", "variant": "ce", "without": "c4"},
            ],
        }
    }
    study = made(resolve(values, "var.yaml"), root)
    lines = said(capsys, study, root)
    assert any(line.startswith("  AR, cross-entropy       40.0 ") and line.endswith("18.65") for line in lines)
    assert any(line.startswith("  MAR, cross-entropy      22.0      0.55") for line in lines)
    # and without any table, as of images of one's own, every variant
    del values["tables"]
    study = made(resolve(values, "own.yaml"), root)
    lines = said(capsys, study, root)
    assert sum(line.startswith(("  AR, cross", "  MAR, cross", "  MAR, Diff")) for line in lines) == 3
    assert not any(line.startswith("Does") for line in lines)
    assert any(line.startswith("FID without guidance of ") for line in lines)
    # the first settings of its variants say whether that is with guidance
    sampling = {name: setting | {"guidance": 2.0} for name, setting in values["sampling"].items()}
    study = made(resolve(values | {"sampling": sampling}, "guided.yaml"), root)
    assert any(line.startswith("FID with guidance of ") for line in said(capsys, study, root))


def test_a_row_shows_the_verdict_on_it_and_the_first(root: Path) -> None:
    """Where rows are no pairs: of a claim on both, whichever comes first, and else none."""
    rows = [
        {"paper": "confidence-crossent", "variant": "ar", "without": "a4"},
        {"paper": "random-crossent", "variant": "ce", "without": "c4"},
        {"paper": "random-diffloss", "variant": "diff", "without": "s4"},
    ]

    def shown(order: list[dict[str, str]]) -> list[tuple[str | None, str]]:
        values = _values(None)
        values["tables"] = {"t5": {"paper": "mar_table5", "title": "Table 5", "rows": order}}
        study = made(resolve(values, "orders.yaml"), root)
        found = answer(study, root, Results(study, root), claims(root))
        ids = [row.verdict.id if row.verdict else None for row in found.rows if row.comparison]
        return list(zip(ids, (line["ruling"] for line in (effects(found) or {})["rows"]), strict=True))

    decided, other = shown(rows)
    assert decided == ("confidence-order", "replicated") and other[0] == "diffloss-random-order"
    assert shown([rows[1], rows[0], rows[2]]) == [decided, (None, "undecided")]


def test_what_would_decide_more(root: Path) -> None:
    study = made(small(), root)
    verdicts = claims(root)
    open_ = [v.missing for v in verdicts if v.missing and v.missing.kind == "interval"]
    assert any(missing.seeds or missing.images for missing in open_)
    for missing in open_:  # what is counted is what the reason says
        assert (f"{missing.seeds} seeds a side" in missing.text) == (missing.seeds is not None)
    found = " ".join(more.ways(Results(study, root), verdicts))
    assert f"of {len(open_)} intervals" in found
    lone = made(small({"ce": (0,), "diff": (0,)}), root)
    assert "a second training seed a side would let" in " ".join(more.ways(Results(lone, root), claims(root)))


def test_longer_training_is_named_of_the_sides_whose_fall_leaves_a_claim_open(root: Path) -> None:
    study = made(small(), root)
    missing = Missing(kind="still learning", text="FID still falls", variants=("ce",))
    open_ = claims(root)[0].model_copy(update={"missing": missing})
    assert more.ways(Results(study, root), [open_, open_]) == ["longer training of MAR, cross-entropy"]


@pytest.mark.parametrize(
    ("name", "following"),
    [("config/demo", "fashion"), ("config/demo-digits", "digits"), ("config/fashion", "fashion-3")]
    # the demo has its rows too, of trainings a quarter as long
    + [("config/digits", "digits-var"), ("docs/results/fashion-table5/study", "fashion-ablations")],
)
def test_the_next_study_trains_all_that_this_one_does_as_long(name: str, following: str) -> None:
    found = more.next_study(load(f"{name}.yaml"))
    assert found is not None and found.stem in (following, "digits-ablations")


def test_time_is_counted_once(root: Path) -> None:
    """Two seeds at once take as long as one, a pause counts nothing."""
    study = made(small({"ar": (), "ce": ()}), root)
    for seed, time in ((0, "03:00:00"), (1, "03:00:30")):
        run = layout.run_record(root, "diff", seed)
        values = read_json(run)
        write(run, values | {"seconds": 60.0, "provenance": values["provenance"] | {"time": f"2026-01-02T{time}+0000"}})
        for path in (root / "samples" / "diff" / f"seed{seed}").rglob("manifest.json"):
            values = read_json(path)
            provenance = values["provenance"] | {"time": "2026-01-02T09:00:00+0000"}
            write(path, values | {"seconds": 6.0, "provenance": provenance})
    hours, machine = spent(study, root, Results(study, root))
    assert 3600 * hours == pytest.approx(90 + 6) and machine == "2 CPU cores"
    assert [time_text(x) for x in (0.0, 0.01, 0.5, 3.0)] == ["", "1 min", "30 min", "3.0 h"]


def test_labels_tell_variants_apart() -> None:
    study = large()
    found = {name: labels.label(study, name) for name in study.variants}
    assert found["ar"] == "AR, cross-entropy" and found["ce"] == "MAR, cross-entropy" and found["dit"] == "DiT"
    assert found["diff"] == "MAR, Diffusion Loss (diff)", "another variant has the same factors"
    assert len(set(found.values())) == len(found)
    assert labels.label(load("config/digits-var.yaml"), "var") == "VAR"
    assert labels.label(load("config/fashion.yaml"), "ar-random-diffloss") == "causal MAR, Diffusion Loss"


def test_curves_of_shipped_studies_begin_with_their_model() -> None:
    for path in sorted(layout.shipped().glob("*.yaml")):
        if path.name == "claims.yaml":
            continue
        study = load(path)
        for curve in (*study.tradeoff, *study.diffusion_steps, *study.temperature):
            model = labels.model(study, curve.variant)
            assert curve.label.startswith(model), (path.name, curve.label)


def test_a_floor_of_few_images_is_not_as_good_as_it_gets(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of fewer images than a sample set FID is higher, whatever they are."""
    study, path = made(small(), root), layout.reference_metrics(root)
    values = read_json(path)
    values["metrics"]["fid"]["n"] = study.metrics.samples - 4
    write(path, values)
    assert f"  real images, held out   10.0     ({study.metrics.samples - 4} images: too few to compare)" in said(
        capsys, study, root
    )


def test_a_verdict_of_before_has_no_numbers_of_seeds(root: Path) -> None:
    made(small(), root)
    values = read_json(layout.claims(root))
    for value in values:
        if value["missing"]:
            value["missing"] = {key: value["missing"][key] for key in ("kind", "text")}
    write(layout.claims(root), values)
    assert len(read(layout.claims(root), Verdicts).root) == len(values) > 100
    assert answer(small(), root, Results(small(), root), claims(root)).paired


def read_json(path: Path) -> Any:
    import json

    return json.loads(path.read_text())
