"""Settings of a machine as resources of the workflow: their names, what each becomes, and a check for mistakes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

# Resource: option of `mar launch`, and the value that means that nobody set it.
LAUNCH: dict[str, tuple[str, str | int]] = {
    "launcher": ("--cluster", "local"),
    "slurm_partition": ("--slurm-partition", ""),
    "slurm_account": ("--slurm-account", ""),
    "qos": ("--slurm-qos", ""),
    "constraint": ("--slurm-constraint", ""),
    "nodes": ("--slurm-nodes", 0),
    "gpus_per_node": ("--slurm-gpus-per-node", 0),
    "cpus_per_task": ("--slurm-cpus-per-task", 0),
    "runtime": ("--slurm-time", 0),  # minutes
    "mem_mb": ("--slurm-mem", 0),
    "slurm_signal": ("--slurm-signal", 0),  # seconds
    "slurm_extra": ("--slurm-extra", ""),
    "shards": ("--slurm-shards", 0),
}
# Snakemake's own, and how many jobs wait at once.
OTHERS = {"cluster_jobs", "mem", "mem_mib", "disk", "disk_mb", "disk_mib", "tmpdir"}


def options() -> str:
    """The options of `mar launch`, with resources to be filled in by a rule's shell line."""
    return " ".join(
        f"{option}={{resources.{name}{':q' if isinstance(unset, str) else ''}}}"
        for name, (option, unset) in LAUNCH.items()
    )


def check(defaults: Mapping[str, Any], by_rule: Mapping[str, Iterable[str]]) -> None:
    """Refuse settings that would have no effect.

    Args:
        defaults: values of `default-resources`.
        by_rule: names of the resources that `set-resources` gives each rule.

    Raises:
        ValueError: a name that nothing reads, or settings of Slurm where the launcher is another.
    """
    for place, names in [
        ("default-resources", defaults),
        *((f"set-resources: {rule}", n) for rule, n in by_rule.items()),
    ]:
        for name in names:
            known(place, name, {*LAUNCH, *OTHERS})
    launcher = defaults.get("launcher", "local")
    # mem_mb is left out: Snakemake gives it a value of its own
    given = [name for name in LAUNCH if name not in ("launcher", "mem_mb") and defaults.get(name)]
    if launcher != "slurm" and given:
        raise ValueError(
            f"default-resources: found {', '.join(given)} with launcher {launcher!r}, which runs on this machine; "
            "a later --profile replaces default-resources as a whole: repeat `launcher: slurm` there (slurm/README.md)"
        )


def known(place: str, name: str, names: Iterable[str]) -> None:
    """Refuse a name that is none of `names`.

    Raises:
        ValueError: with the nearest name.
    """
    if name not in (names := sorted(names)):
        near = difflib.get_close_matches(name, names, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{place}: unknown name {name!r}{hint}; accepted: {', '.join(names)}")
