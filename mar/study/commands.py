"""The command of each stage, as the rules of the workflow run it and as the report shows it."""

from __future__ import annotations

# What each command of `mar` needs to be told, beside the study.
OPTIONS: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "classifier": (),
    "tokenizer": ("tokenizer",),
    "encode": ("tokenizer",),
    "rfid": ("tokenizer",),
    "train": ("variant", "seed"),
    "sweep": ("variant", "setting"),
    "sample": ("variant", "seed", "setting"),
    "features": ("extractor", "set"),
    "statistics": ("extractor", "set"),
    "reference": (),
    "evaluate": ("variant", "seed", "setting"),
    "speed": ("variant",),
    "table": ("name",),
    "figure": ("name", "out"),
    "claims": (),
    "report": ("figures",),
    "track": (),
    "drill": ("shape", "recipe"),
}


def command(stage: str, study: str, **values: str | int) -> str:
    """A command as it is typed behind `mar`.

    Args:
        stage: its name.
        study: the resolved study.json, or the parameter of a rule that says it.
        values: a value for each of its options, or the wildcard of a rule; an option without a value is left out.
    """
    given = [f"--{option} {values[option]}" for option in OPTIONS[stage] if option in values]
    assert len(given) == len(values), (stage, values)
    return " ".join([stage, f"--study {study}", *given])
