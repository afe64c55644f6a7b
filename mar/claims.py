"""Claims of the paper as checkable predicates, judged by a study's numbers (vocabulary: config/claims.yaml)."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from mar.config import Name, Section, Study
from mar.estimates import LOWER_IS_BETTER, Comparison, Estimate, Results, short
from mar.files import write_json
from mar.tables import COLUMNS, paper_rows, printed

Metric = Literal["fid", "inception_score", "precision", "recall", "agreement"]
Cell = tuple[str, str]  # variant, setting


class Better(Section):
    """Row a beats row b in a metric."""

    kind: Literal["better"]
    table: Name
    metric: Metric
    guided: bool
    a: Name
    b: Name


class Close(Section):
    """Row a has at most `within` times the FID of row b."""

    kind: Literal["close"]
    table: Name
    metric: Literal["fid"]
    guided: bool
    a: Name
    b: Name
    within: float = Field(gt=1.0)


class Guidance(Section):
    """A row's guided setting beats its unguided one."""

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


class Improves(Section):
    """The last point of a curve beats its first, and no point is worse than the one before it."""

    kind: Literal["improves"]
    metric: Metric
    curve: str


class Dominates(Section):
    """For each point of curve b, a point of curve a is faster and better."""

    kind: Literal["dominates"]
    metric: Metric
    a: str
    b: str


Check = Better | Close | Guidance | Faster | Improves | Dominates


class Claim(Section):
    """One claim of the paper, in our words, and what decides it."""

    id: Name
    text: str
    source: str
    check: Annotated[Check, Field(discriminator="kind")]


class Claims(Section):
    """The root of a claims file."""

    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _check(self) -> Claims:
        ids = [claim.id for claim in self.claims]
        for name in ids:
            if ids.count(name) > 1:
                raise ValueError(f"claim {name}: id: {ids.count(name)} claims have it; accepted: one")
        return self


def load(path: str | Path) -> tuple[Claim, ...]:
    """Read a claims file.

    Raises:
        ValueError: it cannot be read, or names the claim and key that say what is not accepted, or a row that
            the paper's table does not have.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text())
        claims = Claims.model_validate(values).claims
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no valid YAML: {error}") from None
    except ValidationError as error:
        raise ValueError("\n".join(_describe(path, values, e) for e in error.errors())) from None
    for claim in claims:
        table = getattr(claim.check, "table", None)
        rows = paper_rows(table, f"{path}: claim {claim.id}: check.table: ") if table else {}
        for key in ("a", "b", "row"):
            row = getattr(claim.check, key, None)
            if table and row is not None and row not in rows:
                raise ValueError(f"{path}: claim {claim.id}: check.{key}: found {row!r}; accepted: {', '.join(rows)}")
    return claims


def judge(study: Study, root: Path, claims_file: str | Path) -> list[dict[str, Any]]:
    """Judge every claim, write claims.json and return its content.

    An entry: id, text, source, verdict (replicated, not replicated, inconclusive, not run), effect with low and high
    (`scale` says log ratio or difference; null where nothing was compared), reason, seeds of both sides.

    Raises:
        ValueError: the claims file is not accepted, or a metric or speed file of a trained variant is missing.
    """
    results = Results(study, root)
    verdicts = [_judge(claim, results) for claim in load(claims_file)]
    write_json(Path(root) / "claims.json", verdicts)
    print(f"{Path(root) / 'claims.json'}: {len(verdicts)} claims", flush=True)
    return verdicts


def _judge(claim: Claim, results: Results) -> dict[str, Any]:
    check = claim.check
    if isinstance(check, Dominates):
        return _entry(claim, *_dominates(check, results))
    if isinstance(check, Improves):
        return _entry(claim, *_improves(check, results))
    guided = getattr(check, "guided", False)
    if isinstance(check, Guidance):
        a, b = _cell(results, check.table, check.row, True), _cell(results, check.table, check.row, False)
    else:
        a, b = _cell(results, check.table, check.a, guided), _cell(results, check.table, check.b, guided)
    metric = "seconds" if isinstance(check, Faster) else check.metric
    edge = math.log(check.within) if isinstance(check, Close) else 0.0
    comparison = results.compare(a, b, metric, edge) if a and b else None
    if comparison is None:
        return _entry(claim, "not run", None, "the study does not train what this compares")
    if isinstance(check, Close):
        below, above = comparison.high < edge, comparison.low > edge
        verdict = _verdict(comparison.trusted and below, comparison.trusted and above)
    else:
        verdict = _verdict(comparison.better, comparison.worse)
    reason = _reason(comparison, verdict) + _published(check) + _unequal(results.study, a, b)
    if isinstance(check, Close):
        reason += f"; accepted up to ratio {short(check.within)}"
    return _entry(claim, verdict, comparison, reason)


def _improves(check: Improves, results: Results) -> tuple[str, Comparison | None, str]:
    curve = _curve(results, check.curve)
    if len(curve) < 2:
        return "not run", None, f"the study has no curve {check.curve!r} of two points"
    whole = results.compare(curve[-1], curve[0], check.metric)
    steps = [results.compare(b, a, check.metric) for a, b in itertools.pairwise(curve)]
    if whole is None:
        return "not run", None, "the study does not train this curve"
    back = [curve[i + 1][1] for i, step in enumerate(steps) if step is not None and step.worse]
    verdict = _verdict(whole.better and not back, whole.worse or bool(back))
    reason = f"{curve[-1][1]} against {curve[0][1]}: " + _reason(whole, verdict)
    return verdict, whole, reason + (f"; worse than the point before: {', '.join(back)}" if back else "")


def _dominates(check: Dominates, results: Results) -> tuple[str, Comparison | None, str]:
    ours, theirs = _curve(results, check.a), _curve(results, check.b)
    verdicts, reasons, shown = [], [], None
    for b in theirs:
        pairs = []
        for a in ours:
            speed, quality = results.compare(a, b, "seconds"), results.compare(a, b, check.metric)
            if speed is not None and quality is not None:
                pairs.append((a, speed, quality))
        if not pairs:
            return "not run", None, "the study does not train both curves"
        sign = 1 if check.metric in LOWER_IS_BETTER else -1
        # the point to show: the best of those that are faster, else the fastest
        faster = [p for p in pairs if p[1].better]
        a, speed, quality = (
            min(faster, key=lambda p: sign * p[2].effect) if faster else min(pairs, key=lambda p: p[1].effect)
        )
        verdicts.append(
            _verdict(any(q.better and s.better for _, s, q in pairs), all(q.worse or s.worse for _, s, q in pairs))
        )
        shown = quality
        reasons.append(
            f"{a[1]} against {b[1]}: {_reason(quality, verdicts[-1])}; seconds per image {speed.a} against {speed.b}"
            + _unequal(results.study, a, b)
        )
    if not verdicts:
        return "not run", None, f"the study has no curve {check.b!r}"
    every, none = all(v == "replicated" for v in verdicts), "not replicated" in verdicts
    return _verdict(every, none), shown, "; ".join(reasons)


def _verdict(holds: bool, fails: bool) -> str:
    return "replicated" if holds else "not replicated" if fails else "inconclusive"


def _reason(c: Comparison, verdict: str) -> str:
    label = {"fid": "FID", "inception_score": "IS", "seconds": "seconds per image"}.get(c.metric, c.metric)
    text = f"{label} {c.a} against {c.b}, {c}"
    if c.metric == "seconds":
        return text
    seeds = sorted({len(c.a.seeds), len(c.b.seeds)})
    text += f", {' and '.join(map(str, seeds))} seed{'s' if seeds != [1] else ''} a side"
    if c.few and not c.far and verdict == "inconclusive":
        return f"inconclusive (1 seed): {text}"
    return text + (", far outside the measured seed spread" if c.few and c.far else "")


def _unequal(study: Study, a: Cell | None, b: Cell | None) -> str:
    """A caveat where the two sides did not see equally many images in training."""
    if a is None or b is None:
        return ""
    ours, theirs = (study.recipes[study.variants[variant].recipe].images for variant, _ in (a, b))
    return "" if ours == theirs else f"; trained on {ours} against {theirs} images"


def _published(check: Check) -> str:
    """The paper's two numbers, where its table prints them."""
    if isinstance(check, Improves | Dominates | Faster):
        return ""
    rows = paper_rows(check.table)
    column = {(metric, guided): paper for _, metric, guided, paper in COLUMNS}
    if isinstance(check, Guidance):
        wanted = [(check.row, True), (check.row, False)]
    else:
        wanted = [(check.a, check.guided), (check.b, check.guided)]
    values = [printed(rows[row].get(column.get((check.metric, g), ""), ""), check.metric) for row, g in wanted]
    return f"; the paper: {values[0]} against {values[1]}" if all(values) else ""


