"""Reads a study file: resolves `extends`, `matrix` and shorthands, and validates the result."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import os
import string
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mar.runtime.files import write_if_changed
from mar.study import kinds, layout, own_code
from mar.study.mistakes import Mistake, MistakesError, line_of, of_validation
from mar.study.renamed import new_names
from mar.study.shorthand import write_out, write_out_nothing, write_out_steps
from mar.study.study import FACTORS, Study

FILES = 100  # that one study extends, at most
VARIANTS = 10_000  # that one matrix crosses, at most
MISTAKES = 10  # that one message lists, at most
LOOKED_UP = 200  # mistakes whose lines are looked up, at most
MAPPING = "a mapping with the keys of a study"
LARGEST = 2_000_000  # bytes of a study file
# What to write in the place of what the YAML reader complains about, by a part of its words.
REMEDIES = {
    "'\\t'": "spaces in place of the tab",
    "mapping values are not allowed here": "quotes around a text with a colon in it, or a key on a line of its own",
}


class StudyError(ValueError):
    """A study file that cannot be used: names the file, the key, what was found and what is accepted."""


def load(path: str | Path) -> Study:
    """Read a study file (YAML, or the resolved study.json).

    Raises:
        StudyError: the file is missing, is no YAML mapping, or says something that is not accepted.
    """
    path = Path(path)
    if path.name == layout.study(Path()).name:
        own_code.add_copies(layout.own_code(path.parent))
    return resolve(read(path), path)


def resolve(values: dict[str, Any], source: str | Path) -> Study:
    """Turn the mapping of a study file into a checked study; `extends` names a file beside it, or a shipped study.

    A file that extends another has a name of its own, since the other's results would be written over, and a title of
    its own or none.
    """
    source = Path(source)
    folders = [file.parent for file, _ in _files(source)] or [source.parent]
    with own_code.beside(folders):
        return _resolved(values, source)


def _resolved(values: dict[str, Any], source: Path) -> Study:
    own = values
    values = _write_out(_expand_matrix(_extend(own, source), source), source)
    try:
        values = write_out_steps(write_out_nothing(values))
    except ValueError as error:
        raise blame(error, source) from None
    mistakes: list[Mistake] = []
    if "extends" in own:
        values["title"] = own.get("title") or ""
        if own.get("study") is None:
            wanted = f"a name of its own, so that no result of {own['extends']} is written over"
            mistakes.append(Mistake(("study",), f"is missing; accepted: {wanted}", ("extends",)))
            values["study"] = "nameless"  # told already
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        mistakes += of_validation(error, values)
    if mistakes:
        raise blame(MistakesError(mistakes), source)
    return study


def of_config(config: dict[str, Any], configfiles: Sequence[str | Path]) -> tuple[Study, Path]:
    """The study that the configuration of a workflow means, and the file to name in messages.

    Args:
        config: with the key `study_file`, a file or the name of one that ships; other keys then change that study.
            Without it, the content of the study.
        configfiles: the files that `config` was read from, the last one last.

    Raises:
        StudyError: there is no file, or it is no study.
    """
    if "study_file" in config:
        name = config["study_file"]
        if not isinstance(name, str):
            raise StudyError(f"study_file: found {name!r}; accepted: the path of one study file")
        source = _base(Path("study_file"), name)
        changes = {key: value for key, value in config.items() if key != "study_file"}
        return resolve(_merge(read(source), changes), source), source
    if not configfiles:
        raise StudyError(
            "no study file; accepted: --configfile config/<study>.yaml, or of a module study_file in its config"
        )
    for file in configfiles:  # Snakemake's reader keeps the last of two equal keys; this one refuses them
        read(Path(file))
    source = Path(configfiles[-1])
    return resolve(config, source), source


def blame(error: ValueError, source: Path) -> StudyError:
    """The error with the file and line of each mistake, in the study file `source` or one that it extends."""
    mistakes = error.mistakes if isinstance(error, MistakesError) else [Mistake((), str(error), ())]
    if files := list(_files(source)):
        found = sorted(((line_of(m.place, files), m) for m in mistakes[:LOOKED_UP]), key=lambda one: one[0])
        lines = [f"{files[i][0]}:{line}: {mistake}{_taken_away(mistake, files)}" for (i, line), mistake in found]
    else:
        lines = [f"{source}: {mistake}" for mistake in mistakes]
    if (more := len(mistakes) - MISTAKES) > 0:
        lines[MISTAKES:] = [f"{source}: and {more} more mistakes"]
    return StudyError("\n".join(lines))


def _taken_away(mistake: Mistake, files: Sequence[tuple[Path, yaml.Node]]) -> str:
    """Where a file takes away, by null, the entry that a mistake does not find; empty where none does."""
    for file, node in files if mistake.unknown else ():
        for line in _nulls(node, mistake.unknown):
            return f" ({file}:{line} takes {mistake.unknown!r} away: change what names it too, or take that away)"
    return ""


def _nulls(node: yaml.Node, name: str) -> Iterator[int]:
    """Lines on which a key of this name has the value null."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if key.value == name and value.tag == "tag:yaml.org,2002:null":
            yield key.start_mark.line + 1
        yield from _nulls(value, name)


