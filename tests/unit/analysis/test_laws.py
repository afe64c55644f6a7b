"""VAR's power laws: the fits against known laws, their intervals by simulation, and the verdict on a study."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import tiny
from fabricate import PROVENANCE, cell, write
from PIL import Image

from mar.analysis import laws
from mar.analysis.estimates import Results
from mar.analysis.laws import Point, fits, front
from mar.paper.claims import Law
from mar.paper.numbers import paper_rows
from mar.report.figures import draw
from mar.report.figures.laws import laws_samples
from mar.report.figures.style import STYLE
from mar.report.tables import laws as table
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.parts import ScalesBackbone
from mar.study.products import figure_names, learned, table_names
from mar.study.study import Study

SIZES = np.array([0.02, 0.05, 0.1, 0.3, 0.7])  # billions


def of(values: Any, sizes: Any = SIZES) -> list[Point]:
    pairs = enumerate(zip(sizes, values, strict=True))
    return [Point(f"d{i}", 100, float(x), (float(y),), (0,)) for i, (x, y) in pairs]


def test_a_law_without_scatter_is_found_in_each_way() -> None:
    raw = fits(of((2.0 * SIZES) ** -0.23), "parameters", None)["raw"]
    assert (raw.alpha, raw.beta) == pytest.approx((-0.23, 2.0)) and raw.correlation == pytest.approx(-1)
    assert raw.high - raw.low < 1e-9 and raw.without_one == pytest.approx((-0.23, -0.23))
    above = of(4.5 + (2.0 * SIZES) ** -0.23)
    made = fits(above, "parameters", 4.5)
    for way in ("subtracted", "free"):
        assert (made[way].alpha, made[way].beta) == pytest.approx((-0.23, 2.0), rel=1e-3), way
        assert made[way].irreducible == pytest.approx(4.5, rel=1e-3)
        assert made[way].at(0.1) == pytest.approx(4.5 + 0.2**-0.23, rel=1e-4)
    assert -0.06 < made["raw"].alpha < -0.02  # the constant hides the exponent


def test_a_constant_above_a_loss_is_not_subtracted() -> None:
    values = 1.0 + (2.0 * SIZES) ** -0.23
    assert set(fits(of(values), "parameters", 2.5)) == {"raw", "free"} and values.min() < 2.5
    assert set(fits(of((2.0 * SIZES) ** -0.23), "parameters", None)) == {"raw"}  # without a bend no constant is found


@pytest.mark.parametrize(("models", "least"), [(4, 0.93), (7, 0.93)])
def test_the_interval_covers_the_exponent(models: int, least: float) -> None:
    """At 2% scatter of each model's mean; the bootstrap over two seeds covers less, so no verdict rests on it."""
    rng, covered = np.random.default_rng(1), 0
    sizes = np.geomspace(0.01, 1, models)
    for _ in range(400):
        values = (2.0 * sizes) ** -0.05 * np.exp(rng.normal(0, 0.02, models))
        alpha, _, error, _ = laws._line(sizes, values, 0.0) or (0.0, 0.0, 0.0, 0.0)
        covered += abs(alpha + 0.05) <= laws.quantile(models - 2) * error
    assert covered / 400 >= least


FASHION = 1152 * np.array([3, 4, 5, 6, 8.0]) ** 3 / 1e9  # billions, as in fashion-laws
PUBLISHED = 73728 * np.array([6, 8, 10, 12, 14, 16, 18, 20, 24, 30.0]) ** 3 / 1e9  # as in var256-laws


