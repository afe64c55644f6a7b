"""What a release promises to the next one; kept.json has it of the last one: keep.py > packaging/kept.json.

Lists of lines: the keys of a study file and their words, the options of the commands, the keys of the files of results.
A line that ends with ` !` says that the key or option is needed. tests/unit/packaging/test_kept.py compares.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Iterator
from typing import Any

import click

import mar
from mar.cli.__main__ import main
from mar.runtime.files import Record
from mar.study import records
from mar.study.json_schema import json_schema
from mar.study.kinds import Section

NEEDED = " !"


def lines(schema: dict[str, Any], closed: tuple[str, ...] = ()) -> list[str]:
    """The keys and words of a JSON schema: `recipes.*.batch`, `tokenizers.*.kind = kl`.

    Args:
        schema: the schema.
        closed: names of definitions whose keys are left out.
    """
    return sorted(set(_lines(schema, schema, "", tuple(f"#/$defs/{name}" for name in closed))))


def _lines(schema: Any, whole: dict[str, Any], at: str, seen: tuple[str, ...]) -> Iterator[str]:
    if not isinstance(schema, dict):
        return
    if (name := schema.get("$ref")) and name not in seen:
        named = functools.reduce(lambda part, key: part[key], name.removeprefix("#/").split("/"), whole)
        yield from _lines(named, whole, at, (*seen, name))
    branches = [branch for key in ("anyOf", "oneOf", "allOf") for branch in schema.get(key, [])]
    for branch in branches:
        alone = [line for line in _lines(branch, whole, at, seen)]
        yield from alone if len(branches) == 1 else (line.removesuffix(NEEDED) for line in alone)
    for key, below in schema.get("properties", {}).items():
        place = f"{at}.{key}".removeprefix(".")
        yield place + (NEEDED if key in schema.get("required", ()) else "")
        yield from _lines(below, whole, place, seen)
    for word in [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]:
        yield f"{at} = {word}"
    for below in (schema.get("additionalProperties"), *schema.get("patternProperties", {}).values()):
        yield from _lines(below, whole, f"{at}.*".removeprefix("."), seen)
    yield from _lines(schema.get("items"), whole, f"{at}[]", seen)


def options() -> Iterator[str]:
    """The options and words of every command, as `train --seed !`, `edit --protocol = fair`."""
    for name, command in main.commands.items():
        yield name
        for option in command.params:
            for called in option.opts:
                yield f"{name} {called}{NEEDED if option.required else ''}"
            if isinstance(option.type, click.Choice):
                yield from (f"{name} {option.opts[-1]} = {word}" for word in option.type.choices)


def _below(kind: type) -> set[type]:
    """A class and all that derive from it."""
    return {kind}.union(*map(_below, kind.__subclasses__()))


def today() -> dict[str, Any]:
    """What this version promises."""
    kinds = {name: kind for name, kind in inspect.getmembers(records, inspect.isclass) if issubclass(kind, Record)}
    # Records quote sections of their study, whose keys are those of study files, with their shorter spellings.
    quoted = tuple(kind.__name__ for kind in _below(Section))
    schemas = {name: kind.model_json_schema() for name, kind in sorted(kinds.items())}
    files = [f"{name} {line}" for name, schema in schemas.items() for line in lines(schema, quoted)]
    study = lines(json.loads(json_schema()))
    return {"version": mar.__version__, "study": study, "commands": sorted(options()), "files": files}


def broken(before: list[str], now: list[str]) -> list[str]:
    """What worked before and does not now: lines that are gone, and keys and options that have become needed.

    A key that is needed where its mapping is new breaks nothing.
    """
    had, has = ({line.removesuffix(NEEDED) for line in some} for some in (before, now))
    gone = [f"gone: {line}" for line in sorted(had - has)]
    for line in sorted(set(now) - set(before)):
        place = line.removesuffix(NEEDED)
        above = place.rpartition(".")[0] or place.rpartition(" ")[0]
        known = not above or any(f"{old}.".startswith((f"{above}.", f"{above} ")) for old in had)
        if line.endswith(NEEDED) and known:
            gone.append(f"needed now: {place}")
    return gone


if __name__ == "__main__":
    print(json.dumps(today(), indent=0))
