"""Figures: their numbers, and that drawing again changes no byte."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fabricate import GUIDED, HEAT, STEPS, fabricate, large, small, swept, write
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from mar.analysis import curve_points
from mar.analysis.estimates import Results
from mar.analysis.verdicts import decide
from mar.report.figures import curves, draw, losses, samples, style
from mar.study import labels, layout
from mar.study.parts import Reject
from mar.study.reading import load, resolve
from mar.study.sections import Curve
from mar.study.study import Study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    study = small({"ce": (0,)})
    fabricate(study, tmp_path, lambda v, s, k: {"s2": 40.0, "s4": 20.0}.get(s, 30.0), lambda v, s: 0.1, noise=0.05)
    held = np.full((10, 16, 16, 3), 200, np.uint8)
    monkeypatch.setattr(samples, "real", lambda study, root, classes: (held, np.arange(10)))
    return study


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def fid_of(variant: str, setting: str, seed: int) -> float:
    """Falls with the diffusion steps (d10: 30, d1000: 10.2), is lowest at temperature 0.95, halves with guidance."""
    kind, number = setting[0], setting.removesuffix("-cfg")[1:]
    fid = {"d": lambda n: 10 + 200 / n, "t": lambda n: 12 + 4000 * (n - 0.95) ** 2}.get(kind, lambda n: 20.0)
    return fid(float(number)) * (0.5 if setting.endswith("cfg") else 1.0)


@pytest.fixture
def curved(tmp_path: Path) -> Study:
    study = large()
    fabricate(study, tmp_path, fid_of, noise=0.05)
    return study


@pytest.mark.parametrize("name", ["tradeoff", "samples", "losses"])
def test_drawing_again_gives_the_same_bytes(study: Study, tmp_path: Path, name: str) -> None:
    made = []
    for folder in ("a", "b"):
        draw.draw(study, tmp_path, name, tmp_path / folder)
        made.append([(tmp_path / folder / f"{name}.{suffix}").read_bytes() for suffix in ("pdf", "png", "csv")])
    assert made[0] == made[1]
    assert made[0][0].startswith(b"%PDF") and made[0][1].startswith(b"\x89PNG")
    with Image.open(tmp_path / "a" / f"{name}.png") as image:
        assert min(image.size) > 300


def test_tradeoff_numbers(study: Study, tmp_path: Path) -> None:
    _, found = draw.tradeoff(study, tmp_path)
    assert [(r["curve"], r["setting"], r["steps"]) for r in found[:2]] == [
        ("MAR, Diffusion Loss", "s2", 2),
        ("MAR, Diffusion Loss", "s4", 4),
    ]
    assert float(found[0]["fid"]) == pytest.approx(40) and float(found[0]["fid_low"]) < 40 < float(found[0]["fid_high"])
    assert float(found[0]["seconds_low"]) == pytest.approx(0.09)
    assert (found[-1]["curve"], float(found[-1]["fid"])) == ("real versus real", 10.0)


@pytest.mark.parametrize(("name", "places"), [("diffusion_steps", STEPS), ("temperature", HEAT)])
def test_curves_show_every_point_with_its_interval(
    curved: Study, tmp_path: Path, name: str, places: tuple[float, ...]
) -> None:
    for folder in ("a", "b"):
        draw.draw(curved, tmp_path, name, tmp_path / folder)
    for suffix in ("pdf", "png", "csv"):
        a, b = (tmp_path / folder / f"{name}.{suffix}" for folder in ("a", "b"))
        assert a.read_bytes() == b.read_bytes()
    found = [row for row in rows(tmp_path / "a" / f"{name}.csv") if row["setting"]]
    assert [(row["curve"], float(row[name])) for row in found] == [
        ("guidance 2" if cfg else "no guidance", float(x)) for cfg, _ in GUIDED for x in places
    ]
    for row in found:
        assert float(row["fid"]) == pytest.approx(fid_of("", row["setting"], 0), rel=1e-6)
        assert float(row["fid_low"]) < float(row["fid"]) < float(row["fid_high"])
        assert float(row["inception_score_low"]) < float(row["inception_score"]) and row["seeds"] == "0 1"


def test_panels_show_the_numbers_on_a_fitting_scale(curved: Study, tmp_path: Path) -> None:
    figure, _ = draw.diffusion_steps(curved, tmp_path)
    fid, score = figure.axes
    assert (fid.get_xscale(), fid.get_yscale(), score.get_yscale()) == ("log", "linear", "linear")
    assert fid.lines[0].get_ydata() == pytest.approx([10 + 200 / n for n in STEPS])
    assert list(score.lines[0].get_xdata()) == list(STEPS)
    fabricate(curved, tmp_path, lambda v, s, k: 700.0 if s.startswith("d10") else 10.0)
    assert draw.diffusion_steps(curved, tmp_path)[0].axes[0].get_yscale() == "log"
    assert draw.temperature(curved, tmp_path)[0].axes[0].get_xscale() == "linear"


def test_points_of_the_paper_are_drawn_on_its_own_scale_only(
    curved: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure, found = draw.diffusion_steps(curved, tmp_path)
    (theirs,) = (row for row in found if row["curve"] == "the paper: MAR, Diffusion Loss, guidance")
    assert (theirs["diffusion_steps"], theirs["paper_fid"], theirs["paper_inception_score"]) == ("100", "1.97", "291.2")
    assert not [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    imagenet = large(imagenet=True)
    fabricate(imagenet, tmp_path / "imagenet", fid_of, noise=0.05)
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)
    tmp_path /= "imagenet"
    figure, _ = draw.diffusion_steps(imagenet, tmp_path)
    stars = [(*line.get_xdata(), *line.get_ydata()) for line in figure.axes[0].lines if line.get_marker() == "*"]
    assert stars == [(100.0, 2.85), (100.0, 1.97)]
    stars = [line for line in draw.tradeoff(imagenet, tmp_path)[0].axes[0].lines if line.get_marker() == "*"]
    assert [(*line.get_xdata(), *line.get_ydata()) for line in stars] == [(0.288, 1.97)]  # the one with seconds


def test_how_far_a_point_is_from_the_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = large(imagenet=True).model_dump(exclude_defaults=True)
    for curve, label in zip(
        values["diffusion_steps"], ("MAR, Diffusion Loss", "MAR, Diffusion Loss, guidance"), strict=True
    ):
        curve["label"] = label
    study = resolve(values, "large.yaml")
    fabricate(study, tmp_path, fid_of, noise=0.05, images=False)
    assert not any("fid_minus_paper" in row for row in draw.diffusion_steps(study, tmp_path)[1])
    monkeypatch.setattr("mar.analysis.result_files.paper_samples", lambda: 40)
    found = [row for row in draw.diffusion_steps(study, tmp_path)[1] if "fid_minus_paper" in row]
    assert [(row["setting"], row["guidance"]) for row in found] == [("d100", 1.0), ("d100-cfg", 2.0)]
    assert [row["fid_minus_paper"] for row in found] == pytest.approx([12 - 2.85, 6 - 1.97])
    assert found[1]["inception_score_minus_paper"] == pytest.approx(found[1]["inception_score"] - 291.2)


@pytest.mark.parametrize(("low", "high", "least"), [(1.9, 3.6, 4), (9.0, 85.0, 3), (2.0, 12.0, 4), (0.004, 1.2, 6)])
def test_a_log_axis_has_numbers(low: float, high: float, least: int) -> None:
    axes = Figure().add_subplot()
    axes.plot([1, 2], [low, high])
    style.log_axis(axes.yaxis)
    ticks = [t for t in axes.yaxis.get_majorticklocs() if low <= t <= high]
    assert least <= len(ticks) <= 9 and all(label.get_text() for label in axes.yaxis.get_majorticklabels())


@pytest.mark.parametrize("name", ["tradeoff", "diffusion_steps", "temperature", "samples", "losses"])
def test_text_is_readable_in_print(curved: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Figures are as wide as the text of a page, so what is 7 points here is 7 points there."""
    held = np.full((10, 16, 16, 3), 200, np.uint8)
    monkeypatch.setattr(samples, "real", lambda study, root, classes: (held, np.arange(10)))
    with matplotlib.rc_context(style.STYLE):
        figure, _ = getattr(draw, name)(curved, tmp_path)
        figure.canvas.draw()
    assert figure.get_figwidth() <= 6.3
    shown = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert shown and all(7 <= text.get_fontsize() <= 9 for text in shown)


