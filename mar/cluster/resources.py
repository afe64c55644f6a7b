"""What the jobs of the workflow ask of a machine: their names as resources, what each stage needs, and who says so.

Of four sayings of one resource the later wins:

1. `STAGES`, the table of what each stage needs;
2. `default-resources` of a profile;
3. `resources` of the study's variants, for their trainings;
4. `set-resources` of a profile or of the command line, for one rule.

Snakemake replaces all of `set-resources` by that of the last profile which has one. So what ships is a table here and
no entry of a profile: a site that sets one rule leaves the others as they are. `python -m mar.cluster.resources` prints
the table as slurm/README.md has it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

# Resource: option of `mar launch`, and the value that means that nobody set it.
LAUNCH: dict[str, tuple[str, str | int]] = {
    "launcher": ("--cluster", "local"),
    "gpu": ("--gpus", 0),  # of this machine, for launchers other than slurm
    "slurm_partition": ("--slurm-partition", ""),
    "slurm_account": ("--slurm-account", ""),
    "qos": ("--slurm-qos", ""),
    "constraint": ("--slurm-constraint", ""),
    "nodes": ("--slurm-nodes", 0),
    "gpus_per_node": ("--slurm-gpus-per-node", 0),
    "slurm_gres": ("--slurm-gres", ""),
    "cpus_per_task": ("--slurm-cpus-per-task", 0),
    "runtime": ("--slurm-time", 0),  # minutes
    "mem_mb": ("--slurm-mem", 0),
    "slurm_signal": ("--slurm-signal", 0),  # seconds
    "slurm_setup": ("--slurm-setup", ""),
    "slurm_python": ("--slurm-python", ""),
    "slurm_srun_args": ("--slurm-srun-args", ""),
    "slurm_extra": ("--slurm-extra", ""),
    "device": ("--slurm-device", ""),
    "shards": ("--slurm-shards", 0),
}
# Snakemake's own, and how many jobs wait at once: trainings, and others.
OTHERS = {"cluster_jobs", "cluster_trainings", "mem", "mem_mib", "disk", "disk_mb", "disk_mib", "tmpdir"}
UNSET = {name: unset for name, (_, unset) in LAUNCH.items()}
LAUNCHERS = ("local", "debug", "slurm")  # values of `launcher`
WORDS = frozenset({"slurm_partition", "slurm_account", "qos", "constraint", "slurm_gres"})
NUMBERS = frozenset(name for name, unset in UNSET.items() if isinstance(unset, int))


class Ask(NamedTuple):
    """What a job of one rule asks for on one node.

    Attributes:
        gpus: GPUs, with a task for each; 0 is one task without a GPU.
        hours: time limit. What is not finished then goes on in the next job.
        cores: cores of a task.
        memory: gigabytes of main memory of a task.
    """

    gpus: int
    hours: int
    cores: int
    memory: int


# By rule. A day is what many partitions give. `rfid`, `speed` and a point of a sweep start anew in each job, and the
# longest of the shipped ImageNet studies is estimated at 16 hours of an A100. Metrics are sums and distances of
# features in numpy: no GPU.
STAGES: dict[str, Ask] = {
    "classifier": Ask(gpus=1, hours=4, cores=8, memory=32),
    "rejecter": Ask(gpus=1, hours=4, cores=8, memory=32),
    "features_real": Ask(gpus=1, hours=24, cores=16, memory=64),
    "tokenizer": Ask(gpus=1, hours=24, cores=16, memory=64),
    "rfid": Ask(gpus=1, hours=24, cores=16, memory=64),
    "encode": Ask(gpus=1, hours=24, cores=16, memory=64),
    "train": Ask(gpus=1, hours=24, cores=8, memory=24),
    "sweep": Ask(gpus=1, hours=24, cores=8, memory=64),
    "sample": Ask(gpus=1, hours=24, cores=8, memory=32),
    "learning": Ask(gpus=1, hours=24, cores=8, memory=64),
    "tasks": Ask(gpus=1, hours=24, cores=8, memory=64),
    "features": Ask(gpus=1, hours=8, cores=8, memory=32),
    "reference": Ask(gpus=0, hours=8, cores=8, memory=64),
    "evaluate": Ask(gpus=0, hours=8, cores=8, memory=64),
    "speed": Ask(gpus=1, hours=24, cores=8, memory=32),
}


def asked(
    rule: str,
    defaults: Mapping[str, Any],
    by_rule: Mapping[str, Mapping[str, Any]],
    study: Mapping[str, Any],
    limits: Iterable[str] = (),
) -> dict[str, Any]:
    """Every resource of LAUNCH for a job of a rule.

    Args:
        rule: one of STAGES.
        defaults: values of `default-resources`. A text in place of a number is an expression, which Snakemake evaluates
            when the job starts; its own one for the memory is passed over.
        by_rule: values of `set-resources`, by rule.
        study: what the study says of this training, which may be nothing.
        limits: names of the resources that `resources` limits for all jobs together. With `gpu` among them, a job on
            this machine takes as many GPUs of its own as its rule needs, or as `set-resources` says.
    """
    own, needs = by_rule.get(rule, {}), STAGES[rule]
    launcher = own.get("launcher", defaults.get("launcher", UNSET["launcher"]))
    if launcher != "slurm":
        device = {"device": defaults["device"]} if "device" in defaults else {}
        return UNSET | {"launcher": launcher, "gpu": needs.gpus if "gpu" in limits else 0} | device | dict(own)
    said = {name: defaults[name] for name in LAUNCH if name in defaults}
    if not isinstance(said.get("mem_mb", 0), int):
        del said["mem_mb"]
    if not needs.gpus:
        said.pop("gpus_per_node", None)  # the default of the site is for stages that use a GPU
    values = UNSET | {"gpus_per_node": needs.gpus, "runtime": 60 * needs.hours, "cpus_per_task": needs.cores} | said
    values |= {**study, **own}
    if "mem_mb" not in said and "mem_mb" not in own:
        gpus = values["gpus_per_node"]
        values["mem_mb"] = 1000 * needs.memory * max(1, gpus if isinstance(gpus, int) else 1)
    return values


def number_of_gpus(values: Mapping[str, Any]) -> int | None:
    """GPUs of a job that asks for `values`; None where one of its factors is an expression."""
    if values["launcher"] != "slurm":
        return values["gpu"] if isinstance(values["gpu"], int) else None
    nodes, gpus = values["nodes"] or 1, values["gpus_per_node"]
    return nodes * gpus if isinstance(nodes, int) and isinstance(gpus, int) else None


def check_jobs(jobs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse jobs of Slurm that would end at once or compute on a CPU: all of them in one message.

    Args:
        jobs: what a job of each rule asks for (`asked`).

    Raises:
        ValueError: some have no time limit, or no GPU and do not say `device: cpu`; or more GPUs than one, which only a
            training uses; or a device that there is not.
    """
    on_slurm = {rule: values for rule, values in jobs.items() if values["launcher"] == "slurm"}
    for rule, values in jobs.items():
        if rule not in on_slurm and rule != "train" and number_of_gpus(values) not in (0, 1):
            raise ValueError(
                f"set-resources: {rule}: gpu={values['gpu']}, and only `train` uses more than one; accepted: 0, 1"
            )
    faults = []

    def gather(what: str, remedy: str, wrong: Callable[[str, Mapping[str, Any]], bool]) -> None:
        if names := [rule for rule, values in on_slurm.items() if wrong(rule, values)]:
            faults.append(f"{', '.join(names)}: {what}; accepted: {remedy}")

    gather(
        "no time limit",
        "`runtime` in minutes, at most the longest that the partition gives",
        lambda rule, values: not values["runtime"],
    )
    gather(
        "no GPU",
        "`gpus_per_node` of 1 or more, on a partition that has GPUs; or `device: cpu`, which computes without one",
        lambda rule, values: bool(STAGES[rule].gpus) and not values["gpus_per_node"] and values["device"] != "cpu",
    )
    gather(
        "more than one GPU, and only `train` uses more",
        "`gpus_per_node: 1` without `nodes`; numbers for trainings belong to `set-resources: {train: ...}`",
        lambda rule, values: rule != "train" and (number_of_gpus(values) or 0) > 1,
    )
    gather(
        "an unknown device",
        "`device: cuda` or `device: cpu`",
        lambda rule, values: values["device"] not in ("", "cuda", "cpu"),
    )
    if faults:
        raise ValueError(
            "launcher slurm: " + "; ".join(faults) + ". Say so in `default-resources` for all rules, or in "
            "`set-resources` for one (slurm/README.md)"
        )


