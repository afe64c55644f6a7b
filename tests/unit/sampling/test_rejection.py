"""Rejection: what is accepted, what it costs, resumed to the bit, timed, in the row and the figure; what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from mar.analysis.estimates import Results
from mar.data.images import ImageSet
from mar.features.networks import rejecter as network
from mar.report.figures import rejection as figure
from mar.report.tables import paper_tables
from mar.runtime.files import read
from mar.runtime.noise import Noise
from mar.sampling import rejection, sample_sets, sampler, speed
from mar.study import layout
from mar.study.products import figure_names, rejections
from mar.study.records import RejecterRecord, SampleManifest
from mar.study.sections import Rejecter, TableRow
from mar.study.stage_keys import rejecter_key, sample_key
from mar.study.study import Study
from mar.training.trainer import train

RE = {"reject": {"threshold": 0.6, "tries": 3}}


def study(**over: Any) -> Study:
    var = tiny.STUDY["sampling"]["var"]
    variants = tiny.STUDY["variants"] | {"var": tiny.STUDY["variants"]["var"] | {"sampling": ["var", "re"]}}
    parts: dict[str, Any] = {"sampling": tiny.STUDY["sampling"] | {"re": var | RE}, "variants": variants}
    found: Study = tiny.study(**parts | {"rejecter": {"images": 64}} | over)
    return found


class PixelsOfIds(torch.nn.Module):
    """In place of a tokenizer: the ids of the last scale as grey values."""

    def decode_ids(self, ids: torch.Tensor) -> torch.Tensor:
        grey = ids[:, -16:].view(-1, 1, 4, 4).float() / 6 - 1
        return torch.nn.functional.interpolate(grey.expand(-1, 3, -1, -1), scale_factor=2)


class ByPixels:
    """A rejecter whose probability is read off an image, so that a test knows what it accepts."""

    name, weights = "rejecter", "f" * 64

    def __init__(self, *args: Any) -> None:
        pass

    def probability(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (images.long().sum((1, 2, 3)) * (labels + 3) % 97).float() / 96


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tiny.make_root(tmp_path_factory.mktemp("rejection"))
    train(study(), root, "var", 0)
    return root


@pytest.fixture(autouse=True)
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler.autoencoder, "load", lambda root, name, study: PixelsOfIds())
    for module in (sample_sets, speed):
        monkeypatch.setattr(module, "Acceptance", ByPixels)


def drawn(root: Path, setting: str) -> np.ndarray:
    sample_sets.sample(study(), root, "var", 0, setting)
    folder = layout.samples(root, layout.sample_set("var", 0, setting))
    return np.concatenate([np.load(path) for path in sorted(folder.glob("chunk-?????.npy"))])


def test_what_is_accepted_and_what_it_costs(trained: Path) -> None:
    plain, kept = drawn(trained, "var"), drawn(trained, "re")
    labels = torch.arange(len(kept)) % 10

    def sure(images: np.ndarray) -> np.ndarray:
        return ByPixels().probability(torch.from_numpy(images).permute(0, 3, 1, 2), labels).numpy()

    first = sure(plain) >= 0.6
    assert 0 < first.sum() < len(first)
    assert np.array_equal(kept[first], plain[first])  # the first try is the plain sample
    folder = layout.samples(trained, layout.sample_set("var", 0, "re"))
    tries = np.concatenate([np.load(p)["tries"] for p in sorted(folder.glob("*-tries.npz"))])
    assert (tries[first] == 1).all() and tries[~first].min() == 2 and tries.max() == 3
    assert (sure(kept) >= sure(plain)).all()
    record = read(folder / layout.MANIFEST, SampleManifest).rejection
    assert record is not None and record.weights == "f" * 64
    assert (record.drawn, record.accepted) == (tries.sum(), (sure(kept) >= 0.6).sum())
    assert ((tries == 3) | (sure(kept) >= 0.6)).all()  # only what was drawn as often as may be is not accepted
    assert record.rate == pytest.approx(record.accepted / record.drawn)
    results = Results(study(), trained)
    assert results.accepted("var", "re") == record.rate and results.draws("var", "re") == tries.mean()
    assert results.accepted("var", "var") == results.draws("var", "var") == 1.0


def test_resumed_to_the_bit(trained: Path) -> None:
    before = drawn(trained, "re")
    folder = layout.samples(trained, layout.sample_set("var", 0, "re"))
    record = read(folder / layout.MANIFEST, SampleManifest)
    (folder / layout.MANIFEST).unlink()
    (folder / "chunk-00001.npy").unlink()
    (folder / "chunk-00002-tries.npz").unlink()  # killed between the two files of a chunk, and a lost one
    assert np.array_equal(drawn(trained, "re"), before)
    again = read(folder / layout.MANIFEST, SampleManifest)
    assert (again.rejection, again.chunks) == (record.rejection, record.chunks)


def test_the_further_draws_count_in_the_time(trained: Path) -> None:
    one = sampler.Sampler(study(), trained, "var", 0)
    calls = list[int]()
    inner = one.draw

    def counted(settings: Any, labels: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(len(labels))
        return inner(settings, labels, *rest)

    one.draw = counted  # type: ignore[method-assign]
    rejecter: Any = ByPixels()
    seconds, _ = speed.timed(one, study().sampling["re"], torch.arange(8), ("speed", 0, 0), rejecter)
    assert seconds > 0 and calls[0] == 8 and len(calls) > 1
    accepted = rejection.draw(one, rejecter, study().sampling["re"], torch.arange(8), ("speed", 0, 0))
    assert sum(calls[len(calls) // 2 :]) == accepted.tries.sum()


def test_the_row_and_the_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake: Any = SimpleNamespace(
        study=study(),
        accepted=lambda variant, setting: 0.4 if setting == "re" else 1.0,
        draws=lambda variant, setting: 2.5 if setting == "re" else 1.0,
        cell=lambda variant, setting, metric: SimpleNamespace(value=9.0, low=8.0, high=10.0, n=24),
    )
    row = TableRow(paper="var-d30-re", variant="var", guided="re")
    assert paper_tables._accepted(fake, row) == {"accepted": 0.4, "draws_an_image": 2.5}
    plain = TableRow(paper="var-d30", variant="var", guided="var")
    assert paper_tables._accepted(fake, plain) == {"accepted": "-", "draws_an_image": "-"}
    monkeypatch.setattr(figure, "Results", lambda study, root: fake)
    assert rejections(study()) == {"var": [["var", "re"]]} and "rejection" in figure_names(study())
    assert "rejection" not in figure_names(tiny.study())
    _, rows = figure.rejection(study(), tmp_path)
    assert [(line["threshold"], line["accepted"], line["draws_an_image"]) for line in rows] == [
        ("", 1.0, 1.0),
        (0.6, 0.4, 2.5),
    ]


def test_the_own_network_learns_from_images_that_the_judge_has_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def split(study: Study, root: Path, name: str) -> ImageSet:
        asked.append(name)
        pixels = Noise(name).integers(256, 40, 8, 8, 3).to(torch.uint8).numpy()
        return ImageSet(np.arange(40) % 10, [str(k) for k in range(10)], lambda rows: pixels[rows])

    monkeypatch.setattr(network, "open_split", split)
    monkeypatch.setattr(network, "sha256_of_data", lambda root: "d" * 64)
    network.train(study(), tmp_path)
    assert asked == ["heldout", "train"]
    record = read(layout.rejecter(tmp_path) / layout.CLASSIFIER, RejecterRecord)
    assert record.learned_from == "heldout" and record.split == "train" and record.count == 40
    made = network.Acceptance(study(), tmp_path, torch.device("cpu"))
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    every = torch.stack([made.probability(images, torch.full((3,), k)) for k in range(10)])
    assert torch.allclose(every.sum(0), torch.ones(3))
    with pytest.raises(ValueError, match="trained by another recipe; run `mar rejecter` again"):
        network.Acceptance(study(rejecter={"images": 128}), tmp_path, torch.device("cpu"))
    apart = study(metrics=tiny.STUDY["metrics"] | {"real": "heldout"})
    assert rejecter_key(apart) != rejecter_key(study()) and '"split":"heldout-validation"' in rejecter_key(apart)


def test_only_what_rejects_depends_on_the_rejecter() -> None:
    other = study(rejecter={"images": 128})
    keys = {sample_key(one, "var", "var") for one in (study(), other, tiny.study())}
    assert len(keys) == 1
    assert sample_key(study(), "var", "re") != sample_key(other, "var", "re")


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"rejecter": None}, "sampling.re.reject: variants.var draws with it, and the study has no rejecter"),
        ({"rejecter": {"images": 64, "weights": "resnet50"}}, "found images 64 and weights resnet50; accepted: one of"),
        ({"rejecter": {}}, "found images 0 and weights None"),
        ({"rejecter": {"weights": "resnet50"}}, "rejecter.weights resnet50: knows ImageNet's 1,000 classes; found 10"),
        (
            {"tasks": {"samples": 24, "box": [0.0, 0.0, 0.5, 1.0], "models": {"var": "re"}}},
            "tasks.models: sampling.re has reject; accepted: a setting that draws once",
        ),
        (
            {"recipes": {"short": tiny.STUDY["recipes"]["short"] | {"evaluate_at": [0.5]}}}
            | {"learning": {"samples": 24, "setting": {"var": "re"}}},
            "learning.setting: sampling.re has reject",
        ),
        (
            {"sampling": tiny.STUDY["sampling"] | {"re": {"steps": 3} | RE | {"sweep": {"samples": 12}}}},
            "reject with a sweep",
        ),
        ({"sampling": tiny.STUDY["sampling"] | {"re": {"steps": 3, "reject": {"threshold": 1.0}}}}, "threshold"),
    ],
)
def test_refusals(over: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match="rej") as error:
        study(**over)
    assert said in str(error.value)


def test_the_section_is_the_classifier_that_it_says() -> None:
    found = Rejecter(images=640, features=32).classifier
    assert (found.images, found.features, found.channels) == (640, 32, (24, 48, 96))
