"""The stage `tasks`: what is drawn and measured, resumed to the bit; table, figure and verdict; what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from mar.analysis import tasks as analysis
from mar.analysis.estimates import Results
from mar.data.images import ImageSet, to_float, to_uint8
from mar.features.networks import extractors
from mar.features.networks.classifier import Classifier
from mar.features.networks.extractors import Extractor
from mar.metrics import jackknife, moments, real_images
from mar.metrics.real_images import Real
from mar.paper.claims import Fits
from mar.report.figures.draw import draw as draw_figure
from mar.report.tables import tasks as table
from mar.runtime.files import read, write
from mar.runtime.noise import Noise
from mar.sampling import editing, sampler
from mar.sampling import tasks as doing
from mar.study import layout
from mar.study.records import Change, Judge, RealSide, TasksRecord
from mar.study.sections import TASKS, Tasks
from mar.study.sections import Classifier as ClassifierConfig
from mar.study.study import Study
from mar.tokenizers import autoencoder
from mar.training.trainer import train

MODELS = {"mar-diff": "diff", "var": "var"}
SIDE, COUNT = 8, 24


def study(**over: Any) -> Study:
    asked = {"samples": COUNT, "box": [0.0, 0.0, 0.5, 1.0], "models": MODELS, **over}
    found: Study = tiny.study(tasks=asked)
    return found


def judge(weights: str = "a" * 64) -> Extractor:
    torch.manual_seed(3)
    network = Classifier(ClassifierConfig(channels=(8, 8), features=6, images=64), 10).eval().requires_grad_(False)

    def extract(images: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(("features", "logits"), network(to_float(images)), strict=True))

    return Extractor("classifier", weights, "", network, extract, torch.device("cpu"), 16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tiny.make_root(tmp_path_factory.mktemp("tasks"))
    for variant in MODELS:
        train(study(), root, variant, 0)
    return root


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out images, a judge and tokenizers that no stage has to make first."""
    pixels = Noise("held out").integers(256, 60, SIDE, SIDE, 3).to(torch.uint8).numpy()
    split = ImageSet(np.arange(60) % 10, [str(k) for k in range(10)], lambda rows: pixels[rows])
    monkeypatch.setattr(doing, "open_split", lambda *args: split)
    monkeypatch.setattr(doing, "sha256_of_data", lambda root: "d" * 64)
    judged_by(monkeypatch, judge())

    def load(root: Path, name: str, study: Study) -> autoencoder.Tokenizer:
        torch.manual_seed(1)
        built = autoencoder.build(study.instances[name].config, SIDE).eval().requires_grad_(False)
        if built.tokens == "ids":
            latents = built.encode_latents(to_float(torch.from_numpy(pixels[:1]).permute(0, 3, 1, 2)))
            built.net.quantize.embedding.weight.copy_(latents.flatten(2)[0].T[:12])
        return built

    monkeypatch.setattr(sampler.autoencoder, "load", load)


def judged_by(monkeypatch: pytest.MonkeyPatch, network: Extractor) -> None:
    rows = np.random.default_rng(0).normal(0.5, 0.2, (200, 6))
    side = RealSide(name="train split", sha256="b" * 64)
    about = Judge(name="classifier", weights=network.weights, note="")
    monkeypatch.setattr(extractors, "load", lambda *args: network)
    monkeypatch.setattr(real_images, "real", lambda *args, **more: Real(side, about, moments.of(rows), None, None))


@pytest.fixture
def root(trained: Path) -> Path:
    for variant in MODELS:
        doing.tasks(study(), trained, variant, 0)
    return trained


def result(root: Path, variant: str = "mar-diff") -> TasksRecord:
    return read(layout.tasks(root, variant, 0), TasksRecord)


def pictures(root: Path, variant: str, task: str) -> np.ndarray:
    folder = layout.tasks(root, variant, 0).parent
    return np.concatenate([np.load(path) for path in sorted(folder.glob(f"{task}-0*.npy"))])