def test_labels_have_contrast() -> None:
    """WCAG asks for 4.5 to 1 of text on white; pure yellow and sky blue have half of it."""
    for colour in style.COLOURS:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in style.dark(colour)]
        assert 1.05 / (0.05 + np.dot([0.2126, 0.7152, 0.0722], linear)) > 4.5, colour


def test_a_curve_varies_what_its_figure_shows(curved: Study, tmp_path: Path) -> None:
    found = Results(curved, tmp_path)
    assert curve_points.along(found, "diffusion_steps", curved.diffusion_steps[0])[:2] == [(10, "d10"), (25, "d25")]
    twice = Curve(label="c", variant="diff", sampling=("s2", "s4"))
    with pytest.raises(ValueError, match=r"curve 'c': found s2: 25, s4: 25; accepted: each diffusion_steps once"):
        curve_points.along(found, "diffusion_steps", twice)
    without = Curve(label="c", variant="ce", sampling=("c4",))
    with pytest.raises(ValueError, match=r"curve 'c': sampling.c4 has no diffusion_steps"):
        curve_points.along(found, "diffusion_steps", without)
    chosen = swept()
    fabricate(chosen, tmp_path / "swept", fid_of, images=False)
    curve = Curve(label="c", variant="diff", sampling=("s4", "s4-cfg"))
    along = curve_points.along(Results(chosen, tmp_path / "swept"), "temperature", curve)
    assert along == [(0.95, "s4-cfg"), (1.0, "s4")], "the temperature that the sweep chose"


