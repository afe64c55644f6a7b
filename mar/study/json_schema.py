"""The JSON schema of a study file, for editors."""

from __future__ import annotations

import json
from typing import Any

from mar.study.kinds import Kind
from mar.study.parts import Backbone, Data, Ddim, Head, Order, Solver, Tokenizer
from mar.study.shorthand import STEPS, VARYING
from mar.study.study import FACTORS, Study


def json_schema() -> str:
    """JSON schema of a study *file*, for editors: the text of `workflow/schemas/study.schema.json`.

    A file may hold a part of a study (`extends`), so no key is required, and each key may be null, which takes the
    key of the base away. Completeness, names and combinations are checked when the whole study is read.
    """
    schema = Study.model_json_schema()
    for family in (Data, Tokenizer, Order, Backbone, Head, Solver):
        _write_kinds(schema["$defs"], family)
    settings = schema["$defs"]["Sampling"]["properties"]
    settings["eta"] = Ddim.model_json_schema()["properties"]["eta"] | {"description": "ddim: that of its solver"}
    curve, keys = schema["$defs"]["Curve"], [key for key in schema["$defs"]["Sampling"]["properties"] if key != "sweep"]
    steps = schema["$defs"]["Sampling"]["properties"]["steps"]
    number = {key: steps.pop(key) for key in ("type", "exclusiveMinimum")}
    steps["anyOf"] = [number, {"type": "string", "pattern": STEPS}]
    curve["properties"] |= {
        "base": {"type": "string", "description": "setting of which the points of the curve differ in `vary` alone"},
        "vary": {
            "type": "object",
            "description": "keys of a setting: one with a list, a value for each point, others with one value for all",
            "properties": {key: _or_list(f"#/$defs/Sampling/properties/{key}") for key in keys},
            "additionalProperties": False,
            "minProperties": 1,
        },
        "name": {"type": "string", "description": "name of the setting at a point, as mar-{steps}"},
    }
    curve["required"] = ["label", "variant"]
    curve["oneOf"] = [{"required": ["sampling"]}, {"required": list(VARYING)}]
    for name, section in {"Study": schema, **schema["$defs"]}.items():
        if (
            name not in ("TableRow", "Curve") and "properties" in section
        ):  # items of lists, which are replaced and never merged
            section.pop("required", None)
            section["properties"] = {key: _or_null(rule) for key, rule in section["properties"].items()}
    variant = {key: rule for key, rule in schema["$defs"]["Variant"]["properties"].items() if key not in FACTORS}
    name_or_list = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    matrix = {
        "name": {"type": "string", "description": "name of a variant, as {tokenizer}-{head}"},
        **{key: {**name_or_list, "description": "a list is crossed, one name is shared"} for key in FACTORS},
        "exclude": {
            "type": "array",
            "items": {"type": "object", "properties": {key: {"type": "string"} for key in FACTORS}, "minProperties": 1},
            "description": "combinations to leave out: those that agree with all factors of an entry",
        },
        **variant,
    }
    schema["properties"] |= {
        "extends": {
            "type": "string",
            "description": "study file that this one changes, relative to this file, or a shipped study by its name",
        },
        "matrix": _or_null(
            {
                "type": "object",
                "description": "variants from a cross product of factors; entries of `variants` change or drop them",
                "properties": matrix,
                "additionalProperties": False,
            }
        ),
    }
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Study file"}
    return json.dumps({**head, **{k: v for k, v in schema.items() if k != "title"}}, indent=1) + "\n"


def _write_kinds(definitions: dict[str, Any], family: type[Kind]) -> None:
    """Write a family of parts: the keys are those of the kind that is said, any of an own kind.

    A file that extends another may leave `kind` out: then those of some kind.
    """
    names, refs = list(family.kinds), list[dict[str, Any]]()
    for kind in family.kinds.values():
        one = kind.model_json_schema()
        definitions |= one.pop("$defs", {})
        definitions[kind.__name__] = one
        refs.append({"$ref": f"#/$defs/{kind.__name__}"})
    said: dict[str, Any] = {"anyOf": [{"enum": names}, {"type": "string", "pattern": ":"}]}
    described = {"description": family.model_fields["kind"].description}
    part: dict[str, Any] = {
        "type": "object",
        "properties": {"kind": said | described},
        "allOf": [
            *(
                {"if": {"properties": {"kind": {"const": name}}, "required": ["kind"]}, "then": ref}
                for name, ref in zip(names, refs, strict=True)
            ),
            {"if": {"not": {"required": ["kind"]}}, "then": {"anyOf": refs}},
        ],
    }
    if family.short:
        part = {"anyOf": [*said["anyOf"], part]}
    definitions[family.__name__] = {"description": (family.__doc__ or "").partition("\n")[0], **part}


def _or_list(rule: str) -> dict[str, Any]:
    """A rule that accepts one value that fits the rule at this path of the schema, or a list of such values."""
    return {"anyOf": [{"$ref": rule}, {"type": "array", "items": {"$ref": rule}, "minItems": 1}]}


def _or_null(rule: dict[str, Any]) -> dict[str, Any]:
    """A rule that accepts null too; where it describes a mapping, each entry may also be null."""
    if {"type": "null"} in rule.get("anyOf", []):
        return rule
    annotations: dict[str, Any] = {key: rule[key] for key in ("description", "default") if key in rule}
    rule = {key: value for key, value in rule.items() if key not in (*annotations, "title")}
    if "patternProperties" in rule:
        rule["patternProperties"] = {k: _or_null(v) for k, v in rule["patternProperties"].items()}
    return {**annotations, "anyOf": [rule, {"type": "null"}]}