@pytest.mark.parametrize(
    ("sizes", "values", "falls", "replicated"),
    [
        (FASHION, FASHION**-0.03, (0.95, 1.0), (0.95, 1.0)),  # docs/results/laws has -0.025 to -0.051
        (FASHION, FASHION**0.0, (0.0, 0.05), (0.0, 0.025)),
        (PUBLISHED, PUBLISHED**-0.03, (0.95, 1.0), (0.95, 1.0)),
        (PUBLISHED, np.minimum(PUBLISHED, PUBLISHED[2]) ** -0.06, (0.9, 1.0), (0.0, 0.02)),
        (PUBLISHED, 4.5 + (2.0 * PUBLISHED) ** -0.23, (0.95, 1.0), (0.95, 1.0)),  # the paper's, of raw losses
    ],
)
def test_a_law_is_told_from_what_is_flat_or_bent(
    sizes: Any, values: Any, falls: tuple[float, float], replicated: tuple[float, float]
) -> None:
    """At a scatter of 0.5% of each model's mean, which is that of the losses of docs/results/laws about their line."""
    rng, made = np.random.default_rng(4), []
    for _ in range(300):
        found = of(values * np.exp(rng.normal(0, 0.005, len(sizes))), sizes)
        fit = laws._fit(found, "parameters", "raw", 0.0)
        assert fit
        made.append((fit.falls, fit.falls and fit.straight))
    for share, (least, most) in zip(np.mean(made, axis=0), (falls, replicated), strict=True):
        assert least <= share <= most


def test_models_that_the_front_leaves_out_are_not_counted() -> None:
    sizes = np.array([1.0, 2.0, 4.0, 8.0])
    found = of([5.0, 4.0, 4.5, 3.0], sizes)  # the third has more compute than the second and is worse
    (compute, parameters) = (fits(found, over, None)["raw"] for over in ("compute", "parameters"))
    assert (compute.models, parameters.models) == (3, 4) and len(compute.residuals) == 3


def seeded(values: Any) -> list[Point]:
    """Models with a value for each of the seeds 0, 1, ...: values (models, seeds)."""
    numbers = tuple(range(len(values[0])))
    return [Point(f"d{i}", 1, float(x), tuple(map(float, values[i])), numbers) for i, x in enumerate(SIZES)]


def test_the_bootstrap_over_two_seeds_covers_half() -> None:
    rng, covered = np.random.default_rng(2), 0
    for _ in range(60):
        found = seeded((2.0 * SIZES[:, None]) ** -0.05 * np.exp(rng.normal(0, 0.02, (5, 2))))
        low, high = laws._by_seeds(found, "parameters", 0.0) or (0.0, 0.0)
        covered += low <= -0.05 <= high
    assert 0.3 < covered / 60 < 0.7


def test_seeds_are_drawn_for_all_models_together() -> None:
    """What a seed does to all models alike, as its tokenizer does, moves the factor and not the exponent."""
    seeds = np.exp(np.random.default_rng(3).normal(0, 0.1, (1, 3)))
    found = seeded((2.0 * SIZES[:, None]) ** -0.05 * seeds)
    assert laws._by_seeds(found, "parameters", 0.0) == pytest.approx((-0.05, -0.05), abs=1e-4)
    # seeds are told apart by number, not by place
    turned = [found[0], *(p._replace(seeds=p.seeds[::-1], numbers=p.numbers[::-1]) for p in found[1:])]
    assert laws._by_seeds(turned, "parameters", 0.0) == pytest.approx((-0.05, -0.05), abs=1e-4)
    # a model without one of the seeds takes part where it has another one
    fewer = [found[0]._replace(seeds=found[0].seeds[:2], numbers=(0, 1)), *found[1:]]
    low, high = laws._by_seeds(fewer, "parameters", 0.0) or (0.0, 0.0)
    assert high - low > 0.01
    assert laws._by_seeds(of((2.0 * SIZES) ** -0.05), "parameters", 0.0) is None


def test_the_front_is_what_no_other_beats() -> None:
    a = [Point("a", n, float(x), (y,), (0,)) for n, x, y in ((1, 1, 5.0), (2, 2, 4.0), (3, 3, 3.9))]
    b = [Point("b", n, float(x), (y,), (0,)) for n, x, y in ((1, 2, 4.5), (2, 4, 3.0), (3, 6, 3.5))]
    assert [(p.variant, p.images) for p in front([*b, *a])] == [("a", 1), ("a", 2), ("a", 3), ("b", 2)]