def check_shares(where: str, gpus: int | None, micro_batches: int, recipe: str) -> None:
    """Refuse a number of GPUs among which the micro-batches of a step cannot be shared equally.

    Args:
        where: the training, for the message.
        gpus: their number; None if it is not known before the job starts.
        micro_batches: micro-batches of a step.
        recipe: their origin, for the message.

    Raises:
        ValueError: with the numbers that are accepted.
    """
    if gpus is None or (gpus > 0 and micro_batches % gpus):
        found = "an expression for nodes or gpus_per_node" if gpus is None else f"{gpus} GPUs"
        fit = [str(n) for n in range(1, micro_batches + 1) if micro_batches % n == 0]
        raise ValueError(
            f"{where}: {found}, and a step has {micro_batches} micro-batches ({recipe}), which GPUs share equally; "
            f"accepted: nodes x gpus_per_node = {', '.join(fit)}; on one machine gpu of these; "
            "or another micro_batch, which changes what is trained"
        )


def options() -> str:
    """The options of `mar launch`, with resources to be filled in by a rule's shell line."""
    return " ".join(
        f"{option}={{resources.{name}{':q' if isinstance(unset, str) else ''}}}"
        for name, (option, unset) in LAUNCH.items()
    )


def _check_word(where: str, name: str, value: str) -> None:
    """Refuse what would be refused when the first job starts, which may be hours later."""
    if name == "launcher" and value not in LAUNCHERS:
        raise ValueError(f"{where}: found {value!r}; accepted: {', '.join(LAUNCHERS)}")
    if name in WORDS and not re.fullmatch(r"[^\s'\"`$\\;<>]*", value):
        raise ValueError(f"{where}: found {value!r}; accepted: a word without blanks, quotes and signs of the shell")


