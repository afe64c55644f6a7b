"""Claims of the paper as checkable predicates, and how they are read; config/claims.yaml explains the predicates.

`mar/analysis/verdicts.py` decides claims by a study's numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from mar.paper.numbers import check_rows, paper_rows
from mar.study import layout
from mar.study.compatibility import known
from mar.study.kinds import Section
from mar.study.mistakes import Mistakes, describe
from mar.study.parts import Name
from mar.study.reading import MISTAKES, read
from mar.study.sections import Table
from mar.study.study import Study

Metric = Literal["fid", "inception_score", "precision", "recall", "agreement"]
# Recipes of the sides of a claim: `equal`, a side that trained on more images does not win by it; `published`, the
# claim is about models with a recipe each, so that a study on ImageNet says that one is longer, and decides.
Recipes = Literal["equal", "published"]


class Better(Section):
    """Row a beats row b in a metric."""

    kind: Literal["better"]
    table: Name
    metric: Metric
    guided: bool
    recipes: Recipes = "equal"
    a: Name
    b: Name


class Close(Section):
    """Row a has at most `within` times the FID, or the seconds per image, of row b.

    Below 1, `within` is the share to which a reduces that FID.
    """

    kind: Literal["close"]
    table: Name
    metric: Literal["fid", "seconds"]
    guided: bool
    a: Name
    b: Name
    within: float = Field(gt=0.0)


class Ordered(Section):
    """Each of the rows beats the one before it in a metric."""

    kind: Literal["ordered"]
    table: Name
    metric: Metric
    guided: bool
    recipes: Recipes = "equal"
    rows: tuple[Name, ...] = Field(min_length=2)


class Guidance(Section):
    """A row's guided samples beat its unguided ones.

    Where a study sweeps, the best samples with guidance are compared with the best ones without it. The guidance scale
    and temperature of both were chosen by FID on the samples of the sweep; the claim is decided on other samples, so
    that a lucky draw favours neither. The sweep drew from the weights of the first training seed, which are also among
    those that decide the claim.
    """

    kind: Literal["guidance"]
    table: Name
    metric: Metric
    row: Name


class Faster(Section):
    """Row a takes fewer seconds per image than row b."""

    kind: Literal["faster"]
    table: Name
    guided: bool
    a: Name
    b: Name


class Share(Section):
    """The head draws tokens for less than `below` of a row's sampling time."""

    kind: Literal["share"]
    table: Name
    guided: bool
    row: Name
    below: float = Field(gt=0.0, lt=1.0)


class Parameters(Section):
    """The head of a row's variant has less than `below` times as many parameters as the rest of the model."""

    kind: Literal["parameters"]
    table: Name
    row: Name
    below: float = Field(gt=0.0)


class Target(Section):
    """The FID of a row is at most `within` times the lowest FID that the paper prints for the rows `of`."""

    kind: Literal["target"]
    table: Name
    metric: Literal["fid"] = "fid"
    guided: bool
    row: Name
    of: tuple[Name, ...] = Field((), description="rows of other systems; without any, the row itself")
    within: float = Field(ge=1.0)

    @property
    def printed(self) -> float:
        """The lowest FID that the paper prints for these rows.

        Raises:
            ValueError: the paper prints none for one of them.
        """
        column, rows = "fid_cfg" if self.guided else "fid_nocfg", paper_rows(self.table)
        values = {row: rows[row].get(column, "") for row in self.of or (self.row,)}
        for row, value in values.items():
            if not value:
                raise ValueError(f"found row {row}, for which {self.table} prints no {column}; accepted: one with it")
        return min(map(float, values.values()))


class Published(Section):
    """The published weights of a row, sampled and judged here, have the number that the paper prints for it.

    Within the tolerance of the metric: honest repetitions by others have come to 2.21 where DiT prints FID 2.27, and to
    3.49 where VAR's README prints 3.55.
    """

    kind: Literal["published"]
    table: Name
    metric: Literal["fid", "inception_score", "precision", "recall"]
    guided: bool
    row: Name

    @property
    def column(self) -> str:
        """The column of the paper's table."""
        return f"{COLUMN[self.metric]}_{'cfg' if self.guided else 'nocfg'}"

    @property
    def printed(self) -> float:
        """The number that the paper prints.

        Raises:
            ValueError: it prints none.
        """
        value = paper_rows(self.table)[self.row].get(self.column, "")
        if not value:
            raise ValueError(
                f"found row {self.row}, for which {self.table} prints no {self.column}; accepted: one with it"
            )
        return float(value)


COLUMN = {"fid": "fid", "inception_score": "is", "precision": "pre", "recall": "rec"}  # in the paper's files
# How far a repetition with published weights may be from the printed number: shares of it, or differences.
TOLERANCE = {"fid": 0.05, "inception_score": 0.03, "precision": 0.02, "recall": 0.02}


class Rfid(Section):
    """The tokenizer of row a loses at most `within` times what that of row b loses: rFID less its floor."""

    kind: Literal["rfid"]
    table: Name
    a: Name
    b: Name
    within: float = Field(gt=0.0)