def test_what_is_measured(root: Path) -> None:
    record, images = result(root), doing.Images(study(), root, study().tasks)  # type: ignore[arg-type]
    assert [one.task for one in record.tasks] == list(TASKS) and record.count == COUNT
    assert len(np.unique(images.labels, return_counts=True)[1]) == 10
    one = sampler.Sampler(study(), root, "mar-diff", 0)
    parts = images.pixels.split(study().metrics.chunk)  # as many at a time: sums in another order round otherwise
    codes = [one.tokenizer.encode(to_float(part)) for part in parts]
    rebuilt = torch.cat([to_uint8(one.tokenizer.decode(part, Noise("any"))) for part in codes])
    for task in record.tasks:
        drawn = torch.from_numpy(pictures(root, "mar-diff", task.task)).permute(0, 3, 1, 2)
        assert drawn.shape == images.pixels.shape
        left = slice(4, 8) if task.task != "out-painting" else slice(0, 4)  # what is kept
        for name, shown in (("psnr", drawn), ("psnr_rebuilt", rebuilt)):
            errors = (shown[..., left].double() - images.pixels[..., left].double()).square().mean((1, 2, 3))
            expected = (10 * torch.log10(255**2 / errors)).mean().item()
            assert task.metrics[name].value == pytest.approx(expected), (task.task, name)
        whole = images.pixels.clone()
        drawn_side = slice(0, 4) if task.task != "out-painting" else slice(4, 8)
        whole[..., drawn_side] = drawn[..., drawn_side]
        said = judge()(whole)["logits"].argmax(1).numpy()
        wanted = (images.labels + 1) % 10 if task.task == "class-change" else images.labels
        assert task.metrics["agreement"].value == pytest.approx((said == wanted).mean())
        assert task.metrics["fid"].value != task.metrics["fid_exchanged"].value
        assert task.fits.effect == pytest.approx(
            math.log(task.metrics["fid"].value / task.metrics["fid_exchanged"].value)
        )
        assert task.fits.error > 0 and task.drawn in (0.75, 1 - 4 / 16)
    asked = images.asked("class-change")
    assert (asked == (images.labels + 1) % 10).all() and (images.asked("in-painting") == -1).all()


def test_resumed_to_the_bit_and_measured_again_without_drawing(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before, folder = result(root), layout.tasks(root, "mar-diff", 0).parent
    doing.tasks(study(), root, "mar-diff", 0)
    assert "complete" in capsys.readouterr().out
    layout.tasks(root, "mar-diff", 0).unlink()
    for name in ("in-painting-00001.npy", "class-change-more.npy"):
        (folder / name).unlink()
    doing.tasks(study(), root, "mar-diff", 0)
    again = result(root)
    assert again.files == before.files and again.tasks == before.tasks and again.measures == before.measures
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*-*.npy")}
    judged_by(monkeypatch, judge("e" * 64))
    doing.tasks(study(), root, "mar-diff", 0)
    assert result(root).inputs["judge"] == "e" * 64
    assert times == {path: path.stat().st_mtime_ns for path in folder.glob("*-*.npy")}


def test_models_do_the_same_images_and_are_compared_image_by_image(root: Path) -> None:
    results = Results(study(), root)
    first, second = analysis.records(results)
    metrics = [analysis.done(record, "in-painting").metrics for record in (first, second)]
    assert metrics[0]["fid_real"] == metrics[1]["fid_real"]
    assert metrics[0]["agreement_real"] == metrics[1]["agreement_real"]
    effect = analysis.against(results, second, first, "in-painting", "psnr")
    assert effect and effect.effect == pytest.approx(metrics[1]["psnr"].value - metrics[0]["psnr"].value)
    assert effect.low < effect.effect < effect.high
    ratio = analysis.against(results, second, first, "in-painting", "fid")
    assert ratio and math.exp(ratio.effect) == pytest.approx(metrics[1]["fid"].value / metrics[0]["fid"].value)
    same = analysis.against(results, first, first, "in-painting", "fid")
    assert same == (0.0, 0.0, 0.0)


def test_table_and_figure(root: Path, tmp_path: Path) -> None:
    table.table(study(), root)
    text = layout.table(root, "tasks", "md").read_text()
    assert text.count("class-change") == 2 and "0, 0, 0.5, 1" in text
    assert len(layout.table(root, "tasks", "csv").read_text().splitlines()) == 1 + 6
    draw_figure(study(), root, "tasks", tmp_path)
    assert (tmp_path / "tasks.png").stat().st_size > 1000
    assert len((tmp_path / "tasks.csv").read_text().splitlines()) == 1 + 3 * doing.SHOWN


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [((-0.3, -0.2), "replicated"), ((-0.3, 0.2), "not replicated"), ((-0.3, -0.01), "undecided")],
)
def test_the_claim_is_judged_by_every_model(trained: Path, effects: tuple[float, ...], verdict: str) -> None:
    for variant, effect in zip(MODELS, effects, strict=True):
        doing.tasks(study(), trained, variant, 0)
        record = result(trained, variant)
        changed = [one.model_copy(update={"fits": Change(effect=effect, error=0.05)}) for one in record.tasks]
        write(layout.tasks(trained, variant, 0), record.model_copy(update={"tasks": tuple(changed)}))
    finding = analysis.fits(Fits(kind="fits", task="in-painting"), Results(study(), trained))
    assert finding.verdict == verdict and "24 images" in finding.reason
    for variant in MODELS:
        layout.tasks(trained, variant, 0).unlink()
    assert (
        analysis.fits(Fits(kind="fits", task="in-painting"), SimpleNamespace(study=tiny.study())).verdict == "not run"
    )  # type: ignore[arg-type]


