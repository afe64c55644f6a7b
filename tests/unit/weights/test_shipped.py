"""Tokenizers and classifiers that ship: taken by recipe and images alone, checked, compared, and never mistaken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pipeline
import pytest
from click.testing import CliRunner

from mar.cli.__main__ import main
from mar.data.prepare import prepare
from mar.runtime.files import read, read_json, sha256
from mar.study import layout
from mar.study.records import DataManifest, ShippedRecord
from mar.study.study import Study
from mar.tokenizers import train as training
from mar.weights import shipped

TRAINED = ("kl",)  # by a variant; the study declares others


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def command(stage: str, root: Path) -> str:
    """What a stage prints, once per trained tokenizer or for the classifier."""
    study = str(layout.study(root))
    if stage == "classifier":
        return run(stage, "--study", study)
    return "".join(run(stage, "--study", study, "--tokenizer", name) for name in TRAINED)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The results folder of a study with its classifier and tokenizers, and the store that they were shipped to."""
    folder = tmp_path_factory.mktemp("shipped")
    store, study = folder / "store", pipeline.study()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "STORE", store)
        root = pipeline.with_classifier(folder / "first", study)
        pipeline.real_side(study, root)
        command("tokenizer", root)
        command("rfid", root)
        run("ship", "--study", str(layout.study(root)))
    return root, store


@pytest.fixture
def store(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store, in the place of the project's."""
    monkeypatch.setattr(shipped, "STORE", finished[1])
    return finished[1]


def fresh(folder: Path, study: Study) -> Path:
    """A results folder of a study with its images alone."""
    root = pipeline.root(folder, study)
    prepare(study, root)
    return root


def logs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes a training fail, and says for which tokenizers or classifiers one was begun."""
    begun: list[str] = []

    def refuse(*arguments: Any) -> None:
        begun.append(str(arguments[0]))
        raise ValueError("a training began")

    monkeypatch.setattr(training, "fit", refuse)
    monkeypatch.setattr("mar.features.networks.classifier.fit", refuse)
    return begun


def test_equal_recipes_are_taken_and_nothing_trains(
    finished: tuple[Path, Path], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, begun = finished[0], logs(monkeypatch)
    root = fresh(tmp_path, pipeline.study(study="second", title="another name"))
    said = command("classifier", root) + command("tokenizer", root)
    assert said.count(f"taken over from {store}") == 2 and not begun
    for old, new in [(layout.classifier(before), layout.classifier(root))] + [
        (layout.tokenizer(before, name), layout.tokenizer(root, name)) for name in TRAINED
    ]:
        assert sha256(old / layout.WEIGHTS) == sha256(new / layout.WEIGHTS)
        record = read(new / layout.SHIPPED, ShippedRecord)
        assert record.store == f"config/shipped/{shipped.place(read_json(new / 'recipe.json')).name}"
        last = layout.CLASSIFIER if new.name == "classifier" else layout.TOKENIZER
        assert read_json(new / last)["provenance"] == read_json(old / last)["provenance"], "how it was trained"
    assert "taken over" not in command("tokenizer", root), "the second time it is there"


@pytest.mark.parametrize("change", ["recipe", "images", "key"])
def test_other_recipes_and_other_images_train(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    study = pipeline.study()
    values = json.loads(study.model_dump_json(exclude_defaults=True))
    if change == "recipe":
        values["seed"] = 5
    if change == "key":
        values["shipped"] = False
    root = fresh(tmp_path, Study.model_validate(values))
    if change == "images":
        manifest = layout.data_manifest(root)
        manifest.write_text(manifest.read_text().replace(read(manifest, DataManifest).files, "0" * 64))
    begun = logs(monkeypatch)
    for stage in (["classifier"], ["tokenizer", "--tokenizer", "kl"]):
        result = CliRunner().invoke(main, [stage[0], "--study", str(layout.study(root)), *stage[1:]])
        assert str(result.exception) == "a training began" and "taken over" not in result.output
    assert len(begun) == 2


def test_a_damaged_file_is_refused(store: Path, tmp_path: Path) -> None:
    root = fresh(tmp_path, pipeline.study())
    ours = shipped.place(training.recipe_for(pipeline.study(), root, "kl"))
    weights, good = ours / layout.WEIGHTS, (ours / layout.WEIGHTS).read_bytes()
    arguments = ["tokenizer", "--study", str(layout.study(root)), "--tokenizer", "kl"]
    try:
        weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1 and f"{weights}: found {sha256(weights)[:12]}, shipped.json" in result.output
        assert "then it is trained" in result.output and "Traceback" not in result.output
        assert not layout.tokenizer_weights(root, "kl").exists()
        weights.unlink()
        assert f"{weights}: found no file" in CliRunner().invoke(main, arguments).output
    finally:
        weights.write_bytes(good)
    assert "taken over" in run(*arguments)


def test_a_retraining_is_compared(finished: tuple[Path, Path], store: Path, tmp_path: Path) -> None:
    root, _ = finished
    arguments = ("ship", "--compare", "--study", str(layout.study(root)))
    assert run(*arguments).count(": the same weights ship in config/shipped/") == 2
    weights = layout.tokenizer_weights(root, "kl")
    good = weights.read_bytes()
    try:
        weights.write_bytes(good + b"\0")
        said = run(*arguments)
        rfid = read_json(layout.rfid(root, "kl"))["metrics"]["rfid"]["value"]
        assert f"{weights.parent}: other weights ship in config/shipped/" in said
        assert f"rfid {rfid:.4g} there, {rfid:.4g} here" in said
    finally:
        weights.write_bytes(good)


def test_what_was_taken_does_not_ship_again(store: Path, tmp_path: Path) -> None:
    root = fresh(tmp_path, pipeline.study())
    command("tokenizer", root)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert shipped.ship(layout.tokenizer(root, "kl"), layout.TOKENIZER, {}).parent == store
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    with pytest.raises(ValueError, match=r"classifier/model.safetensors: missing; accepted: a finished training"):
        shipped.ship(layout.classifier(root), layout.CLASSIFIER, {})
    # trained again in the same folder, it is no longer what shipped
    (layout.tokenizer(root, "kl") / layout.TOKENIZER).unlink()
    training.train(pipeline.study(), root, "kl")
    assert not (layout.tokenizer(root, "kl") / layout.SHIPPED).exists()


def test_what_ships_with_the_project_is_whole() -> None:
    for record in shipped.STORE.glob(f"*/{layout.SHIPPED}"):
        shipped.checked(record.parent)
        assert shipped.place(read_json(record.parent / "recipe.json")) == record.parent
