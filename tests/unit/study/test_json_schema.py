"""The JSON schema for editors is the one of mar/study/study.py, and takes the files that the loader takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mar.study import json_schema
from mar.study import reading as studies
from mar.study.study import Study

SCHEMA = Path("workflow/schemas/study.schema.json")
STUDIES = [path for path in sorted(Path("config").glob("*.yaml")) if "study" in yaml.safe_load(path.read_text())]

VARIED = {"label": "a", "variant": "b", "base": "c", "vary": {"guidance": 2.0, "steps": [1, 2]}, "name": "d{steps}"}


def mistake(values: dict[str, Any]) -> str | None:
    """Path of the most telling mistake, as an editor would mark it."""
    validator = jsonschema.Draft202012Validator(json.loads(json_schema.json_schema()))
    error = jsonschema.exceptions.best_match(validator.iter_errors(values))
    return error and error.json_path


def test_the_file_is_up_to_date() -> None:
    assert SCHEMA.read_text() == json_schema.json_schema(), f"{SCHEMA} is stale: run `make schema`"


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("path", STUDIES, ids=str)
def test_shipped_studies_fit_and_name_the_schema(path: Path) -> None:
    text = path.read_text()
    assert mistake(yaml.safe_load(text)) is None
    assert "# yaml-language-server: $schema=../workflow/schemas/study.schema.json" in text


def test_resolved_studies_fit(values: dict[str, Any], tmp_path: Path) -> None:
    path = studies.write_resolved(studies.resolve(values, "a.yaml"), tmp_path)
    assert mistake(json.loads(path.read_text())) is None


def test_every_key_is_there() -> None:
    assert set(json.loads(SCHEMA.read_text())["properties"]) == {*Study.model_fields, "extends", "matrix"}


def test_a_part_of_a_study_fits() -> None:
    part = {
        "extends": "digits.yaml",
        "tokenizers": {"kl": {"images": 64}, "vq": None},
        "heads": {"diffloss": {"width": None}},
        "tradeoff": [VARIED, {"label": "a", "variant": "b", "sampling": ["e"]}],
    }
    assert mistake(part) is None


@pytest.mark.parametrize(
    ("part", "where"),
    [
        ({"studdy": "a"}, "$"),
        ({"study": "a/b"}, "$.study"),
        ({"heads": {"a": {"kind": "l1"}}}, "$.heads.a.kind"),
        ({"recipes": {"a": {"batsh": 1}}}, "$.recipes.a"),
        ({"recipes": {"a": {"batch": 0}}}, "$.recipes.a.batch"),
        ({"tradeoff": [{"label": "a"}]}, "$.tradeoff[0]"),
        ({"tradeoff": [{"label": "a", "variant": "b"}]}, "$.tradeoff[0]"),
        ({"tradeoff": [VARIED | {"sampling": ["e"]}]}, "$.tradeoff[0]"),
        ({"tradeoff": [VARIED | {"vary": {"step": [1]}}]}, "$.tradeoff[0].vary"),
        ({"tradeoff": [VARIED | {"vary": {"sweep": {}}}]}, "$.tradeoff[0].vary"),
        ({"tradeoff": [VARIED | {"vary": {"steps": [1, 0]}}]}, "$.tradeoff[0].vary.steps[1]"),
        ({"matrix": {"name": "{head}", "heads": ["a"]}}, "$.matrix"),
    ],
)
def test_mistakes_are_marked(part: dict[str, Any], where: str) -> None:
    assert mistake(part) == where