def test_points_of_dit_are_labelled_by_their_diffusion_steps(curved: Study, tmp_path: Path) -> None:
    figure, found = draw.tradeoff(curved, tmp_path)
    assert [row["steps"] for row in found if row["curve"] == "DiT"] == [10, 50]
    assert "labels: autoregressive steps (DiT: diffusion steps)" in " ".join(figure.get_supxlabel().split())


def test_a_model_has_one_look_in_all_studies_and_differs_from_the_others_in_grey() -> None:
    studies = [load(f"config/{name}.yaml") for name in ("demo", "fashion", "digits-var", "digits-ablations")]
    seen: dict[str, tuple[str, str]] = {}
    for study in studies:
        looks = {name: style.look(study, name) for name in study.variants}
        for name, found in looks.items():
            label = labels.label(study, name)
            if label in style.MODELS:
                assert seen.setdefault(label, (found["color"], found["marker"])) == (found["color"], found["marker"])
        assert len({(f["color"], f["marker"], str(f["linestyle"])) for f in looks.values()}) == len(looks)
    fashion = studies[1]
    assert len({style.look(fashion, name)["marker"] for name in fashion.variants}) == len(fashion.variants)
    again = [style.look(fashion, "mar-diffloss", i) for i in range(3)]
    assert len({look["color"] for look in again}) == 1 and len({look["marker"] for look in again}) == 3


