"""The command of each stage, as the rules of the workflow run it and as the report shows it."""

from __future__ import annotations

# The options that each command of `mar` takes beside --study.
OPTIONS: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "classifier": (),
    "rejecter": (),
    "tokenizer": ("tokenizer",),
    "encode": ("tokenizer",),
    "rfid": ("tokenizer",),
    "gate": (),
    "train": ("variant", "seed"),
    "learning": ("variant", "seed"),
    "tasks": ("variant", "seed"),
    "sweep": ("variant", "setting"),
    "sample": ("variant", "seed", "setting"),
    "features": ("extractor", "set"),
    "statistics": ("extractor", "set"),
    "reference": (),
    "evaluate": ("variant", "seed", "setting", "given"),
    "speed": ("variant",),
    "table": ("name",),
    "figure": ("name", "out"),
    "claims": (),
    "report": ("figures",),
    "track": (),
    "drill": ("shape", "recipe"),
}


def command(stage: str, study: str, **values: str | int) -> str:
    """The words of a command that follow `mar` on the command line.

    Args:
        stage: name of the command.
        study: path of the resolved study.json, or the parameter of a rule that holds it.
        values: the value of each option, or the wildcard of a rule; an option without a value is left out.
    """
    options = [f"--{option} {values[option]}" for option in OPTIONS[stage] if option in values]
    assert len(options) == len(values), (stage, values)
    return " ".join([stage, f"--study {study}", *options])