def check(defaults: Mapping[str, Any], by_rule: Mapping[str, Iterable[str]]) -> None:
    """Refuse settings that would have no effect.

    Args:
        defaults: values of `default-resources`.
        by_rule: names of the resources that `set-resources` gives each rule.

    Raises:
        ValueError: a name that nothing reads, a launcher that there is not, a word for Slurm that is none, or settings
            of Slurm where the launcher is another.
    """
    for place, names in [
        ("default-resources", defaults),
        *((f"set-resources: {rule}", n) for rule, n in by_rule.items()),
    ]:
        for name in names:
            known(place, name, {*LAUNCH, *OTHERS})
            if isinstance(names, Mapping) and (value := names[name]) is not None:
                _check_word(f"{place}: {name}", name, str(value).strip("'\""))
    if "gpu" in defaults:
        raise ValueError(
            "default-resources: gpu: each rule takes the GPUs that it needs; accepted: `resources: {gpu: N}` "
            "(--resources gpu=N), the GPUs of this machine, and `set-resources: {train: {gpu: N}}` (slurm/README.md)"
        )
    launcher = defaults.get("launcher", "local")
    # mem_mb is left out: Snakemake gives it a value of its own
    given = [name for name in LAUNCH if name not in ("launcher", "mem_mb", "device") and defaults.get(name)]
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


def table() -> str:
    """STAGES in Markdown."""
    rows = ["| rule | GPUs | hours | cores a task | GB a task |", "|---|---|---|---|---|"]
    rows += [f"| `{rule}` | {' | '.join(map(str, needs))} |" for rule, needs in STAGES.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
