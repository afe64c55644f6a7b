"""Sections of a study, and parts of which there are several kinds, each a class with keys of its own.

A part says by `kind` what it is: one of ours, or a class of the user's, `my_head.py:Flow` (a file beside the study) or
`package.module:Class`. Options of an own kind are checked by its class when the YAML is read, and are then plain data,
beside what has to be known of the class by those who only read results: so nobody else imports its code.
"""

from __future__ import annotations

import difflib
import functools
import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from mar.study import own_code
from mar.study.mistakes import MISSING, Mistake, MistakesError, of_validation, shorten, shown

KEY = "key"  # context of a dump that is what results depend on, see `mar/study/canonical.py`


class Section(BaseModel):
    """A part of a study. Unknown keys are refused, and values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        return cls._checked(values, validate)

    @classmethod
    def _checked(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse unknown keys, together with the mistakes of the others."""
        mistakes, said, fields = list[Mistake](), dict[str, Any](), cls.model_fields
        for key, value in values.items() if isinstance(values, dict) else ():
            if key not in fields:
                if cls.model_config["extra"] == "forbid":
                    near = difflib.get_close_matches(str(key), fields, n=1)
                    mistakes.append(Mistake((), cls._unknown(str(key), value, near), (key,)))
                    said |= dict.fromkeys(near)
            elif isinstance(value, bool) and fields[key].annotation is not bool:
                # Python counts True as 1, and so would pydantic.
                text = f"found {str(value).lower()}; accepted: anything but true and false"
                mistakes.append(Mistake((key,), text, (key,)))
                said[key] = None
        if not mistakes:
            return validate(values)
        wrong = {mistake.place[0] for mistake in mistakes}
        try:
            validate({key: value for key, value in values.items() if key not in wrong})
        except ValidationError as error:
            mistakes += [m for m in of_validation(error, values) if m.text != MISSING or m.place[0] not in said]
        raise MistakesError(mistakes)

    @classmethod
    def _unknown(cls, key: str, value: Any, near: list[str]) -> str:
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"unknown key {key!r}{hint}; accepted: {', '.join(sorted(cls.model_fields))}"

    def _has_length(self) -> None:
        """Refuse a training without a length."""
        if not (self.images or self.epochs):  # type: ignore[attr-defined]
            raise ValueError("images: is missing; accepted: images, epochs, or both, of which the shorter counts")