def _cell(results: Results, paper: str, row: str, guided: bool) -> Cell | None:
    """The study's answer to a row of the paper, from the first of its tables that has the row."""
    for table in results.study.tables.values():
        for ours in table.rows:
            if table.paper == paper and ours.paper == row:
                return ours.variant, ours.guided if guided else ours.without
    return None


def _curve(results: Results, label: str) -> list[Cell]:
    curves = [c for c in results.study.tradeoff if c.label == label]
    return [(c.variant, setting) for c in curves for setting in c.sampling]


def _entry(claim: Claim, verdict: str, comparison: Comparison | None, reason: str) -> dict[str, Any]:
    numbers: dict[str, Any] = dict.fromkeys(("effect", "low", "high", "scale"))
    sides: tuple[Estimate, ...] = ()
    if comparison is not None:
        numbers = {"effect": comparison.effect, "low": comparison.low, "high": comparison.high}
        numbers["scale"] = "log ratio" if comparison.log else "difference"
        sides = (comparison.a, comparison.b)
    said = {"id": claim.id, "text": claim.text, "source": claim.source, "verdict": verdict}
    return said | numbers | {"reason": reason, "seeds": [len(side.seeds) for side in sides]}


def _describe(path: Path, values: Any, error: Any) -> str:
    loc, message = list(error["loc"]), error["msg"].removeprefix("Value error, ")
    where = f"{path}: "
    if loc[:1] == ["claims"] and len(loc) > 1 and isinstance(loc[1], int):
        entry = values["claims"][loc[1]]
        where += f"claim {entry.get('id', loc[1]) if isinstance(entry, dict) else loc[1]}: "
        # pydantic puts the kind of the predicate between `check` and its key
        loc = [part for i, part in enumerate(loc[2:]) if not (i == 1 and loc[2] == "check")]
    found = "" if error["type"] in ("value_error", "missing") else f"; found {error['input']!r}"
    return f"{where}{'.'.join(map(str, loc)) + ': ' if loc else ''}{message}{found}"
