"""`mar export`, `mar import exported` and `mar draw`: the same images elsewhere, and what is refused."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pipeline
import published
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_install import VALUES

from mar.cli.__main__ import main
from mar.data.prepare import prepare
from mar.sampling.drawing import tiled
from mar.study import layout
from mar.study.reading import resolve, write_resolved
from mar.tokenizers import encode, train
from mar.training import trainer
from mar.weights.importing import import_weights
from mar.weights.install import install_run, install_tokenizer

MSVQ = {"kind": "msvq", "codebook_size": 16, "scales": [1, 2, 4], **pipeline.TOKENIZER}
VALUES_HERE = {
    "seed": 3,
    "tokenizers": {
        "kl": {**pipeline.VALUES["tokenizers"]["kl"], "stem": 2, "channels": [8, 8], "per_seed": True},  # type: ignore[index]
        "pixels": {"kind": "pixels", "stride": 1, "latent_channels": 3, "group": 4},
        "msvq": MSVQ,
    },
    "backbones": {
        "masked": {"kind": "masked", "width": 16, "depth": 1, "heads": 2},
        "scales": {"kind": "scales", "width": 16, "depth": 1, "heads": 2, "adaln": False},
    },
    "heads": {
        "diffloss": {"kind": "diffusion", "width": 16, "depth": 1, "noise_draws": 1},
        "crossent": {"kind": "categorical"},
    },
    # Fast enough that the last layers, which begin at zero, say something after ten steps.
    "recipes": {
        "short": {"images": 320, "batch": 32, "checkpoint_images": 320, "log_images": 320}
        | {"base_learning_rate": 0.1, "ema": 0.1}
    },
    "sampling": {
        "plain": {"steps": 4, "diffusion_steps": 2},
        "guided": {"steps": 4, "diffusion_steps": 2, "guidance": 2.0},
        "scales": {"steps": 3},
    },
    "variants": {
        "mar": (mar := {**pipeline.VALUES["variants"]["mar"], "seeds": [1], "sampling": ["guided", "plain"]}),  # type: ignore[index]
        "pixels": {**mar, "tokenizer": "pixels", "seeds": [0], "sampling": ["plain"]},
        "var": {**mar, "tokenizer": "msvq", "order": "scales", "backbone": "scales", "head": "crossent", "seeds": [0]}
        | {"sampling": ["scales"]},
    },
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three variants, trained for a moment, with their tokenizers."""
    study = pipeline.study(**VALUES_HERE)
    root = pipeline.root(tmp_path_factory.mktemp("here"), study)
    prepare(study, root)
    for name in study.instances:
        train.train(study, root, name)
        encode.encode(study, root, name)
    for variant, v in study.variants.items():
        trainer.train(study, root, variant, v.seeds[0])
    return root


def mar(*words: str | Path) -> str:
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


def refused(*words: str | Path) -> str:
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 1, result.output
    return result.stderr


@pytest.mark.parametrize("variant", ["mar", "pixels", "var"])
def test_an_exported_model_draws_the_same_images_elsewhere(root: Path, tmp_path: Path, variant: str) -> None:
    study, file, assets = root / "study.json", tmp_path / "mine.safetensors", tmp_path / "elsewhere" / "assets"
    mar("export", "--study", study, "--variant", variant, "--out", file)
    said = mar("import", "exported", file, "--assets", assets)
    assert f"variant {variant}, settings " in said
    for label in (0, 3):
        here, there = tmp_path / "here.png", tmp_path / "there.png"
        mar("draw", "--study", study, "--variant", variant, "--class", label, "-n", "5", "--out", here)
        mar("draw", "--import", "mine", "--class", label, "-n", "5", "--out", there, "--assets", assets)
        assert here.read_bytes() == there.read_bytes()
        assert np.asarray(Image.open(here)).std() > 1
    elsewhere = layout.import_record(assets, "mine")
    assert json.loads(elsewhere.read_text())["source"]["file"] == "mine.safetensors"
    assert refused("draw", "--import", "mine", "--class", "10", "--assets", assets).startswith(
        "Error: --class: found 10;"
    )