def test_no_label_covers_a_marker_or_another_label() -> None:
    with matplotlib.rc_context(style.STYLE):
        figure = Figure(figsize=(3.3, 3.0), layout="constrained")
        axes = figure.add_subplot()
        points = [(x / 6, y / 6) for x in range(6) for y in range(6)]
        axes.plot(*zip(*points, strict=True), "o", markersize=5, linestyle="none")
        style.place_labels(figure, axes, [(x, y, "16", "black") for x, y in points])
        boxes = [text.get_window_extent().padded(-1) for text in axes.texts]
        marks = [Bbox.from_bounds(*(axes.transData.transform(p) - 5), 10, 10) for p in points]
    assert len(boxes) == len(points)
    assert not [box for box in boxes for mark in marks if box.overlaps(mark)]
    assert not [a for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


@pytest.mark.parametrize(
    ("panels", "most", "across"), [(5, 4, 3), (5, 5, 5), (9, 5, 5), (1, 3, 1), (4, 3, 2), (0, 3, 1)]
)
def test_panels_fill_their_rows(panels: int, most: int, across: int) -> None:
    assert style.columns(panels, most) == across


def test_the_figure_of_claims_shows_what_was_measured(tmp_path: Path) -> None:
    study = small()
    fabricate(
        study, tmp_path, lambda v, s, k: {"diff": 20.0, "ce": 40.0}.get(v, 41.0) + k / 10, noise=0.05, images=False
    )
    decide(study, tmp_path, layout.shipped("claims.yaml"))
    draw.draw(study, tmp_path, "claims", tmp_path)
    found = {row["claim"]: row for row in rows(tmp_path / "claims.csv")}
    measured = [v for v in json.loads((tmp_path / "claims.json").read_text()) if v["effect"] is not None]
    assert list(found) and set(found) == {v["id"] for v in measured}
    pair = found["diffloss-mar-default"]
    assert pair["verdict"] == "replicated" and float(pair["value"]) == pytest.approx(20.05 / 40.05, rel=1e-3)
    assert float(pair["low"]) < float(pair["value"]) < float(pair["high"]) < 1 == float(pair["edge"])
    assert float(pair["paper"]) == pytest.approx(3.50 / 8.79)
    score = found["diffloss-mar-default-is"]
    assert score["scale"] == "difference" and score["paper"] == "", "the paper's scores are of other images"
    with matplotlib.rc_context(style.STYLE):
        figure, _ = draw.claims(study, tmp_path)
        figure.canvas.draw()
    (axes,) = figure.axes
    ratios = [row for row in found.values() if row["scale"] == "log ratio"]
    assert figure.get_figwidth() <= 6.3 and len(axes.get_yticks()) == len(ratios) < len(found)


def test_without_a_measured_claim_the_figure_says_so(tmp_path: Path) -> None:
    write(layout.claims(tmp_path), [])
    figure, found = draw.claims(small(), tmp_path)
    assert not found and "No claim has been measured" in figure.get_supxlabel()


def test_imported_weights_have_no_loss(curved: Study, tmp_path: Path) -> None:
    draw.draw(curved, tmp_path, "losses", tmp_path)
    assert "published" not in {row["variant"] for row in rows(tmp_path / "losses.csv")}
    figure, _ = losses.losses(curved, tmp_path)
    caption = " ".join(figure.get_supxlabel().split())
    assert "weights imported, not trained: MAR, Diffusion Loss (published)" in caption
    assert {axes.get_title("left") for axes in figure.axes} == {
        "Diffusion Loss",
        "DiT's diffusion loss",
        "cross-entropy (nats a token)",
    }
    only = large({"ar": (), "ce": (), "diff": (), "dit": ()})
    draw.draw(only, tmp_path, "losses", tmp_path / "only")
    assert rows(tmp_path / "only" / "losses.csv") == [{"variant": "published"}]


def test_untrained_curves_are_left_out_and_said(tmp_path: Path) -> None:
    study = small({"diff": ()})
    fabricate(study, tmp_path, lambda v, s, k: 30.0)
    figure, found = draw.tradeoff(study, tmp_path)
    ours = [r["curve"] for r in found if not r["curve"].startswith("the paper: ")]
    assert ours == ["AR, cross-entropy, kv-cache", "real versus real"]
    caption = " ".join(figure.get_supxlabel().split())
    assert "not run: MAR, Diffusion Loss" in caption
    assert "batch 8, median of 3 batches after 1 for warm-up, decoding included" in caption
    assert "fp32 on cpu, 2 threads, A & B_CPU" in caption


def test_grid_rows_are_classes(study: Study, tmp_path: Path) -> None:
    picture, chosen = samples.sample_grid(tmp_path, "diff", 0, "s4", 10)
    assert picture.shape == (10 * 17, 8 * 17, 3)
    labels = np.load(tmp_path / "samples" / "diff" / "seed0" / "s4" / "labels.npy")
    assert len(chosen) == 40 and all(labels[index] == row for row, _, index in chosen)  # 4 of 8 columns are filled
    # the fabricated images grow brighter by 15 a class
    grey = [picture[17 * c : 17 * c + 16, :16].mean() for c in range(10)]
    assert np.diff(grey) == pytest.approx([15.0] * 9, abs=4.0)
    assert (picture[:, 4 * 17 :] == 255).all()


def test_large_images_are_reduced_and_few_classes_shown() -> None:
    images = np.zeros((2, 256, 256, 3), np.uint8)
    assert samples.grid(images, np.array([0, 1]), 2).shape == (2 * 65, 8 * 65, 3)


def test_shown_setting_is_the_last_guided_one(study: Study) -> None:
    assert study.shown_setting("diff") == "s4-cfg"
    rejecting = study.sampling["s4-cfg"].model_copy(update={"reject": Reject(threshold=0.5, tries=2)})
    sampling = {**study.sampling, "s4-cfg": rejecting}
    assert study.model_copy(update={"sampling": sampling}).shown_setting("diff") != "s4-cfg", (
        "one that rejects no image"
    )


def test_losses_csv_and_missing_curve(study: Study, tmp_path: Path) -> None:
    draw.draw(study, tmp_path, "losses", tmp_path)
    found = rows(tmp_path / "losses.csv")
    assert {(r["variant"], r["seed"]) for r in found} == {
        ("ar", "0"),
        ("ar", "1"),
        ("ce", "0"),
        ("diff", "0"),
        ("diff", "1"),
    }
    (tmp_path / "runs" / "diff" / "seed1" / "metrics.jsonl").unlink()
    with pytest.raises(ValueError, match=r"diff/seed1/metrics.jsonl: missing or empty"):
        losses.losses(study, tmp_path)


def test_smooth_keeps_lines_straight() -> None:
    assert losses.smooth(range(5)) == [0.5, 1, 2, 3, 3.5]
    assert losses.smooth([2.0]) == [2.0]


def test_unknown_figure(study: Study, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"figure 'nope': accepted: claims, tradeoff, diffusion_steps, .*, samples, losses",
    ):
        draw.draw(study, tmp_path, "nope", tmp_path)


def test_labels_of_a_log_axis_stand_apart() -> None:
    assert curves._apart([1, 2, 4, 5, 10, 24, 25]) == [1, 2, 4, 5, 10, 25]
    assert curves._apart([5.0]) == [5.0] and curves._apart([]) == []