def test_every_other_image_shows_the_same_class() -> None:
    wanted = np.array([0, 1, 0, 2, 1, 0, 3, 3, 3, 3, 3])
    other = doing.exchange(wanted)
    assert (wanted[other] == wanted).all() and sorted(other) == list(range(len(wanted)))
    assert np.flatnonzero(other == np.arange(len(wanted))).tolist() == [3]  # alone in its class
    in_threes = np.flatnonzero(other[other] != np.arange(len(wanted)))
    assert in_threes.tolist() == [0, 2, 5, 8, 9, 10]


@pytest.mark.parametrize("together", [0.0, 0.6])
def test_the_error_of_the_exchange_is_that_of_repetitions(together: float) -> None:
    """Insides have so much in common with their outsides: 95% intervals cover, and are not much too wide."""
    rng, n, width = np.random.default_rng(1), 200, 6
    real, labels = {"mu": np.zeros(width), "sigma": np.eye(width)}, np.arange(n) % 10
    other, effects, errors = doing.exchange(labels), [], []
    for _ in range(300):
        outside = rng.normal(size=(n, width))
        inside = together * outside + math.sqrt(1 - together**2) * rng.normal(size=(n, width)) + 0.5
        found = [jackknife.fid(0.7 * (outside + part), real) for part in (inside, inside[other])]
        effects.append(math.log(found[0][0] / found[1][0]))
        errors.append(doing.exchange_error(found[0][1] / found[0][0] - found[1][1] / found[1][0], labels))
    scatter = float(np.std(effects))
    covered = np.mean(np.abs(np.array(effects) - np.mean(effects)) < 1.96 * np.array(errors))
    # without any connection the first order, of which the error is made, is small beside what it leaves out
    assert covered > 0.92 and scatter < np.mean(errors) < (1.6 if together == 0 else 1.1) * scatter


@pytest.mark.parametrize("box", [(0.25, 0.25, 0.75, 0.75), (0.0, 0.0, 0.5, 1.0), (0.1, 0.3, 0.4, 0.9)])
@pytest.mark.parametrize("tokens", [4, 7, 8, 16])
def test_the_tokens_that_a_study_counts_are_those_that_are_drawn(
    box: tuple[float, float, float, float], tokens: int
) -> None:
    section = Tasks(samples=10, box=box, models={"a": "b"})
    for task in ("in-painting", "out-painting"):
        stays = editing.staying(doing.mask_of(section, task, 32), tokens, "fair")
        assert section.drawn(tokens, 32, task == "out-painting") == int((~stays).sum())


def test_another_sampling_seed_draws_others(trained: Path) -> None:
    section = study().tasks
    assert section
    images, one = doing.Images(study(), trained, section), sampler.Sampler(study(), trained, "mar-diff", 0)

    def drawn(seed: int) -> np.ndarray:
        settings = study().sampling["diff"].model_copy(update={"seed": seed})
        return doing._drawn(one, settings, images, section, "in-painting", np.arange(6), False)

    assert np.array_equal(drawn(0), drawn(0)) and not np.array_equal(drawn(0), drawn(1))


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"box": [0.25, 0.25, 0.75, 0.75]}, "of 4 x 4 tokens of tokenizer kl, in-painting with box"),
        ({"box": [0.5, 0.0, 0.5, 1.0]}, "box [0.5, 0.0, 0.5, 1.0]; accepted: x0 < x1 and y0 < y1"),
        ({"models": {"dit": "dit"}}, "tasks.models.dit: found order joint"),
        ({"models": {"var": "diff"}}, "tasks.models: sampling of variant var"),
        ({"models": {"nobody": "diff"}}, "nobody"),
        ({"samples": 25}, "tasks.samples 25 is not a multiple of metrics.chunk 6"),
        (
            {"samples": 18},
            "tasks.samples 18: fewer than 2 images of each of the 10 classes of the data; accepted: at"
            " least 20 (2 x classes)",
        ),
    ],
)
def test_refusals(over: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="tasks") as error:
        study(**over)
    assert said in str(error.value)


def test_what_is_not_asked_for_is_refused(trained: Path) -> None:
    with pytest.raises(ValueError, match=r"--variant ar-ce --seed 0: does no tasks; accepted: mar-diff 0, var 0"):
        doing.tasks(study(), trained, "ar-ce", 0)
    with pytest.raises(ValueError, match=r"tasks.samples: found 120 of 60 held-out images"):
        doing.Images(study(samples=120), trained, study(samples=120).tasks)  # type: ignore[arg-type]
