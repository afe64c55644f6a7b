"""Shorthands of a study file: curves that vary a key, figures or tables instead of settings, steps told in tokens."""

from __future__ import annotations

import functools
import re
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mar.study.compatibility import known
from mar.study.mistakes import Mistakes, MistakesError, Place, of_validation
from mar.study.parts import Sampling, Tokenizer
from mar.study.products import CURVES
from mar.study.study import Study

VARYING = ("base", "vary", "name")  # keys that a curve may have in place of `sampling`
NOTHING: dict[str, Any] = {
    **{key: {} for key in ("tokenizers", "backbones", "heads", "recipes", "sampling", "variants")},
    "speed": {"batch": 1},
}
STEPS = r"^tokens( */ *[1-9][0-9]*)?$"  # one token a step, or a share of as many steps


def write_out(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping of a study in which shorthands are replaced by the names of sampling settings.

    A curve with `vary` gets the list of the settings at its points, and the settings that do not exist yet are added to
    `sampling`. The name of a figure or table in the `sampling` list of a variant is replaced by the settings that the
    figure or table shows of this variant. A value of a wrong type stays as it is: the validation of the study refuses
    it later.

    Raises:
        MistakesError: a shorthand cannot be replaced; the message has the key, what was found and what is accepted.
    """
    values, mistakes = dict(values), Mistakes()
    for figure in CURVES:
        if isinstance(values.get(figure), list):
            values[figure] = list(values[figure])
            for i, curve in enumerate(values[figure]):
                if isinstance(curve, dict) and set(curve) & set(VARYING):
                    with mistakes.at(figure, i):
                        points = _points((figure, i), curve, values.get("sampling"))
                        values[figure][i] = {**{k: curve[k] for k in ("label", "variant")}, "sampling": list(points)}
                        values["sampling"] = values["sampling"] | points
    mistakes.refuse()
    return _write_out_lists(values)


def write_out_nothing(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping of a whole study; one of given sets alone need not say that it trains, draws and times nothing."""
    return NOTHING | values if values.get("given") and not values.get("variants") else values


def write_out_steps(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping of a whole study in which `steps: tokens` and `steps: tokens / 4` of a setting are numbers.

    The number of tokens is that of the variants that use the setting, of all variants where none does. It follows from
    `data.image_size`, which another file may change, so this comes last, after `extends`. A value of a wrong type stays
    as it is.

    Raises:
        ValueError: the variants have unequal numbers of tokens.
    """
    sampling = values.get("sampling")
    if not isinstance(sampling, dict):
        return values
    written = dict(sampling)
    for name, setting in sampling.items():
        said = setting.get("steps") if isinstance(setting, dict) else None
        if not isinstance(said, str) or not re.match(STEPS, said):
            continue
        try:
            counts = _tokens(values, name)
        except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError):
            return values  # the validation of the study refuses it
        if len(counts) != 1:
            found = f"{said!r}, and its variants have {', '.join(map(str, sorted(counts))) or 'no'} tokens"
            raise ValueError(f"sampling.{name}.steps: found {found}; accepted: a number")
        tokens = counts.pop()
        written[name] = setting | {"steps": max(1, tokens // int(said.partition("/")[2] or 1))}
    return values | {"sampling": written}


def _tokens(values: dict[str, Any], setting: str) -> set[int]:
    """Numbers of tokens of the variants that use a setting, of all variants where none does."""
    variants = list(values["variants"].values())
    users = [variant for variant in variants if setting in variant["sampling"]]
    counts = set()
    for variant in users or variants:
        tok = Tokenizer.model_validate(values["tokenizers"][variant["tokenizer"]])
        side = int(values["data"]["image_size"]) // (tok.stride * tok.group)
        counts.add(sum(n**2 for n in tok.sides) if tok.sides else side**2)
    return counts


def _points(place: Place, curve: dict[Any, Any], sampling: Any) -> dict[str, Any]:
    """The settings at the points of a curve with `vary`, under the name that `sampling` has for each, or a new one."""
    where, keys = "{}[{}]".format(*place), ("label", "variant", *VARYING)
    if set(curve) != set(keys):
        accepted = f"label, variant and sampling, or {', '.join(keys)}"
        raise ValueError(f"{where}: found {', '.join(map(str, curve))}; accepted: {accepted}")
    base, vary, template = str(curve["base"]), curve["vary"], curve["name"]
    sampling = sampling if isinstance(sampling, dict) else {}
    start = _setting(("sampling", base), known(f"{where}.base", base, sampling))
    lists = [key for key, value in vary.items() if isinstance(value, list)] if isinstance(vary, dict) else []
    if len(lists) != 1 or not vary[lists[0]]:
        accepted = "a list of values for one key of a setting, and one value for any other key"
        raise ValueError(f"{where}.vary: found {vary!r}; accepted: {accepted}")
    if start.sweep or "sweep" in vary:
        found = f"sampling.{base} with vary {vary!r} has a sweep, which chooses guidance and temperature itself"
        raise ValueError(f"{where}: {found}; accepted: settings without sweep")
    points: dict[str, Any] = {}
    named = {n: one for n in (base, *sorted(sampling)) if (one := _accepted(sampling[n]))}
    templated = set()
    for value in vary[lists[0]]:
        point = {**sampling[base], **vary, lists[0]: value}
        setting = _setting((*place, "vary"), point)
        name = _name(f"{where}.name", template, {key: getattr(setting, key, None) or point[key] for key in vary})
        if name in templated:
            raise ValueError(f"{where}.name: {template!r} calls two points {name!r}; accepted: a name for each point")
        templated.add(name)
        # Several names may stand for the same setting: the name from the template is preferred, then that of the base.
        equal = [n for n in (name, *named) if named.get(n) == setting]
        if not equal and name in sampling:
            accepted = "an equal setting, or another name"
            raise ValueError(f"{where}.name: found {name!r}, in sampling another setting; accepted: {accepted}")
        points[equal[0] if equal else name] = point
    return points


def _name(where: str, template: Any, values: dict[str, Any]) -> str:
    accepted = f"a template as 'mar-{{{'}-{'.join(values)}}}'"
    if not isinstance(template, str):
        raise ValueError(f"{where}: found {template!r}; accepted: {accepted}")
    try:
        return template.format(**values)
    except (LookupError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error} in {template!r}; accepted: {accepted}") from None


def _setting(place: Place, values: Any) -> Sampling:
    try:
        return Sampling.model_validate(values)
    except ValidationError as error:
        raise MistakesError([mistake.below(place) for mistake in of_validation(error, values)]) from None


def _accepted(values: Any) -> Sampling | None:
    try:
        return Sampling.model_validate(values)
    except ValidationError:
        return None  # the validation of the study refuses it


def _write_out_lists(values: dict[str, Any]) -> dict[str, Any]:
    """The mapping of a study with settings in place of figures and tables in the `sampling` lists of its variants."""
    variants, sampling = values.get("variants"), values.get("sampling")
    if not isinstance(variants, dict) or not isinstance(sampling, dict):
        return values
    try:
        shown = _shown(values)
    except ValidationError:
        return values  # the validation of the study refuses it
    written, mistakes = {}, Mistakes()
    for name in shown:
        with mistakes.at("sampling", name):
            if name in sampling:
                found = f"{name}, which is a figure or table of the study too and stands for its settings"
                raise ValueError(f"sampling: found {found}; accepted: another name")
    for name, variant in variants.items():
        written[name] = variant
        listed = variant.get("sampling") if isinstance(variant, dict) else None
        if isinstance(listed, list) and all(isinstance(entry, str) for entry in listed) and set(listed) & set(shown):
            own = {key: [s for v, s in pairs if v == name] for key, pairs in shown.items()}
            with mistakes.at("variants", name, "sampling"):
                written[name] = variant | {"sampling": _by_name(f"variants.{name}.sampling", listed, own)}
    mistakes.refuse()
    return values | {"variants": written}


def _shown(values: dict[str, Any]) -> dict[str, list[tuple[str | None, str]]]:
    """For each figure and table of the study, the pairs (variant, setting) that it shows, in its order."""
    sections: dict[str, Any] = {}
    for key in (*CURVES, "tables", "fast"):
        if key in values:
            sections[key] = _section(key).validate_python(values[key])
    shown = {key: [(c.variant, s) for c in sections[key] for s in c.sampling] for key in CURVES if sections.get(key)}
    for name, table in sections.get("tables", {}).items():
        # Guided settings come last, since the figure `samples` shows the last guided setting of a variant.
        columns = [[(row.variant, getattr(row, key)) for row in table.rows] for key in ("without", "guided")]
        shown[name] = [(variant, setting) for column in columns for variant, setting in column if setting]
    if modes := sections.get("fast"):
        shown["fast"] = [(modes.variant, setting) for setting in (modes.default, *modes.modes)]
    return shown


@functools.cache
def _section(key: str) -> TypeAdapter[Any]:
    accepted: Any = Study.model_fields[key].annotation
    return TypeAdapter(accepted)


def _by_name(where: str, listed: list[str], shown: dict[str, list[str]]) -> list[str]:
    """The `sampling` list of a variant in which each figure or table is replaced by its settings, without repetitions.

    A setting that the list itself names keeps its position.

    Raises:
        ValueError: a figure or table is listed twice, or shows no setting of the variant.
    """
    settings: list[str] = []
    for entry in listed:
        if entry not in shown:
            settings.append(entry)
            continue
        if not shown[entry] or listed.count(entry) > 1:
            found = f"{entry!r}{' twice' if shown[entry] else ', which shows no setting of the variant'}"
            accepted = ", ".join(["settings", *(key for key in shown if shown[key])])
            raise ValueError(f"{where}: found {found}; accepted, each once: {accepted}")
        settings += dict.fromkeys(s for s in shown[entry] if s not in (*listed, *settings))
    return settings
