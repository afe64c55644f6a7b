"""The drill: which shapes a study has, the small study of each, one shape run for real, and the table."""

import json

import pytest
import torch
from click.testing import CliRunner
from tiny import STUDY, study

from mar.cli.__main__ import main
from mar.planning import drill, drill_shapes
from mar.runtime.files import read_json
from mar.study.reading import resolve, write_resolved


def variants(**more):
    """The tiny study with more variants beside mar-diff."""
    diff = STUDY["variants"]["mar-diff"]
    return study(variants={"mar-diff": diff} | {name: diff | over for name, over in more.items()})


def slice_of(study, name):
    return drill_shapes.shape_key(study, drill_shapes.shape_named(study, name))


def small_study(study, name, images):
    return drill_shapes.drill_study(study, drill_shapes.shape_named(study, name), images)


def test_a_shape_is_run_once():
    found = drill_shapes.shapes(
        variants(raster={"order": "raster"}, unused={"seeds": []}, wide={"backbone": "causal", "sampling": []})
    )
    assert found["variant-mar-diff"] == ("variant", ("mar-diff", "raster", "unused"))
    assert found["variant-wide"] == ("variant", ("wide",)) and "metrics" in found
    assert [name for name in found if name.startswith("tokenizer")] == [
        *("tokenizer-kl", "tokenizer-vq", "tokenizer-msvq")
    ]


def test_what_decides_about_memory_is_a_shape_of_its_own():
    base, settings = variants(), STUDY["recipes"]["short"]
    shape = slice_of(base, "variant-mar-diff")
    other = study(recipes={"short": settings | {"dtype": "bf16"}})
    assert slice_of(other, "variant-mar-diff") != shape
    longer = study(recipes={"short": settings | {"images": 192}}, title="Longer", metrics={"samples": 48, "chunk": 6})
    assert slice_of(longer, "variant-mar-diff") == shape
    grouped = STUDY["tokenizers"]["kl"] | {"group": 2}
    settings = {"diff": STUDY["sampling"]["diff"], "ce": {"steps": 4}}  # as many as tokens now
    two = {"mar-diff": STUDY["variants"]["mar-diff"]}
    other = study(tokenizers=STUDY["tokenizers"] | {"kl": grouped}, variants=two, sampling=settings)
    assert slice_of(other, "variant-mar-diff") != shape
    assert slice_of(other, "tokenizer-kl") == slice_of(base, "tokenizer-kl")


def test_the_small_study_keeps_every_size(tmp_path):
    base = study()
    small = small_study(base, "variant-mar-diff", tmp_path)
    assert small.backbones["masked"] == base.backbones["masked"] and small.heads["diffloss"] == base.heads["diffloss"]
    assert small.tokens("kl") == base.tokens("kl")
    recipe = small.recipes["short"]
    assert (recipe.images, recipe.batch, recipe.micro_batch) == (1, 1, 1)
    assert (recipe.ema, recipe.clip) == (base.recipes["short"].ema, base.recipes["short"].clip)
    setting = small.sampling["drill"]
    assert (setting.steps, setting.diffusion_steps, setting.guidance, setting.clamp) == (2, 2, 2.0, 4.0)
    causal = small_study(base, "variant-ar-ce", tmp_path)
    assert causal.sampling["drill"].steps == 16  # as many as tokens
    scales = small_study(base, "variant-var", tmp_path)
    assert scales.sampling["drill"].steps == 3 and scales.tokenizers["msvq"].sides == (1, 2, 4)


def test_an_imported_variant_is_trained_for_a_step(tmp_path):
    base = variants(official={"pretrained": True, "weights": "given", "backbone": "causal", "sampling": []})
    small = small_study(base, "variant-official", tmp_path).variants["official"]
    assert not small.pretrained and small.weights is None and small.seeds == (0,)


@pytest.fixture(scope="module")
def drilled(tmp_path_factory):
    """A study with one variant on an imported tokenizer, drilled; and its root."""
    folder = tmp_path_factory.mktemp("drilled")
    kl = {"kind": "kl", "stride": 2, "channels": [32, 32], "latent_channels": 2, "pretrained": True}
    built = resolve(
        STUDY
        | {"tokenizers": {"kl": kl}, "variants": {"mar-diff": STUDY["variants"]["mar-diff"]}}
        | {"data": {"kind": "imagefolder", "path": "not there", "image_size": 8, "expect": "imagenet"}},
        "drilled.yaml",
    )
    root = write_resolved(built, folder).parent
    for shape in ("tokenizer-kl", "variant-mar-diff"):
        drill.run(built, root, shape)
    return built, root


