"""Which parts of a study fit together: combinations that do not are refused here when the study is read."""

from __future__ import annotations

from typing import Any

from mar.study.kinds import imported
from mar.study.mistakes import UnknownName, listed
from mar.study.parts import HONOURED, SOLVED, Ancestral, Backbone, Head, Sampling, Solver


def check_sampling(at: str, sampling: Sampling, backbone: Backbone, head: Head, name: str, tokens: int) -> None:
    """Refuse a setting that this backbone or head cannot honour: without effect, it would label numbers wrongly.

    Args:
        at: the variant and the setting, as they begin a message.
        sampling: the setting.
        backbone: the backbone of the variant.
        head: the head of the variant.
        name: the name of the head.
        tokens: length L of a sequence.

    Raises:
        ValueError: the setting does not fit.
    """
    if sampling.kv_cache and not backbone.caches:
        raise ValueError(f"{at}.kv_cache true with a {backbone.kind} backbone: attends both ways; accepted: false")
    if backbone.single and sampling.steps != tokens:
        raise ValueError(
            f"{at}.steps {sampling.steps}: a {backbone.kind} backbone takes one token a step; accepted: {tokens}"
        )
    if sampling.steps > tokens:
        raise ValueError(f"{at}.steps {sampling.steps}: {tokens} tokens; accepted: 1 to {tokens}")
    if sampling.order == "confidence" and not (head.sure and backbone.masks):
        raise ValueError(
            f"{at}.order confidence with a {head.kind} head on a {backbone.kind} backbone: only a categorical head "
            "says how sure it is, and only a masked backbone takes any order; accepted: none"
        )
    for key in ("order", "late_steps", "token_cache", "condition_cache"):
        if not backbone.masks and (value := getattr(sampling, key)) is not None:
            raise ValueError(f"{at}.{key} {value} with a {backbone.kind} backbone: belongs to masked; accepted: none")
    if sampling.more_smooth and not backbone.by_scale:
        raise ValueError(f"{at}.more_smooth true with a {backbone.kind} backbone: belongs to scales; accepted: false")
    if sampling.condition_cache and sampling.guidance == 1.0:
        raise ValueError(
            f"{at}.condition_cache {sampling.condition_cache} without guidance: there is no null condition; "
            "accepted: none, or a guidance above 1"
        )
    if sampling.late_steps and max(sampling.late_steps, sampling.steps - sampling.late_steps) > tokens // 2:
        raise ValueError(
            f"{at}.late_steps {sampling.late_steps} of steps {sampling.steps}: each half of {tokens} tokens has "
            f"{tokens // 2}; accepted: at most as many steps for each"
        )
    _check_solver(at, sampling, head)
    try:
        if isinstance(known_head := imported(head), Head):  # else it was checked when the YAML was read
            known_head.drawing(sampling)
    except ValueError as error:
        raise ValueError(f"{at}.{error}") from None
    for key, idle in HONOURED.items():
        if key not in head.honours and (value := getattr(sampling, key)) != idle:
            kinds: dict[str, Any] = dict(Head.kinds)
            others = ", ".join(name for name, kind in kinds.items() if key in kind.honours)
            own = f", or {key!r} in its honours" if hasattr(head, "own") else ""
            raise ValueError(
                f"{at}.{key} {value} with a {head.kind} head: belongs to {others}; accepted: "
                f"{'none' if idle is None else idle}{own}"
            )
    for key in head.needed:
        if getattr(sampling, key) is None:
            raise ValueError(f"{at}.{key} is needed by head {name}; published: 100, DiT 250")
    if head.joint and sampling.guidance_schedule != "constant" and sampling.guidance != 1.0:
        raise ValueError(f"{at}.guidance_schedule {sampling.guidance_schedule} with DiT: one step; accepted: constant")


def _check_solver(at: str, sampling: Sampling, head: Head) -> None:
    """Refuse a solver of another kind of process than that of the head, and what it does not honour."""
    usual = Solver.of(kind=head.usual) if head.usual else None
    if sampling.solver and "solver" not in head.honours:
        named: dict[str, Any] = dict(Head.kinds)
        solved = {name: Solver.of(kind=kind.usual).follows for name, kind in named.items() if kind.usual}
        others = ", ".join(name for name, follows in solved.items() if follows == sampling.solver.follows)
        found = f"{at}.solver {sampling.solver} with a {head.kind} head"
        raise ValueError(f"{found}: belongs to {others}; accepted: none")
    solver = head.solver(sampling)
    if solver is None or usual is None:
        return
    said = "solver" in sampling.model_fields_set and sampling.solver is None and not isinstance(usual, Ancestral)
    if solver.follows != usual.follows or said:
        kinds = [name for name in Solver.kinds if Solver.of(kind=name).follows == usual.follows]
        found = f"{at}.solver {'ancestral' if said else solver} with a {head.kind} head"
        raise ValueError(f"{found}: follows no {usual.follows}; accepted: {', '.join(kinds)}, or a class of yours")
    for key in SOLVED:
        if key in head.honours and key not in solver.honours and (value := getattr(sampling, key)) != HONOURED[key]:
            idle = "none" if HONOURED[key] is None else HONOURED[key]
            raise ValueError(f"{at}.{key} {value} with solver {solver}: without effect; accepted: {idle}")


def known(where: str, name: str, accepted: Any) -> Any:
    """The entry of that name.

    Raises:
        UnknownName: there is none; the message says where the name stands and which names are accepted.
    """
    if name not in accepted:
        raise UnknownName(f"{where}: found {name!r}; accepted: {listed(accepted, name)}", name)
    return accepted[name] if isinstance(accepted, dict) else name