class Recovers(Section):
    """Diffusion Loss (row a) gains over cross-entropy (row b) what quantising loses, from `least` to `most` times that.

    The gain is FID of b less FID of a, without guidance. The loss is what the tokenizer of b loses, rFID less its
    floor, less what that of a loses. The claim holds if gain - least x loss > 0 and most x loss - gain > 0.
    """

    kind: Literal["recovers"]
    table: Name
    metric: Literal["fid"] = "fid"
    a: Name
    b: Name
    least: PositiveFloat
    most: PositiveFloat

    @model_validator(mode="after")
    def _check(self) -> Recovers:
        if self.least >= self.most:
            raise ValueError(f"least {self.least:g}; accepted: below most {self.most:g}")
        return self


class Law(Section):
    """Loss or error on held-out images falls with model size, or with training compute, by a power law.

    The row of the paper's laws says which; `mar/analysis/laws.py` says how it is fitted to the models of the study's
    `laws`.
    """

    kind: Literal["law"]
    table: Literal["var_laws"] = "var_laws"
    row: Name


class Fits(Section):
    """What models draw in a zero-shot task fits its surroundings better than what they draw for other images.

    `mar/analysis/tasks.py` says how it is judged, for each model of the study's `tasks`.
    """

    kind: Literal["fits"]
    task: Literal["in-painting", "out-painting"]


class Improves(Section):
    """The last point of a curve beats its first, and no point is worse than the one before it."""

    kind: Literal["improves"]
    metric: Metric
    curve: str


class Dominates(Section):
    """For each point of curve b, some point of curve a is both faster and better."""

    kind: Literal["dominates"]
    metric: Metric
    a: str
    b: str


class Reaches(Section):
    """A point of a trade-off curve has a FID below `fid` in less than `seconds` per image."""

    kind: Literal["reaches"]
    curve: str
    fid: PositiveFloat
    seconds: PositiveFloat


class Saturates(Section):
    """From `at` diffusion steps on, no point of a curve improves FID by more than the factor `within`."""

    kind: Literal["saturates"]
    metric: Literal["fid"]
    curve: str
    at: PositiveInt
    within: float = Field(gt=1.0)


class Optimum(Section):
    """A temperature inside the range of a curve beats both ends of it."""

    kind: Literal["optimum"]
    metric: Metric
    curve: str


class All(Section):
    """Each of other claims holds."""

    kind: Literal["all"]
    claims: tuple[Name, ...] = Field(min_length=2)


OfRows = Better | Close | Ordered | Guidance | Faster | Share | Parameters | Target | Published | Rfid | Recovers | Law
OfCurves = Improves | Dominates | Reaches | Saturates | Optimum
Check = OfRows | OfCurves | Fits | All


class Claim(Section):
    """One claim of the paper in our words, and the predicate that decides it.

    Attributes:
        id: name of the claim.
        text: the claim in our words.
        source: where the paper makes it.
        decides: which studies decide it: any, or only one on ImageNet with Inception as its extractor.
        because: why no other study decides it; needed with `imagenet`, and only there.
        check: the predicate.
    """

    id: Name
    text: str
    source: str
    decides: Literal["any", "imagenet"] = "any"
    because: str | None = None
    check: Annotated[Check, Field(discriminator="kind")]

    @model_validator(mode="after")
    def _check(self) -> Claim:
        if (self.decides == "any") != (self.because is None):
            raise ValueError(f"because belongs to decides: imagenet and is needed there; found decides {self.decides}")
        if isinstance(self.check, Target | Published) and self.decides == "any":
            raise ValueError(f"kind {self.check.kind} compares with numbers of the paper; accepted: decides: imagenet")
        return self


class Claims(Section):
    """The root of a claims file."""

    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _check(self) -> Claims:
        ids = [claim.id for claim in self.claims]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f"claim {name}: id: {ids.count(name)} claims have it; accepted: one")
        single = [claim.id for claim in self.claims if not isinstance(claim.check, All)]
        for claim in self.claims:
            others = claim.check.claims if isinstance(claim.check, All) else ()
            if len(set(others)) < len(others):
                raise ValueError(f"claim {claim.id}: check.claims: found {', '.join(others)}; accepted: each once")
            for name in others:
                if name not in single:
                    raise ValueError(f"claim {claim.id}: check.claims: found {name!r}; accepted: {', '.join(single)}")
        return self


def load(path: str | Path) -> tuple[Claim, ...]:
    """Read a claims file.

    Raises:
        ValueError: the file cannot be read, a key of a claim is not accepted, or a claim names a row that the paper's
            table does not have. The message names the claim and the key.
    """
    path = Path(path)
    try:
        values = read(path, "a mapping with the key claims")
        claims = Claims.model_validate(values).claims
    except ValidationError as error:
        found = [_describe(path, values, e) for e in error.errors()]
        more = [f"{path}: and {len(found) - MISTAKES} more mistakes"] if len(found) > MISTAKES else []
        raise ValueError("\n".join(found[:MISTAKES] + more)) from None
    for claim in claims:
        table = getattr(claim.check, "table", None)
        rows = paper_rows(table, f"{path}: claim {claim.id}: check.table: ") if table else {}
        _check_rows(claim, list(rows), f"{path}: claim {claim.id}: ")
    return claims