class Own(BaseModel):
    """What a study keeps of the class of an own kind.

    Attributes:
        code: digest of the file and of the local files that it imports; empty for an installed package.
        told: what its class, with these options, says of itself: the names in `Kind.tells` of the family.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Annotated[str, Field(pattern=own_code.DIGEST)] = ""
    told: dict[str, Any] = {}

    def __hash__(self) -> int:
        return hash(self.code)


class Kind(Section):
    """A part of a study of which there are several kinds.

    The classes right below this one are the families (heads, tokenizers, ...), those below them are the kinds. A
    mapping that is read as a family becomes the class that its key `kind` names.

    Attributes:
        kind: name of the kind, or the place of an own class.
        kinds: of a family, its kinds by name.
        part: what a part of the family is called.
        tells: of a family, what is kept of an own kind beside its options, for those who do not import its code.
        among: of a family, the names that a list of an own class may hold, by the list's name.
        implementation: what the part is built with, as `module:name`; of an own class also a name in its own file.
            It is imported where it is built.
        label: what texts call it.
        short: of a family, whether a name alone is a part without options, see `shortest`.
    """

    kinds: ClassVar[dict[str, type[Kind]]] = {}
    part: ClassVar[str] = "part"
    tells: ClassVar[tuple[str, ...]] = ("label",)
    among: ClassVar[dict[str, tuple[str, ...]]] = {}
    implementation: ClassVar[str] = ""
    label: ClassVar[str] = ""
    short: ClassVar[bool] = False

    kind: str = Field(
        description="required where the part is defined; a file that extends another may leave it out. Also an own "
        "class: my_file.py:Class beside the study, or package.module:Class"
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        if Kind in cls.__bases__:
            cls.kinds = {}
        elif cls.__module__.startswith("mar."):
            for name in get_args(cls.model_fields["kind"].annotation):
                cls.kinds[name] = cls

    @classmethod
    def of(cls, **values: Any) -> Self:
        """The part that these values describe, of the kind that they say."""
        return cls.model_validate(values)

    @classmethod
    def _checked(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, cls):
            return values
        if (spelled := cls._spelled(values)) is not values:
            try:
                return cls._checked(spelled, validate)
            except MistakesError as error:  # what is wrong is the name that stands there
                raise MistakesError([m._replace(key=(), place=()) for m in error.mistakes]) from None
        if not isinstance(values, dict) or (Kind not in cls.__bases__ and cls.model_config["extra"] == "allow"):
            return validate(values)
        if Kind not in cls.__bases__:
            return super()._checked(cls._without_defaults_of_others(values), validate)
        try:
            return cls._of_its_kind(values)
        except ValidationError as error:
            raise MistakesError(of_validation(error, values)) from None

    @classmethod
    def _spelled(cls, values: Any) -> Any:
        """Values as a mapping, where a family has a shorter spelling."""
        return {"kind": values} if cls.short and isinstance(values, str) else values

    @classmethod
    def _of_its_kind(cls, values: dict[str, Any]) -> Any:
        kind = values.get("kind")
        if kind is None:
            raise MistakesError([Mistake(("kind",), MISSING, ("kind",))])
        if isinstance(kind, str) and kind in cls.kinds:
            return cls.kinds[kind].model_validate(values)
        if isinstance(kind, str) and ":" in kind:
            if "own" in values:  # a resolved study
                return kept_class(cls, json.dumps(values["own"], sort_keys=True)).model_validate(values)
            return _keep(cls, kind, values)
        *names, last = map(repr, cls.kinds)
        accepted = f"{', '.join(names)} or {last}; or a class of yours, 'file.py:Class'"
        raise MistakesError([Mistake(("kind",), f"found {shorten(shown(kind))}; accepted: {accepted}", ("kind",))])

    @classmethod
    def _others(cls, key: str) -> dict[str, type[Kind]]:
        """The kinds of the same family that have a key."""
        return {name: kind for name, kind in cls.kinds.items() if key in kind.model_fields}

    @classmethod
    def _without_defaults_of_others(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Values without those keys of other kinds that say what is so without them: null, or the default there."""

        def idle(key: str, value: Any) -> bool:
            others = cls._others(str(key)) if key not in cls.model_fields else {}
            return any(value is None or value == kind.model_fields[key].default for kind in others.values())

        return {key: value for key, value in values.items() if not idle(key, value)}

    @classmethod
    def _unknown(cls, key: str, value: Any, near: list[str]) -> str:
        others, (kind, *_) = cls._others(key), get_args(cls.model_fields["kind"].annotation) or (cls.__name__,)
        if not others:
            return super()._unknown(key, value, near)
        kinds = ", ".join(others)
        if isinstance(value, bool):
            said, accepted = str(value).lower(), str(not value).lower()
            return f"{key}: {said} with kind {kind}: belongs to {kinds}; accepted: {accepted}"
        return f"{key} belongs to kind {kinds}: kind {kind}"


@functools.cache
def kept_class(family: type[Kind], own: str) -> type[Any]:
    """The class of the parts of a family whose own class said `own` (JSON of `Own`): plain options, and what it said.

    Raises:
        MistakesError: what it said is not what a family keeps.
    """
    try:
        said = Own.model_validate_json(own)
    except ValidationError as error:
        raise MistakesError([m.below(("own",)) for m in of_validation(error, json.loads(own))]) from None
    if set(said.told) != set(family.tells):
        found = f"found {', '.join(said.told) or 'nothing'}; accepted: {', '.join(family.tells)}"
        raise MistakesError([Mistake(("own", "told"), found, ("own",))])
    base: Any = family

    class Kept(base):
        """A part of an own kind."""

        model_config = ConfigDict(extra="allow")

        own: Own

        @model_serializer(mode="wrap")
        def _write(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> Any:
            values = write(self)
            if info.context == KEY and isinstance(values, dict):
                values.pop("own")  # the options alone are what results depend on
            return values

    for name, value in said.told.items():
        setattr(Kept, name, tuple(value) if isinstance(value, list) else value)
    return Kept


def _keep(family: type[Kind], kind: str, values: dict[str, Any]) -> Any:
    """A part of an own kind, checked by its class."""
    try:
        code, made = own_code.find(kind)
        if not _is_kind(made, family):
            beside = vars(sys.modules[made.__module__]) if isinstance(made, type) else {}
            near = [
                one for one, value in beside.items() if _is_kind(value, family) and value.__module__ == made.__module__
            ]
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"found {kind!r}{hint}; accepted: a class that derives from {_place(family)}")
        _check_told(family, made)
    except ValueError as error:
        raise MistakesError([Mistake(("kind",), str(error), ("kind",))]) from None
    options = made.model_validate(values)
    plain = options.model_dump(mode="json", exclude_defaults=True)
    plain = plain if isinstance(plain, dict) else {"kind": plain}  # an order without options
    for name, field in family.model_fields.items():  # known to all readers, whatever the class has as default
        if (value := getattr(options, name)) != field.default:
            plain[name] = value
    told = {name: getattr(options, name) for name in family.tells}
    own = Own(code=code, told=told).model_dump(mode="json")
    return kept_class(family, json.dumps(own, sort_keys=True)).model_validate(plain | {"own": own})


