"""A tokenizer for each training seed: trained with its seed, and each training on the tokens of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pipeline
import pytest

from mar.data.prepare import prepare
from mar.runtime.files import sha256
from mar.study import layout
from mar.study.reading import resolve
from mar.study.study import Study
from mar.tokenizers import train as training
from mar.tokenizers.encode import encode


def seeded(study: Study) -> Study:
    """The study with `per_seed` for its kl tokenizer, whose variant has the seeds 0 and 1."""
    values = json.loads(study.model_dump_json(exclude_defaults=True))
    values["tokenizers"]["kl"]["per_seed"] = True
    for variant in values["variants"].values():
        variant["seeds"] = [0, 1]
    return resolve(values, "seeded.yaml")


def test_each_is_trained_with_its_seed_and_encodes_its_tokens(tmp_path: Path) -> None:
    plain = pipeline.study()
    study = seeded(plain)
    assert [name for name, instance in study.instances.items() if instance.section == "kl"] == ["kl-seed0", "kl-seed1"]
    root = tmp_path / "results" / study.study
    prepare(study, root)
    training.train(plain, root, "kl")
    for name in ("kl-seed0", "kl-seed1"):
        training.train(study, root, name)
        encode(study, root, name)
    weights = {name: sha256(layout.tokenizer_weights(root, name)) for name in ("kl", "kl-seed0", "kl-seed1")}
    assert weights["kl-seed0"] == weights["kl"] != weights["kl-seed1"], "seed 0 is the tokenizer that there was before"
    for name in ("kl-seed0", "kl-seed1"):
        manifest = json.loads(layout.token_manifest(root, name).read_text())
        assert manifest["tokenizer"] == weights[name]
    with pytest.raises(ValueError, match=r"tokenizer: found 'kl'.*accepted: kl-seed0, kl-seed1"):
        training.train(study, root, "kl")