def own(study: Study) -> tuple[Claim, ...]:
    """The claims of a study's own.

    Raises:
        MistakesError: a key of one is not accepted, or it names a row or curve that the study does not have.
    """
    mistakes, found = Mistakes(), list[Claim]()
    taken = {claim.id for claim in load(layout.shipped("claims.yaml"))} if study.claims else set()
    for i, said in enumerate(study.claims):
        with mistakes.at("claims", i):
            if said.id in taken:
                raise ValueError(f"claims[{i}].id: found {said.id!r}, a claim of the paper or above; accepted: another")
            taken.add(said.id)
            try:
                claim = Claim.model_validate(said.model_dump())
            except ValidationError as error:
                where = [(".".join(str(p) for p in e["loc"] if p != said.check.get("kind")), e) for e in error.errors()]
                raise ValueError("; ".join(f"claims[{i}].{at}: {describe(e)}" for at, e in where)) from None
            _check_own(claim, study, f"claims[{i}].")
            found.append(claim)
    mistakes.refuse()
    return tuple(found)


def _check_own(claim: Claim, study: Study, where: str) -> None:
    """Refuse a claim on what the study does not have."""
    if isinstance(claim.check, All):
        raise ValueError(f"{where}check.kind: found 'all'; accepted: a predicate on rows or curves")
    if table := getattr(claim.check, "table", None):
        tables = {of.paper or name: of for name, of in study.tables.items()}
        known(f"{where}check.table", table, tables)
        rows = [r.key for name, of in study.tables.items() if (of.paper or name) == table for r in of.rows]
        _check_rows(claim, rows, where)
        _check_settings(claim, tables[table], where)
    for key in ("curve", "a", "b") if table is None else ():
        if (label := getattr(claim.check, key, None)) is not None:
            figures = {Saturates: study.diffusion_steps, Optimum: study.temperature}
            curves = figures.get(type(claim.check), study.tradeoff)
            known(f"{where}check.{key}", label, [curve.label for curve in curves])


def _check_settings(claim: Claim, table: Table, where: str) -> None:
    """Refuse a claim on rows that are drawn, but not with the guidance that the claim asks about."""
    guided = getattr(claim.check, "guided", None)
    named = {getattr(claim.check, key, None) for key in ("a", "b", "row")} | {*getattr(claim.check, "rows", ())}
    key, other = ("guided", "without") if guided else ("without", "guided")
    for row in table.rows if guided is not None else ():
        if row.key in named and getattr(row, other) and not getattr(row, key):
            found = f"found {str(guided).lower()}, and row {row.key!r} has a setting for {other!r} alone"
            raise ValueError(f"{where}check.guided: {found}; accepted: {str(not guided).lower()}, or a setting {key!r}")


def check(study: Study) -> None:
    """Refuse a study whose tables or own claims name what is not there.

    Raises:
        MistakesError: the message has the key of the study.
    """
    check_rows(study)
    own(study)


def _check_rows(claim: Claim, rows: list[str], where: str) -> None:
    """Refuse a claim that names a row which its table does not have."""
    table = getattr(claim.check, "table", None)
    named = {key: getattr(claim.check, key, None) for key in ("a", "b", "row")}
    if named["a"] is not None and named["a"] == named["b"]:
        raise ValueError(f"{where}check.b: found {named['b']!r}, which is a too; accepted: another")
    for many in ("rows", "of"):
        if len(set(several := getattr(claim.check, many, ()))) < len(several):
            raise ValueError(f"{where}check.{many}: found {list(several)}; accepted: each once")
        named |= {f"{many}[{i}]": row for i, row in enumerate(getattr(claim.check, many, ()))}
    for key, row in named.items():
        if table and row is not None and row not in rows:
            raise ValueError(f"{where}check.{key}: found {row!r}; accepted: {', '.join(rows)}")
    if isinstance(claim.check, Target | Published):
        try:
            _ = claim.check.printed
        except ValueError as error:
            raise ValueError(f"{where}check: {error}") from None


def _describe(path: Path, values: Any, error: Any) -> str:
    loc = list(error["loc"])
    where = f"{path}: "
    if loc[:1] == ["claims"] and len(loc) > 1 and isinstance(loc[1], int):
        entry = values["claims"][loc[1]]
        where += f"claim {entry.get('id', loc[1]) if isinstance(entry, dict) else loc[1]}: "
        # pydantic puts the kind of the predicate between `check` and its key
        loc = [part for i, part in enumerate(loc[2:]) if not (i == 1 and loc[2] == "check")]
    return f"{where}{'.'.join(map(str, loc)) + ': ' if loc else ''}{describe(error)}"
