"""One tokenizer for each training seed: which there are, which a training uses, their keys, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mar.planning import drill_shapes
from mar.study.products import used_tokenizers
from mar.study.reading import StudyError, resolve
from mar.study.stage_keys import tokenizer_key


def seeded(values: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The study with `per_seed` for kl, and two training seeds of `mar`, which uses it."""
    values["tokenizers"]["kl"] = values["tokenizers"]["kl"] | {"per_seed": True} | keys
    values["variants"]["mar"]["seeds"] = [0, 3]
    return values


def test_a_tokenizer_for_each_training_seed_of_its_variants(values: dict[str, Any]) -> None:
    values["tokenizers"]["unused"] = values["tokenizers"]["kl"] | {"per_seed": True}
    values["variants"]["second"] = values["variants"]["mar"] | {"seeds": [1]}
    study = resolve(seeded(values) | {"seed": 10}, "x.yaml")
    named = {name: (instance.section, instance.seed) for name, instance in study.instances.items()}
    assert named == {"kl-seed0": ("kl", 10), "kl-seed1": ("kl", 11), "kl-seed3": ("kl", 13), "vq": ("vq", 10)}
    assert [study.tokenizer_of("mar", seed) for seed in (0, 3)] == ["kl-seed0", "kl-seed3"]
    assert study.tokenizer_of("ar", 0) == "vq"
    assert used_tokenizers(study) == ["vq", "kl-seed0", "kl-seed3", "kl-seed1"]


def test_keys_differ_by_the_seed_alone(values: dict[str, Any]) -> None:
    plain = resolve(values, "x.yaml")
    before = tokenizer_key(plain, "kl")
    assert "per_seed" not in before, "a finished tokenizer keeps its key"
    study = resolve(seeded(values), "x.yaml")
    assert tokenizer_key(study, "kl-seed0") == before
    assert tokenizer_key(study, "kl-seed3") == before.replace('"seed":0', '"seed":3') != before
    assert tokenizer_key(study, "vq") == tokenizer_key(plain, "vq")


def test_the_drill_runs_one(values: dict[str, Any]) -> None:
    study = resolve(seeded(values), "x.yaml")
    shapes = drill_shapes.shapes(study)
    assert sorted(name for shape in shapes.values() if shape.kind == "tokenizer" for name in shape.covers) == [
        "kl",
        "vq",
    ]
    assert shapes.keys() == drill_shapes.shapes(resolve(values, "x.yaml")).keys()
    for shape in shapes.values():
        small = drill_shapes.drill_study(study, shape, Path("images"))
        assert set(small.instances) <= {"kl", "vq"}


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (
            {"kind": "pixels", "stride": 1, "latent_channels": 3, "group": 8},
            "tokenizers.kl: per_seed: true with kind pixels, pretrained false: nothing is trained; accepted: false",
        ),
        (
            {"kind": "kl", "stride": 2, "channels": [8, 8], "latent_channels": 4, "pretrained": True},
            "tokenizers.kl: per_seed: true with kind kl, pretrained true: nothing is trained; accepted: false",
        ),
    ],
)
def test_what_is_not_trained_is_refused(values: dict[str, Any], tokenizer: dict[str, Any], message: str) -> None:
    values["tokenizers"]["kl"] = tokenizer | {"per_seed": True}
    with pytest.raises(StudyError, match=message):
        resolve(values, "x.yaml")


def test_a_name_that_one_of_them_has_is_refused(values: dict[str, Any]) -> None:
    values["tokenizers"]["KL-seed3"] = dict(values["tokenizers"]["kl"])
    with pytest.raises(StudyError, match=r"tokenizers.KL-seed3: tokenizers.kl has per_seed, whose training kl-seed3"):
        resolve(seeded(values), "x.yaml")
    values["variants"]["mar"]["seeds"] = [0]
    assert "KL-seed3" in resolve(values, "x.yaml").instances