def _is_kind(made: Any, family: type[Kind]) -> bool:
    return isinstance(made, type) and issubclass(made, family) and Kind not in made.__bases__


def _check_told(family: type[Kind], made: type[Kind]) -> None:
    """Refuse a class that lacks a label, or says a name of something that its family does not know.

    Raises:
        ValueError: the message names the class variable.
    """
    if not made.label:
        raise ValueError(f"{own_code.called(made)}: label: is missing; accepted: what texts call it")
    for variable, accepted in family.among.items():
        for name in getattr(made, variable):
            if name not in accepted:
                near = difflib.get_close_matches(str(name), accepted, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                listed = ", ".join(accepted)
                raise ValueError(f"{own_code.called(made)}: {variable}: found {name!r}{hint}; accepted: {listed}")


def shortest(values: dict[str, Any]) -> dict[str, Any] | str:
    """A part without options as the name of its kind; for the serializers of families that are read so too."""
    return str(values["kind"]) if list(values) == ["kind"] else values


def _place(made: type) -> str:
    return f"{made.__module__}.{made.__name__}"


def opened(part: Kind) -> Kind:
    """A part with its class: of an own kind its class is imported, others are returned as they are.

    Raises:
        ValueError: its code is missing, is not what the study was read with, or refuses the options.
    """
    if not isinstance(own := getattr(part, "own", None), Own):
        return part
    values = part.model_dump(mode="json", exclude_unset=True, exclude={"own"})
    try:
        made: Kind = own_code.load(part.kind, own.code).model_validate(values)
        return made
    except ValidationError as error:
        raise ValueError(f"{part.kind}: {'; '.join(map(str, of_validation(error, values)))}") from None


def imported(part: Kind) -> Kind | None:
    """The opened part, where its class is imported already: while the YAML is read, not where results are read."""
    own = getattr(part, "own", None)
    return opened(part) if own is None or own_code.imported(part.kind, own.code) else None


def implementation(part: Kind) -> Any:
    """What an opened part is built with.

    Raises:
        ValueError: it cannot be imported.
    """
    return own_code.implementation(part.implementation, type(part), part.kind)


def own_parts(study: BaseModel) -> Iterator[tuple[str, Own]]:
    """The own kinds of a study: each part's kind, and what is kept of its class."""
    for name in type(study).model_fields:
        yield from _own_parts(getattr(study, name))


def _own_parts(value: Any) -> Iterator[tuple[str, Own]]:
    if isinstance(value, BaseModel):
        if isinstance(own := getattr(value, "own", None), Own):
            yield str(getattr(value, "kind", "")), own
        yield from own_parts(value)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _own_parts(entry)


def own_kinds(study: BaseModel) -> str:
    """The own kinds of a study by name, for messages; empty where it has none."""
    return ", ".join(sorted({kind for kind, _ in own_parts(study)}))


def digests(study: BaseModel) -> set[str]:
    """Digests of the code of all own kinds of a study."""
    return {own.code for _, own in own_parts(study) if own.code}


def told(study: BaseModel) -> list[Any]:
    """What the own kinds of a study say of themselves, which those who show results read: labels and the like."""
    return [
        list(one) for one in sorted({(kind, json.dumps(own.told, sort_keys=True)) for kind, own in own_parts(study)})
    ]