def test_points_of_one_training_count_once() -> None:
    """Over compute the degrees of freedom are those of the models: ten points of three models leave one."""
    rng, found = np.random.default_rng(0), []
    for i, n in enumerate((1.0, 10.0, 100.0)):
        for k in (1, 2, 4):
            x = n * k
            found.append(Point(f"d{i}", k, x, (float(x**-0.1 * np.exp(rng.normal(0, 0.005))),), (0,)))
    fit, used = fits(found, "compute", None)["raw"], front(found)
    line = laws._line(np.array([p.x for p in used]), np.array([p.value for p in used]), 0.0)
    assert line and fit.high - fit.low == pytest.approx(2 * 12.706 * line[2] * np.sqrt(len(used) - 2), rel=1e-3)


def study_of(sizes: tuple[int, ...] = (8, 16, 24, 32), **more: Any) -> Study:
    values = tiny.STUDY
    backbones = {f"w{w}": {"kind": "scales", "width": w, "depth": 2, "heads": 2, "gate_init": 1e-3} for w in sizes}
    recipes = {"short": values["recipes"]["short"] | {"evaluate_at": [0.5]}}
    variant = values["variants"]["var"] | {"seeds": [0, 1]}
    variants = {f"w{w}": variant | {"backbone": f"w{w}"} for w in sizes}
    return tiny.study(
        backbones={**values["backbones"], **backbones},
        recipes={**values["recipes"], **recipes},
        variants=variants,
        tables={},
        tradeoff=[],
        **{"laws": {"variants": list(variants)}} | more,
    )


def curves(study: Study, root: Path, exponent: float, most: float = np.inf) -> None:
    """Learning of every training: loss and error follow a power law of up to `most` billions, times 1.2 half way."""
    for variant, seed in learned(study):
        backbone = study.backbones[study.variants[variant].backbone]
        assert isinstance(backbone, ScalesBackbone)
        n = laws.size(backbone) / 1e9
        points = []
        for k, images in enumerate(study.recipes[study.variants[variant].recipe].points):
            value = (min(n, most) * 1e6) ** exponent * (1.2 - 0.2 * k) * (1 + 0.001 * seed)
            scales = {
                f"{what} {part}": cell(value, 0.001, 10, False)
                for what in ("loss", "error")
                for part in ("last", "all")
            }
            losses = {"all": cell(value, 0.01, 100, False)}
            point = {"images": images, "checkpoint": "e" * 64, "heldout": losses, "train": losses}
            points.append(point | {"scales": scales})
        record = {"variant": variant, "seed": seed, "split": "heldout", "operations": 1e6 * n * 1e9, "points": points}
        record |= {"recipe": {"slice": "", "inputs": {}}, "provenance": PROVENANCE}
        if seed == 0:
            picture = layout.pictures(root, variant, seed)
            picture.parent.mkdir(parents=True, exist_ok=True)
            shade = np.repeat(np.arange(len(points)), 4) * 50 + int(n * 1e9) % 50
            Image.fromarray(np.broadcast_to(shade[:, None, None], (8, 40, 3)).astype(np.uint8)).save(picture)
            record["pictures"] = sha256(picture)
        write(layout.learning(root, variant, seed), record)


@pytest.mark.parametrize(("exponent", "verdict"), [(-0.1, "replicated"), (0.1, "not replicated")])
def test_a_study_and_its_verdict(tmp_path: Path, exponent: float, verdict: str) -> None:
    study = study_of()
    curves(study, tmp_path, exponent)
    for row in ("loss-last-parameters", "error-all-parameters"):
        finding = laws.law(Law(kind="law", row=row), Results(study, tmp_path))
        assert finding.verdict == verdict, finding.reason
        assert f"exponent {exponent:.3f} [" in finding.reason and "4 models, 2 seeds each" in finding.reason
        assert f"the paper: {paper_rows('var_laws')[row]['alpha']}" in finding.reason
    compute = laws.law(Law(kind="law", row="loss-all-compute"), Results(study, tmp_path))
    assert (compute.verdict == "replicated") == (exponent < 0)
    if exponent < 0:
        assert "4 models on the front of 4, 2 seeds each" in compute.reason


def test_what_falls_but_is_no_line_is_undecided(tmp_path: Path) -> None:
    study = study_of((8, 16, 24, 32, 40, 48))
    backbone = study.backbones["w24"]
    assert isinstance(backbone, ScalesBackbone)
    curves(study, tmp_path, -0.1, most=laws.size(backbone) / 1e9)
    finding = laws.law(Law(kind="law", row="loss-last-parameters"), Results(study, tmp_path))
    assert finding.verdict == "undecided" and finding.missing
    assert "it falls, but not along a line: correlation -0.9" in finding.missing.text


