"""All benchmarks, or those that are named. Prints Markdown; --json keeps the numbers.

python -m benchmarks                                     all, as `make bench`, which adds --json bench.json
python -m benchmarks sampling training --json new.json   these, in the place of earlier ones in that file
python -m benchmarks compare OLD.json NEW.json           what moved beyond the noise of its pairs
python -m benchmarks pages                               write the tables of docs/performance.md anew
python -m benchmarks published                           beside the authors' own code, in the folder MAR_PUBLISHED
python -m benchmarks training_precision                  bf16 and torch.compile in training
python -m benchmarks demo                                where the time of `make demo` went
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import click

from benchmarks import compare, pages
from benchmarks.tables import Section, busy, keep
from mar.runtime.provenance import processor

# Each is a module whose docstring explains its section and whose report() returns what it found.
NAMES = (
    "sampling",
    "fast",
    "cache",
    "training",
    "bound",
    "tokens",
    "images",
    "precision",
    "judging",
    "workflow",
    "scaling",
    "roofline",
    "launch",
)
OTHERS = {"compare": compare.main, "pages": pages.main}
# Not among all: what needs a checkout of others, what compiles for minutes, and what looks at a demo that has run.
ASKED = ("published", "training_precision", "demo")


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--json", "file", type=click.Path(path_type=Path, dir_okay=False), help="Keep the numbers in this file.")
def main(names: tuple[str, ...], file: Path | None) -> None:
    """Print one section per benchmark."""
    if unknown := set(names) - {*NAMES, *ASKED}:
        accepted = ", ".join((*NAMES, *ASKED, *OTHERS))
        raise SystemExit(f"no benchmark {', '.join(sorted(unknown))}; accepted: {accepted}")
    print(f"{processor()}, load {busy()}\n", flush=True)
    for name in names or NAMES:
        module, start, load = importlib.import_module(f"benchmarks.{name}"), time.monotonic(), busy()
        try:
            section = Section.of(module.report(), load, time.monotonic() - start)
        except ValueError as error:
            raise SystemExit(f"{name}: {error}") from None
        print(f"### {name}\n\n{(module.__doc__ or '').strip()}\n\n{section.markdown()}", flush=True)
        print(f"\n({section.seconds:.0f} s)\n", flush=True)
        if file:
            keep(file, name, section)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in OTHERS:
        OTHERS[sys.argv[1]](sys.argv[2:])
    else:
        main()
