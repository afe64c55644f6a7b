"""What judging a sample set costs beside drawing it: CPU seconds of whole commands, one thread, their start included.

A study of the sizes of `digits`, 1,000 images a set, whose networks have hardly trained: what they draw is noise, at
the cost of images. Each command is run for sets of several sampling seeds. Features hold the search for the
nearest training image; `evaluate` has 200 resamples.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.tables import Parts, Table
from benchmarks.workflow import HERE, told
from mar.runtime.files import write_json
from mar.study import reading

SEEDS = 2
SETTINGS = {
    "4 steps, 25 diffusion steps": {"steps": 4, "diffusion_steps": 25, "clamp": 5.0},
    "16 steps, 25 diffusion steps, guidance 2": {"steps": 16, "diffusion_steps": 25, "guidance": 2.0, "clamp": 5.0},
}
SHORT = {"images": 320, "checkpoint_images": 320, "log_images": 320, "warmup_images": 0}
VARIANT = "mar-diffloss"


def report() -> Parts:
    """A row for each setting, and what features and statistics cost in parts of the drawing."""
    head = ["CPU s of 1,000 digits", "sample", "features", "statistics", "evaluate", "features and statistics / sample"]
    found = Table(head=head, form=["", ".1f", ".1f", ".1f", ".1f", ".2f"], rows=[])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = made(folder)
        for number, label in enumerate(SETTINGS):
            seconds: dict[str, list[float]] = {"sample": [], "features": [], "statistics": [], "evaluate": []}
            for seed in range(SEEDS):
                of = f"--variant {VARIANT} --seed 0 --setting s{number}-{seed}"
                one = f"--extractor classifier --set {VARIANT}/seed0/s{number}-{seed}"
                for command, options in zip(seconds, (of, one, one, of), strict=True):
                    seconds[command].append(run(folder, f"{command} --study {study} {options}"))
            judged, drawn = (
                sum(statistics.median(seconds[command]) for command in commands)
                for commands in (("features", "statistics"), ("sample",))
            )
            found.rows.append([label, *seconds.values(), judged / drawn])
    return [found]


def made(folder: Path) -> Path:
    """The study with all that its sample sets and their metrics need."""
    digits = reading.load(HERE / "config" / "digits.yaml")
    settings = {
        f"s{number}-{seed}": values | {"seed": seed}
        for number, values in enumerate(SETTINGS.values())
        for seed in range(SEEDS)
    }
    values = {
        "extends": str(HERE / "config" / "digits.yaml"),
        "study": "judging",
        "tokenizers": {"kl": {"images": 320}},
        "classifier": {"images": 320},
        "recipes": {"masked": SHORT},
        "sampling": {**dict.fromkeys(digits.sampling), **settings},
        "variants": {**dict.fromkeys(digits.variants), VARIANT: {"seeds": [0], "sampling": list(settings)}},
        "tables": None,
        "tradeoff": None,
        "diffusion_steps": None,
        "temperature": None,
    }
    write_json(folder / "judging.yaml", values)  # JSON is YAML
    path = reading.write_resolved(reading.load(folder / "judging.yaml"), folder / "results")
    real = [
        f"{command} --extractor classifier --set {split}"
        for split in ("train", "heldout")
        for command in ("features", "statistics")
    ]
    for command in (
        *("prepare", "tokenizer --tokenizer kl", "encode --tokenizer kl", "classifier", *real, "reference"),
        f"train --variant {VARIANT} --seed 0",
    ):
        name, _, options = command.partition(" ")
        run(folder, f"{name} --study {path} {options}")
    return path


def run(folder: Path, command: str) -> float:
    """CPU seconds of a command of `mar`, from its start to its end."""
    _, (_, cpu) = told([sys.executable, "-m", "mar.cli", "--threads", "1", *command.split()], folder)
    return cpu
