"""Mistakes of a study file in a user's words: all of them at once, each with the file and the line where it stands.

A place is the path of keys to a value, as ("backbones", "masked", "width"). Of the files that extend each other the one
is blamed that has the value: `line_of` looks the place up in the YAML nodes, which know where they stand.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

Place = tuple[str | int, ...]
MISSING = "is missing"
NAMES = 12  # names that a message lists, at most
SHA256 = "^[0-9a-f]{64}$"

# What is accepted, for the errors of pydantic: by their type, filled from their context.
ACCEPTED = {
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a mapping of keys to values"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "finite_number": "a finite number",
    "string_type": "text, in quotes where it looks like a number",
    "string_pattern_mismatch": "letters, digits and _ . + -, a letter or digit first",
    "string_too_long": "at most {max_length} characters",
    "string_too_short": "a text that is not empty",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
}


def too_few(classes: int, each: int = 1) -> str:
    """Of a number of images that has not `each` images of every class: why it is refused, and what is accepted."""
    if each == 1:
        return f"fewer images than the {classes} classes of the data; accepted: at least {classes}"
    found = f"fewer than {each} images of each of the {classes} classes of the data"
    return f"{found}; accepted: at least {each * classes} ({each} x classes)"


def listed(accepted: Collection[str], found: str) -> str:
    """The names that are accepted; of many those that are most like the one that was found, and how many more."""
    if len(accepted) <= NAMES:
        return ", ".join(accepted) or "none"
    near = difflib.get_close_matches(found, accepted, n=NAMES, cutoff=0.0)
    return f"{', '.join(near)} and {len(accepted) - NAMES} more"


class UnknownName(ValueError):
    """A name of something that the study does not have.

    Attributes:
        name: the name.
    """

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class Mistake(NamedTuple):
    """What is wrong, the key that a message names before it, the place of the value, and a name that is unknown."""

    key: Place
    text: str
    place: Place
    unknown: str = ""

    def below(self, place: Place) -> Mistake:
        """The same, seen from the mapping that has the present one at `place`."""
        return self._replace(key=place + self.key, place=place + self.place)

    def __str__(self) -> str:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.key).removeprefix(".")
        return f"{key}: {self.text}" if key else self.text


class MistakesError(ValueError):
    """Mistakes, before it is known in which file and line they stand."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


class Mistakes:
    """Collects the mistakes of several checks, so that one does not hide the next."""

    def __init__(self) -> None:
        self.found: list[Mistake] = []

    @contextlib.contextmanager
    def at(self, *place: str | int) -> Iterator[None]:
        """Collect a ValueError of the checks within; its text names the key, and the value is at `place`."""
        try:
            yield
        except MistakesError as error:
            self.found += error.mistakes
        except ValueError as error:
            self.found.append(Mistake((), str(error), place, error.name if isinstance(error, UnknownName) else ""))

    def refuse(self) -> None:
        """Refuse what was checked.

        Raises:
            MistakesError: something was collected.
        """
        if self.found:
            raise MistakesError(self.found)


def of_validation(error: ValidationError, values: Any) -> list[Mistake]:
    """The mistakes that pydantic found in `values`."""
    found: list[Mistake] = []
    for one in error.errors(include_url=False):
        raised = one.get("ctx", {}).get("error")
        if isinstance(raised, MistakesError):
            found += [mistake.below(one["loc"]) for mistake in raised.mistakes]
        else:
            place = _place(one, values)
            found.append(Mistake(place, describe(one), place))
    return found


def _place(error: ErrorDetails, values: Any) -> Place:
    """The place of an error; a key that is no name is its own place, which pydantic calls [key]."""
    for i, key in enumerate(error["loc"]):
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):  # TypeError: no mapping or list
            return error["loc"][: i + 1] if error["type"] == "missing" else error["loc"][:i]
    return error["loc"]


def describe(error: ErrorDetails) -> str:
    """What is wrong with a value, in a user's words."""
    if error["type"] == "missing":
        return MISSING
    message, found = error["msg"].removeprefix("Value error, "), shorten(shown(error["input"]))
    accepted = ACCEPTED.get(error["type"])
    if error["type"] == "string_pattern_mismatch" and error.get("ctx", {}).get("pattern") == SHA256:
        accepted = "a SHA-256, 64 of the characters 0-9 and a-f"
    if accepted:
        return f"found {found}; accepted: {accepted.format(**error.get('ctx', {}))}"
    return message if error["type"] == "value_error" else f"{message}; found {found}"


def shown(value: Any, depth: int = 4) -> str:
    """A value as it is written in YAML, without what is nested deeper: aliases can make it endless."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list | tuple) and not depth:
        return "..."
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(entry, depth - 1)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(entry, depth - 1) for entry in value) + "]"
    return repr(value)


def shorten(text: str) -> str:
    """The text, cut in the middle if it is longer than a message should be."""
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-20:]}"


def line_of(place: Place, files: Sequence[tuple[Path, yaml.Node]]) -> tuple[int, int]:
    """Index of the file, and line of the value at a place, or of the deepest mapping around it that a file has.

    A file extends another by merging mappings: below a key the files go on that have a mapping there, until one has
    another value, which hides what the files after it say.

    Args:
        place: keys from the root of the study on.
        files: a study file and its YAML, before those that it extends, the next one first.
    """
    where = 0, 1
    alive = [(i, node) for i, (_, node) in enumerate(files)]
    for key in place:
        deeper: list[tuple[int, yaml.Node]] = []
        for i, node in alive:
            if (entry := _entry(node, key)) is None:
                continue
            line, value = entry
            if not deeper:
                where = i, line
            deeper.append((i, value))
            if not isinstance(value, yaml.MappingNode):
                break
        if not deeper:
            break
        alive = deeper
    return where


def _entry(node: yaml.Node, key: str | int) -> tuple[int, yaml.Node] | None:
    """The line, counted from one, and the value of an entry of a mapping or list; the last of equal keys counts."""
    if isinstance(node, yaml.MappingNode):
        for name, value in reversed(node.value):
            if str(name.value) == str(key):
                return name.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key].start_mark.line + 1, node.value[key]
    return None