def test_a_study_takes_what_was_exported(root: Path, tmp_path: Path) -> None:
    """With images, to sample and judge; another architecture is refused, in what no tensor shows too."""
    file, assets = tmp_path / "mine.safetensors", tmp_path / "results" / "assets"
    mar("export", "--study", root / "study.json", "--variant", "mar", "--out", file)
    mar("import", "exported", file, "--assets", assets)
    values = {"extends": str(assets / "mine.yaml"), "study": "judged", "classifier": {"images": 64}}
    values |= {"data": {"kind": "digits", "image_size": 16, "num_classes": None}}
    values |= {"metrics": {"extractors": ["classifier"], "samples": 20}, "variants": {"mar": {"sampling": ["guided"]}}}
    study = resolve(values, tmp_path / "judged.yaml")
    there = pipeline.root(tmp_path / "results", study)
    prepare(study, there)
    install_tokenizer(study, there, "kl")
    encode.encode(study, there, "kl")
    install_run(study, there, "mar", 0)
    words = ("--variant", "mar", "--class", "4", "-n", "2", "--out")
    mar("draw", "--study", root / "study.json", *words, tmp_path / "here.png")
    mar("draw", "--study", there / "study.json", *words, tmp_path / "there.png")
    assert (tmp_path / "here.png").read_bytes() == (tmp_path / "there.png").read_bytes()
    for section, name, key, value in (("backbones", "masked", "heads", 4), ("tokenizers", "kl", "norm_groups", 1)):
        other = resolve(values | {section: {name: {key: value}}}, tmp_path / "judged.yaml")
        with pytest.raises(ValueError, match=rf"not the architecture of the study\n  {section}.{name}"):
            install_tokenizer(other, there, "kl")
            install_run(other, there, "mar", 0)


def test_images_depend_on_every_weight(root: Path, tmp_path: Path) -> None:
    """Else the test above would say nothing: an untrained last layer is zero."""
    study, file, assets = root / "study.json", tmp_path / "mine.safetensors", tmp_path / "assets"
    mar("export", "--study", study, "--variant", "mar", "--out", file)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    pictures = set()
    for part in ("", "model.backbone.class_emb", "model.head", "tokenizer.decoder"):
        tensors = {k: x * 1.5 if part and k.startswith(part) else x for k, x in load_file(file).items()}
        save_file(tensors, tmp_path / f"{part or 'same'}.safetensors", metadata)
        mar("import", "exported", tmp_path / f"{part or 'same'}.safetensors", "--assets", assets)
        words = ("--import", part or "same", "--class", "1", "-n", "1", "--assets", assets)
        mar("draw", *words, "--out", tmp_path / "drawn.png")
        pictures.add((tmp_path / "drawn.png").read_bytes())
    assert len(pictures) == 4