def test_figure_and_table(tmp_path: Path) -> None:
    study = study_of()
    assert "laws" in figure_names(study) and "laws" in table_names(study)
    assert "laws" not in [*figure_names(tiny.study()), *table_names(tiny.study())]
    curves(study, tmp_path, -0.1)
    draw.draw(study, tmp_path, "laws", tmp_path)
    with open(tmp_path / "laws.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 4 + 4 * 8 and {row["fitted"] for row in rows[:16]} == {"True"}
    table.table(study, tmp_path)
    with open(layout.table(tmp_path, "laws", "csv"), newline="") as file:
        lines = {(line["law"], line["way"]): line for line in csv.DictReader(file)}
    assert len({law for law, _ in lines}) == 8
    raw = lines["error-last-parameters", "raw"]
    assert float(raw["exponent"]) == pytest.approx(-0.1) and raw["paper_alpha"] == "-0.016"
    assert lines["loss-last-parameters", "raw"]["paper_alpha"] == ""  # printed of what lies above 4.5


def test_grid_of_samples(tmp_path: Path) -> None:
    """Sizes downwards, points of training to the right, each block the images of its point."""
    study = study_of(sizes=(32, 8, 24, 16))
    assert "laws_samples" in figure_names(study) and "laws_samples" not in figure_names(tiny.study())
    curves(study, tmp_path, -0.1)
    with matplotlib.rc_context(STYLE):
        figure, rows = laws_samples(study, tmp_path)
    assert [(row["variant"], row["images"]) for row in rows] == [
        (f"w{w}", n) for w in (8, 16, 24, 32) for n in (48, 96)
    ]
    assert len(figure.axes) == 8
    for place, axes in enumerate(figure.axes):
        (image,) = axes.images
        block, backbone = image.get_array(), study.backbones[rows[place]["variant"]]
        assert isinstance(backbone, ScalesBackbone) and block is not None
        assert block.shape == (8, 20, 3) and (block == place % 2 * 50 + laws.size(backbone) % 50).all()
        spec = axes.get_subplotspec()
        assert spec is not None and (spec.rowspan.start, spec.colspan.start) == divmod(place, 2)
    assert figure.axes[0].get_title() == "2.3k, 0.00011 PFLOP"
    draw.draw(study, tmp_path, "laws_samples", tmp_path / "figures")
    layout.pictures(tmp_path, "w16", 0).write_bytes(b"another")
    with pytest.raises(ValueError, match=r"w16/seed0/learning.png: missing, or not the one that learning.json names"):
        laws_samples(study, tmp_path)


def test_a_size_as_the_paper_counts_it() -> None:
    for depth, parameters in ((16, 310e6), (20, 600e6), (24, 1.0e9), (30, 2.0e9)):
        backbone = ScalesBackbone(kind="scales", width=64 * depth, depth=depth, heads=depth, gate_init=1e-3)
        assert laws.size(backbone) == 73728 * depth**3 and laws.size(backbone) == pytest.approx(parameters, rel=0.05)
    shared = ScalesBackbone(kind="scales", width=2304, depth=36, heads=36, shared_aln=True, gate_init=1e-5)
    assert laws.size(shared) == 12 * 36 * 2304**2 + 6 * 2304**2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": ["w8", "w16"]}, "laws.variants"),
        ({"variants": ["w8", "w16", "w8"]}, "each entry once is accepted"),
        ({"variants": ["w8", "w16", "nobody"]}, r"laws.variants: found 'nobody'; accepted: w8, w16"),
    ],
)
def test_laws_that_cannot_be_fitted_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study_of(laws=change)


def test_pictures_along_a_training_are_drawn_once() -> None:
    sampling = tiny.STUDY["sampling"]
    rejects = sampling["var"] | {"reject": {"threshold": 0.6, "tries": 3}}
    with pytest.raises(ValueError, match=r"laws\.variants: sampling\.var has reject; accepted: a setting that"):
        study_of(sampling=sampling | {"var": rejects}, rejecter={"images": 64})