def _files(source: Path) -> Iterator[tuple[Path, yaml.Node]]:
    """A study file and its YAML, then those that it extends; until one of them cannot be read."""
    for _ in range(FILES):
        try:
            values, node = _parse(source)
        except StudyError:
            return
        yield source, node
        if not isinstance(base := values.get("extends"), str):
            return
        source = _base(source, base)


def _base(source: Path, name: str) -> Path:
    """The file that `extends: name` in `source` means: one beside it, or a shipped study by its bare name."""
    beside = Path(os.path.normpath(source.parent / name))
    return layout.shipped(name) if not beside.exists() and Path(name).name == name else beside


class _Loader(yaml.SafeLoader):
    """YAML in which a repeated key of a mapping is an error: YAML itself silently keeps the last one."""

    def flatten_mapping(self, node: Any) -> None:
        """Resolve merge keys. Of equal keys only the last counts, so that merges of merges stay short."""
        super().flatten_mapping(node)
        last = {(key.tag, str(key.value)): (key, value) for key, value in node.value}
        node.value = list(last.values())

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and str(key.value) in keys:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
            keys.add(str(key.value))
        return super().construct_mapping(node, deep)


def read(path: Path, accepted: str = MAPPING) -> dict[str, Any]:
    """The mapping of a study file, or of another YAML file, as it stands.

    Raises:
        StudyError: the file cannot be read, is no YAML mapping (the message says what is `accepted`), or repeats a key.
    """
    return _parse(path, accepted)[0]


def check_command(words: list[str]) -> None:
    """End the process with our message if a file after --configfile in a command of Snakemake is no study file.

    Snakemake reads these files before it reads the workflow, waits for a pipe for ever, and names no file. So its
    profile (profiles/default) calls this first.
    """
    given, files = False, list[str]()
    for word in words:
        option, _, value = word.partition("=")
        if word.startswith("-"):
            given = option in ("--configfile", "--configfiles")
            files += [value] if given and value else []
        elif given:
            files.append(word)
    for file in files:
        try:
            read(Path(file))
        except StudyError as error:
            sys.exit(f"Error: {error}")