def test_a_shape_runs_through_every_stage(drilled):
    _, root = drilled
    found = read_json(root / "drill" / "shapes" / "variant-mar-diff.json")
    stages = [stage["stage"] for stage in found["stages"]]
    assert stages[:3] == ["prepare", "tokenizer", "encode"]
    assert stages[3:] == ["build", "train step", "checkpoint", "resume", "finish", "sample"]
    assert all(stage["memory_gb"] > 0 for stage in found["stages"])
    # the class table has the 1,000 rows of the real data
    assert found["parameters"] > 1000 * 16
    assert sorted(path.name for path in (root / "drill").iterdir()) == ["shapes"]  # nothing else is left


def test_the_networks_that_judge_are_run_once(tmp_path):
    base, judges = study(), STUDY["metrics"] | {"extractors": ["dinov2"]}
    root = write_resolved(base, tmp_path).parent
    drill.run(base, root, "metrics")
    found = read_json(root / "drill" / "shapes" / "metrics.json")
    stages = ["prepare", "classifier", "features classifier", "metrics classifier"]
    assert [stage["stage"] for stage in found["stages"]] == stages and found["parameters"] > 0
    other = study(metrics=judges, classifier=None)
    assert slice_of(other, "metrics") != slice_of(base, "metrics")
    small = small_study(other, "variant-mar-diff", tmp_path)
    assert small.classifier is None and small.metrics.extractors == ("dinov2",)


def test_the_table_waits_for_every_shape(drilled):
    built, root = drilled
    (root / "drill" / "shapes" / "metrics.json").unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"metrics\.json: missing"):
        drill_shapes.gather(built, root)
    one = read_json(root / "drill" / "shapes" / "tokenizer-kl.json") | {"shape": "metrics", "covers": []}
    one["stages"][0]["note"] = "Inception with random weights"
    (root / "drill" / "shapes" / "metrics.json").write_text(json.dumps(one))
    result = CliRunner().invoke(main, ["drill", "--study", str(root / "study.json")])
    assert result.exit_code == 0, result.output
    text = (root / "drill" / "drill.md").read_text()
    assert text.strip() == result.output.strip()
    assert "variant-mar-diff" in text and "train step" in text and "Inception with random weights" in text
    lines = (root / "drill" / "drill.csv").read_text().splitlines()
    assert lines[0] == ",".join(drill_shapes.COLUMNS)
    assert len(lines) == 1 + sum(len(shape["stages"]) for shape in read_json(root / "drill" / "drill.json")["shapes"])


def test_a_resume_that_loses_something_is_told(drilled, tmp_path, monkeypatch):
    built, _ = drilled
    resume = drill.Trainer._resume

    def broken(self):
        resume(self)
        if self.images:
            next(iter(self.ema.values())).add_(1.0)

    monkeypatch.setattr(drill.Trainer, "_resume", broken)
    root = write_resolved(built, tmp_path).parent
    with pytest.raises(ValueError, match="the resumed state differs from the saved one: \\['/ema/"):
        drill.run(built, root, "variant-mar-diff")
    assert not list((root / "drill").glob("work-*"))


def test_names_that_the_study_lacks_are_refused(drilled):
    built, root = drilled
    with pytest.raises(ValueError, match="--shape nothing: accepted: tokenizer-kl, variant-mar-diff, metrics"):
        drill.run(built, root, "nothing")
    arguments = ["drill", "--study", str(root / "study.json"), "--shape", "metrics", "--recipe", "another"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1 and "changed since this job was planned" in result.output


def test_fingerprints_tell_states_apart():
    state = {"a": torch.ones(3), "b": [torch.zeros(2), 4], "seconds": 1.0}
    same = {"a": torch.ones(3), "b": [torch.zeros(2), 4], "seconds": 2.0}
    other = {"a": torch.ones(3), "b": [torch.tensor([0.0, 1e-30]), 4], "seconds": 1.0}
    assert drill.fingerprint(state) == drill.fingerprint(same) != drill.fingerprint(other)