def test_a_guided_setting_is_the_default_and_another_can_be_named(root: Path, tmp_path: Path) -> None:
    words = ("draw", "--study", root / "study.json", "--variant", "mar", "--class", "2", "-n", "2")
    assert "by mar, setting guided" in mar(*words, "--out", tmp_path / "a.png")
    assert "by mar, setting plain" in mar(*words, "--setting", "plain", "--out", tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    assert "--seed: found 0; accepted: 1" in refused(*words, "--seed", "0")
    assert "--setting: found 'x'" in refused(*words, "--setting", "x")
    assert "accepted: --study and --variant" in refused("draw", "--import", "mar-b", "--variant", "mar", "--class", "1")


def test_the_notebook_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in their order, with other parameters; what the last line of a cell is, Jupyter shows."""
    notebook = nbformat.read("docs/draw.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"] and not any(cell.outputs for cell in code)
    monkeypatch.chdir(root.parent)
    names = {"STUDY": str(root / "study.json"), "VARIANT": "mar", "SETTING": "guided", "CLASS": 3}
    shown = []
    for cell in code[1:]:
        *lines, last = ast.parse(cell.source).body
        exec(compile(ast.Module(lines, []), "draw.ipynb", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "draw.ipynb", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "draw.ipynb", "exec"), names)
    assert shown[0].size == (8 * 18 - 2, 16) and shown[1].size == (8 * 18 - 2, 3 * 18 - 2)
    assert str(shown[2]).endswith("not made yet")
    assert set(names) > set(re.findall(r"\w+", code[0].source.partition("=")[0]))


def test_pictures_are_in_rows_that_are_as_equal_as_they_can_be() -> None:
    images = np.arange(11, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    picture = np.asarray(tiled(images))
    assert picture.shape == (2 * 6 - 2, 6 * 6 - 2, 3)
    assert picture[0, 0, 0] == 0 and picture[6, 0, 0] == 6 and picture[6, 24, 0] == 10 and picture[6, 30, 0] == 255


@pytest.fixture(scope="module")
def exported(root: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of an exported model."""
    file = root / "mine.safetensors"
    mar("export", "--study", root / "study.json", "--variant", "mar", "--out", file)
    with safe_open(file, "pt") as opened:
        return load_file(file), opened.metadata()


def with_study(metadata: dict[str, str], *place: str, value: Any) -> dict[str, str]:
    study = json.loads(metadata["study"])
    part = study
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return metadata | {"study": json.dumps(study)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: (t, {}), "found metadata none; accepted: a file that `mar export` wrote"),
        (lambda t, m: (t, m | {"study": "{"}), "study: found JSONDecodeError"),
        (lambda t, m: (t, m | {"study": "{}"}), "study: found KeyError: 'variants'; accepted: that of one variant"),
        (lambda t, m: (t, m | {"tokens": "{}"}), "kind"),
        (lambda t, m: (t, with_study(m, "heads", "diffloss", "kind", value="os:system")), "accepted: our kinds"),
        (
            lambda t, m: (t, with_study(m, "sampling", "guided", "solver", value={"kind": "os:system", "own": {}})),
            "found solver 'os:system', kind 'os:system'; accepted: our kinds",
        ),
        (lambda t, m: (t, with_study(m, "heads", "diffloss", "width", value=99)), "tensors do not fit"),
        (lambda t, m: (t, with_study(m, "heads", "diffloss", "widht", value=9)), "unknown key 'widht'"),
        (lambda t, m: (t, with_study(m, "data", "kind", value="digits")), "found data.kind 'digits'; accepted: none"),
        (lambda t, m: (t | {"more": torch.zeros(1)}, m), "found tensors ['more']"),
        (lambda t, m: ({k: x for k, x in t.items() if "encoder" not in k}, m), "missing: "),
        (lambda t, m: ({k: x * torch.nan for k, x in t.items()}, m), "not finite"),
    ],
)
def test_what_is_no_exported_model_is_refused(exported: Any, tmp_path: Path, change: Any, message: str) -> None:
    tensors, metadata = change(*exported)
    save_file(tensors, tmp_path / "bad.safetensors", metadata)
    said = refused("import", "exported", tmp_path / "bad.safetensors", "--assets", tmp_path / "assets")
    assert message in said and "bad.safetensors" in said
    assert not list((tmp_path / "assets").glob("bad*"))


def test_published_weights_are_drawn_from_by_name(tmp_path: Path) -> None:
    """Of a published format, with the study that describes them; shipped studies do it for the published sizes."""
    assets, study = tmp_path / "assets", tmp_path / "official.yaml"
    study.write_text(json.dumps(VALUES))
    draw = ("draw", "--study", study, "--import", "mar-tiny", "--class", "7", "-n", "3", "--assets", assets)
    assert "mar import FORMAT --as mar-tiny" in refused(*draw)
    torch.save({"model": published.kl_weights()}, tmp_path / "kl16.ckpt")
    import_weights("official-mar", published.mar_checkpoint(tmp_path / "mar.pth"), "mar-tiny", assets)
    assert "--as kl16" in refused(*draw)
    import_weights("ldm-kl", tmp_path / "kl16.ckpt", "kl16", assets)
    out = tmp_path / "drawn.png"
    assert "3 images of class 7, by mar, setting two" in mar(*draw, "--out", out)
    assert Image.open(out).size == (3 * 34 - 2, 32)
    assert "accepted: weights of the shipped studies: " in refused("draw", "--import", "none", "--class", "1")


def test_only_what_was_trained_here_is_exported(tmp_path: Path) -> None:
    resolved = write_resolved(published.changed(VALUES, "", "", {}), tmp_path)
    said = refused("export", "--study", resolved, "--variant", "mar", "--out", tmp_path / "x.safetensors")
    assert said == "Error: variants.mar: has published weights; accepted: a variant that is trained here\n"