def _parse(path: Path, accepted: str = MAPPING) -> tuple[dict[str, Any], yaml.Node]:
    """The mapping of a YAML file, and its YAML."""
    try:
        if not path.is_file() and path.exists():  # reading a pipe or a device might never end
            raise StudyError(
                f"{path}: found a {'folder' if path.is_dir() else 'pipe or device'}; accepted: a YAML file"
            )
        if (size := path.stat().st_size) > LARGEST:
            raise StudyError(f"{path}: found {size} bytes; accepted: a YAML file of at most {LARGEST}")
        values, node = _parsed(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}; accepted: a YAML file") from None
    except RecursionError:
        raise StudyError(
            f"{path}: no valid YAML: brackets or mappings are nested too deeply; accepted: fewer levels"
        ) from None
    except StudyError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        context, problem = f"{error.context}: " if error.context else "", str(error.problem)
        accepted = next((remedy for part, remedy in REMEDIES.items() if part in problem), "valid YAML")
        raise StudyError(f"{path}{line}: no valid YAML: {context}{problem}; accepted: {accepted}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, a date that does not exist, a huge number
        raise StudyError(f"{path}: no valid YAML: {error}; accepted: valid YAML in UTF-8") from None
    if node is None or not isinstance(values, dict):
        raise StudyError(f"{path}: found {type(values).__name__}; accepted: {accepted}")
    return copy.deepcopy(values), node  # the reader changes them


@functools.lru_cache(FILES)
def _parsed(text: str) -> tuple[Any, yaml.Node | None]:
    """What a YAML text says, and its YAML. They are kept: most texts are read twice, and many studies extend one."""
    loader = _Loader(text)
    node = loader.get_single_node()
    return loader.construct_document(node) if node else None, node


def _extend(values: dict[str, Any], source: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    try:
        values = new_names(values, source)
    except ValueError as error:
        raise blame(error, source) from None
    if "extends" not in values:
        return _write_out(values, source)
    name = values.pop("extends")
    if not isinstance(name, str):
        raise StudyError(f"{source}: extends: found {name!r}; accepted: the path of one study file")
    base = _base(source, name)
    if base in seen:
        raise StudyError(
            f"{source}: extends: {base.name} extends itself through {[p.name for p in seen]}; accepted: another"
        )
    if len(seen) >= FILES:
        raise StudyError(f"{source}: extends: found a chain of more than {FILES} files; accepted: at most {FILES}")
    if not base.is_file():
        raise StudyError(
            f"{source}: extends: found {name!r}, and there is no file {source.parent / name}; accepted: a study file, "
            "or a shipped study by its name, as images.yaml"
        )
    return _write_out(_merge(_extend(read(base), base, (*seen, base)), values), source)


def _write_out(values: dict[str, Any], source: Path) -> dict[str, Any]:
    """Replace shorthands in the file that has them, so that a file that extends it can change what they stand for."""
    try:
        return write_out(values)
    except ValueError as error:
        raise blame(error, source) from None


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` changed by `over`: mappings merge key by key, null removes a key, other values replace those of `base`."""
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _expand_matrix(values: dict[str, Any], source: Path) -> dict[str, Any]:
    try:
        return _expanded(values)
    except ValueError as error:
        raise blame(MistakesError([Mistake((), str(error), ("matrix",))]), source) from None


def _check_template(name: str, factors: list[str]) -> None:
    """Refuse a template that asks for more than factors by their names: for parts of them, or for a width."""
    accepted = ", ".join(f"{{{factor}}}" for factor in factors)
    try:
        fields = list(string.Formatter().parse(name))
    except ValueError as error:
        raise ValueError(f"matrix.name: {error} in {name!r}; accepted: {accepted}") from None
    for _, field, width, conversion in fields:
        if field is not None and (field not in factors or width or conversion):
            raise ValueError(f"matrix.name: {field!r} in {name!r}; accepted: {accepted}")


def _expanded(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping with the variants of `matrix`: lists of factors are crossed, and `exclude` drops combinations."""
    matrix = values.get("matrix")
    if matrix is None:
        return values
    if not isinstance(matrix, dict) or not isinstance(matrix.get("name"), str):
        raise ValueError(
            "matrix: needs name (a template as '{backbone}-{head}') and lists of factors; accepted: a mapping with both"
        )
    variants = values.get("variants", {})
    if not isinstance(variants, dict):
        raise ValueError(f"variants: found {type(variants).__name__}; accepted: a mapping of variants")
    name, exclude = matrix["name"], matrix.get("exclude", [])
    rest = {k: v for k, v in matrix.items() if k not in ("name", "exclude")}
    crossed = {k: v for k, v in rest.items() if k in FACTORS and isinstance(v, list)}
    shared = {k: v for k, v in rest.items() if k not in crossed}
    if not isinstance(exclude, list):
        raise ValueError(f"matrix.exclude: found {exclude!r}; accepted: a list of mappings factor: value")
    for rule in exclude:
        if not isinstance(rule, dict) or not rule or not set(rule) <= set(crossed):
            accepted = f"a mapping of crossed factors ({', '.join(crossed)})"
            raise ValueError(f"matrix.exclude: found {rule!r}; accepted: {accepted}")
    if (count := math.prod(map(len, crossed.values()))) > VARIANTS:
        raise ValueError(f"matrix: found {count} combinations; accepted: at most {VARIANTS}")
    _check_template(name, list(crossed))
    expanded: dict[str, Any] = {}
    for combination in itertools.product(*crossed.values()):
        factors = dict(zip(crossed, combination, strict=True))
        if any(all(factors[k] == v for k, v in rule.items()) for rule in exclude):
            continue
        variant = name.format(**factors)
        if variant in expanded:
            raise ValueError(f"matrix.name: {name!r} calls two combinations {variant!r}; name every factor")
        expanded[variant] = {**shared, **factors}
    # An explicit variant changes keys of the expanded one of the same name, and null removes it.
    return {**{k: v for k, v in values.items() if k != "matrix"}, "variants": _merge(expanded, variants)}


def write_resolved(study: Study, results: Path = layout.RESULTS) -> Path:
    """Write results/<study>/study.json when it differs: what every command of `mar` reads."""
    path = layout.study(results / study.study)
    for digest in sorted(kinds.digests(study)):
        own_code.store(digest, layout.own_code(path.parent))
    write_if_changed(path, study.model_dump_json(indent=1, exclude_defaults=True) + "\n")
    return path
