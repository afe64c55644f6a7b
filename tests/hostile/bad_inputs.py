"""Bad inputs, one by one, and what became of each: the table of docs/bad-inputs.md.

    python tests/hostile/bad_inputs.py --out docs/bad-inputs.md

Every case gets a copy of a small study in which every stage has run, makes one thing wrong in it and types one
command. A command that has to refuse ends with a status that is not zero and a message of at most 15 lines, which
names the file and the key and says what is accepted; where the input is legal after all, it works. In either case
nothing foreign runs, nothing outside is touched and nothing half-written is left. The cases are what `cases` yields in
`cases_*.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
LINES = 15  # of a message, at most
PATIENCE = float(os.environ.get("PATIENCE", "1"))  # factor on all time limits, for a machine that is busy
MEMORY = 12 << 30  # bytes of address space of a command, at most
# What a message says besides "accepted": how to make the file again, or what to do about the machine.
REMEDY = re.compile(
    r"accepted|not a positive integer|again|"
    r"is missing|run `mar|draw it with|make room|raise the limit|check the disk|is needed|Try 'mar",
    re.I,
)
GOOD = ("refused", "works")
OUTCOMES = (*GOOD, "traceback", "accepted wrongly", "unclear", "executed", "leak", "lost", "hang", "not tried")
PRECIOUS = "not yours\n"


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        what: kind and description, as `files: checkpoint index a list`.
        make: makes the input; runs in the copy, whose study is results/smoke.
        command: what is typed.
        names: what the message has to have, as regular expressions: the file, the key.
        right: what is right: `refused` or `works`.
        check: says what is wrong after a command that worked, or nothing.
        seconds: after which a command counts as hanging.
        variables: environment of the command.
    """

    what: str
    make: Callable[[], object]
    command: tuple[str, ...]
    names: tuple[str, ...] = ()
    right: str = "refused"
    check: Callable[[str], str | None] = lambda _: None
    seconds: int = 90
    variables: tuple[tuple[str, str], ...] = ()
    memory: int = MEMORY

    @property
    def kind(self) -> str:
        """The part of the project whose input it is."""
        return self.what.partition(":")[0]


class Outcome(NamedTuple):
    """What became of a case, one of OUTCOMES, and the message or the reason."""

    outcome: str
    said: str


def run(case: Case, base: Path) -> Outcome:
    """Run one case in a copy of `base`."""
    with tempfile.TemporaryDirectory(prefix="bad-") as scratch:
        place, outside = Path(scratch, "repo"), Path(scratch, "outside")
        shutil.copytree(base, place, symlinks=True)
        outside.mkdir()
        (outside / "precious.txt").write_text(PRECIOUS)
        status, output = command(case, place, Path(scratch, "output"))
        return judge(case, place, outside, status, output)


def command(case: Case, place: Path, log: Path) -> tuple[int | None, str]:
    """Status (None: it did not end) and output of a case's command, run in a process of its own.

    The process is forked, so that the imports of torch and Snakemake are paid once.
    """
    if pid := os.fork():
        ended = select.poll()
        ended.register(fd := os.pidfd_open(pid), select.POLLIN)
        over = bool(ended.poll(int(1000 * PATIENCE * case.seconds)))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(fd)
        return os.waitstatus_to_exitcode(status) if over else None, log.read_text(errors="replace")
    status = 70
    try:
        os.setsid()
        for number, file in enumerate(
            (os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        ):
            os.dup2(file, number)
        os.chdir(place)
        os.environ |= dict(case.variables) | {"COLUMNS": "200"}
        case.make()
        resource.setrlimit(resource.RLIMIT_AS, (case.memory, case.memory))
        status = typed(case.command)
    except SystemExit as stop:  # as the interpreter does it
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status or 0)
    raise AssertionError


def typed(words: tuple[str, ...]) -> int:
    """Do what a command line does."""
    program, *arguments = words
    if program == "mar":
        from mar.cli.__main__ import main

        main(arguments, prog_name="mar")
    elif program == "snakemake":
        from snakemake.cli import main as snakemake

        profile = [] if "--profile" in arguments else ["--cores", "1"]
        sys.argv = [
            "snakemake",
            "-s",
            str(REPOSITORY / "Snakefile"),
            *profile,
            "--quiet",
            "rules",
            "reason",
            *arguments,
        ]
        snakemake(sys.argv[1:])
    else:
        os.execvp(program, words)
    return 0


def judge(case: Case, place: Path, outside: Path, status: int | None, output: str) -> Outcome:
    """What became of a case."""
    message = re.sub(r"\S*/bad-\w+/(repo/)?", "", output).strip()
    last = " / ".join(message.splitlines()[-3:])[-300:]
    foreign = [path for path in place.parent.rglob("*pwned*") if path.name.startswith("pwned")]
    if foreign:
        return Outcome("executed", str(foreign[0].relative_to(place.parent)))
    if [(p.name, p.read_text(errors="replace")) for p in outside.iterdir()] != [("precious.txt", PRECIOUS)]:
        return Outcome("lost", f"outside/ was changed: {sorted(p.name for p in outside.iterdir())}")
    if status is None:
        return Outcome("hang", f"no end within {case.seconds} s: {last}")
    if "secret-word" in output:
        return Outcome("leak", last)
    if "Traceback (most recent call last)" in output or status < 0:
        return Outcome("traceback", f"status {status}: {last}")
    if half := [path for path in place.rglob(".*.tmp") if path.is_file()]:
        return Outcome("lost", f"half-written: {half[0].relative_to(place)}")
    if status == 0:
        wrong = "it has to refuse" if case.right == "refused" else case.check(output)
        return Outcome("accepted wrongly", f"{wrong}: {last}") if wrong else Outcome("works", last)
    if case.right == "works":
        return Outcome("unclear", f"it has to work: {last}")
    lines = [line for line in message.splitlines() if line.strip()]
    missing = [name for name in case.names if not re.search(name, message)]
    if len(lines) > LINES:
        return Outcome("unclear", f"{len(lines)} lines: {last}")
    if missing:
        return Outcome("unclear", f"does not name {missing[0]!r}: {last}")
    if not REMEDY.search(message):
        return Outcome("unclear", f"does not say what is accepted: {last}")
    return Outcome("refused", last)


SMALL = """study: smoke
data: {kind: digits, image_size: 32}
tokenizers:
  kl: {kind: kl, kl_weight: 1.0e-6, stride: 8, channels: [8, 8, 16, 16], latent_channels: 4, images: 64,
       learning_rate: 1.0e-3}
backbones: {masked: {kind: masked, width: 32, depth: 1, heads: 4, buffer: 4}}
heads: {diffloss: {kind: diffusion, width: 32, depth: 1, noise_draws: 1}}
recipes: {masked: {images: 192, batch: 64, checkpoint_images: 64, log_images: 64}}
sampling:
  mar-diff-4: {steps: 4, diffusion_steps: 2}
  mar-diff-4-cfg-best: {steps: 4, diffusion_steps: 2, sweep: {samples: 30, guidance: [2.0, 4.0]}}
variants:
  mar-diffloss: {tokenizer: kl, order: random, backbone: masked, head: diffloss, recipe: masked,
                 sampling: [mar-diff-4, mar-diff-4-cfg-best]}
classifier: {channels: [8, 8, 8], images: 640}
metrics: {samples: 60, chunk: 30, bootstrap: 10}
speed: {batch: 4, batches: 2}
tables:
  table1:
    paper: mar_table1
    title: Table 1
    rows: [{paper: mar-default-diffloss, variant: mar-diffloss, without: mar-diff-4, guided: mar-diff-4-cfg-best}]
tradeoff: [{label: MAR, variant: mar-diffloss, sampling: [mar-diff-4]}]
"""
FIGURES = ("samples", "losses", "claims", "tradeoff", "sweep", "guidance")
TRAINED, SETTINGS = "--variant mar-diffloss", ("mar-diff-4", "mar-diff-4-cfg-best")
STAGES = [
    "prepare",
    "classifier",
    *(
        f"{stage} --extractor classifier --set {name}"
        for name in ("train", "heldout")
        for stage in ("features", "statistics")
    ),
    "reference",
    *(f"{stage} --tokenizer kl" for stage in ("tokenizer", "rfid", "encode")),
    f"train {TRAINED} --seed 0",
    f"sweep {TRAINED} --setting {SETTINGS[1]}",
    *(f"sample {TRAINED} --seed 0 --setting {setting}" for setting in SETTINGS),
    *(
        f"{stage} --extractor classifier --set mar-diffloss/seed0/{setting}"
        for setting in SETTINGS
        for stage in ("features", "statistics")
    ),
    *(f"evaluate {TRAINED} --seed 0 --setting {setting}" for setting in SETTINGS),
    f"speed {TRAINED}",
    *(f"table --name {name}" for name in ("table1", "metrics")),
    "claims",
    *(f"figure --name {name} --out figures/smoke" for name in FIGURES),
    "report --figures figures/smoke",
]


def build(place: Path) -> Path:
    """A folder in which every stage of a small study `smoke` has run: what the cases start from."""
    shutil.copytree(REPOSITORY / "config", place / "config")
    (place / "small.yaml").write_text(SMALL)
    untracked = place / "results/smoke/mlflow.json"
    untracked.parent.mkdir(parents=True)
    untracked.write_text('{"format": 1, "experiment": "", "runs": {}}')
    for stage in STAGES:
        name, *options = stage.split()
        case = Case(stage, lambda: None, ("mar", name, "--study", "small.yaml", *options), seconds=900)
        status, output = command(case, place, place.parent / "output")
        if status:
            raise SystemExit(f"{stage}: status {status}: {output}")
    study = ("mar", "plan", "--study", "small.yaml")
    command(Case("plan", lambda: resolved("small.yaml"), study, seconds=900), place, place.parent / "output")
    return place


def resolved(file: str) -> None:
    """Write study.json of a study, as the workflow does."""
    from mar.study.reading import load, write_resolved

    write_resolved(load(file))


def table(cases: list[Case], outcomes: list[Outcome]) -> str:
    """Markdown: counts by kind, then every case."""
    from mar.runtime.text import one_line

    kinds = list(dict.fromkeys(case.kind for case in cases))
    lines = [
        "| kind | tried | refused clearly | works, as it is legal | other | not tried |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind in [*kinds, ""]:
        counts = Counter(o.outcome for c, o in zip(cases, outcomes, strict=True) if kind in ("", c.kind))
        tried = counts.total() - counts["not tried"]
        cells = [
            tried,
            counts["refused"],
            counts["works"],
            tried - counts["refused"] - counts["works"],
            counts["not tried"],
        ]
        lines.append(f"| {kind or 'all'} | {' | '.join(map(str, cells))} |")
    worst = {name: sum(outcome.outcome == name for outcome in outcomes) for name in ("executed", "leak", "lost")}
    lines += [
        "",
        "Ran foreign code: {executed}; leaked a secret: {leak}; lost or half-wrote data: {lost}.".format(**worst),
    ]
    lines += ["", "| case | command | outcome |", "|---|---|---|"]
    for case, outcome in zip(cases, outcomes, strict=True):
        words = one_line(" ".join(case.command)).replace("|", "\\|")
        words = words if len(words) < 90 else words[:87] + "..."
        lines.append(f"| {case.what.replace('|', ' ')} | `{words}` | {outcome.outcome} |")
    return "\n".join(lines) + "\n"


PAGE = """# Bad inputs, and what became of each

    python tests/hostile/bad_inputs.py --out docs/bad-inputs.md

wrote this page: every case gets a copy of a small study in which every stage has run, makes one thing wrong in it and
types one command. The table may come from several calls: with `--kept FILE` what was right in an earlier one is not
tried again.
*refused*: a status that is not zero and a message of at most 15 lines, without a traceback, that names the file and
the key and says what is accepted. *works*: the input is legal, or what is damaged is not needed. Any other outcome is a
fault of ours, or on a busy machine a command that did not end in time; the cases that were not tried wait for the next
call. Faults of machines are in
[faults.md](faults.md); kills of each stage at its moments of writing are in `tests/hostile/test_kills.py`.

"""


def run_all(cases: list[Case], base: Path, jobs: int, kept: Path) -> None:
    """Run cases, so many at once, each worker in a process of its own; prints and keeps one line for each."""

    def work(worker: int) -> None:
        for case in cases[worker::jobs]:
            start = time.monotonic()
            outcome = run(case, base)
            said = "" if outcome.outcome in GOOD else f"\n    {outcome.said}"
            print(f"{outcome.outcome:17} {time.monotonic() - start:5.1f} s  {case.what}{said}", flush=True)
            with open(kept, "a") as lines:
                lines.write(json.dumps([case.what, *outcome]) + "\n")

    workers = []
    for worker in range(jobs):
        if pid := os.fork():
            workers.append(pid)
            continue
        try:
            work(worker)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if any([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers]):
        raise SystemExit("a worker failed")


def outcomes_in(kept: Path) -> dict[str, Outcome]:
    """The last outcome of each case, by its name."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    return {what: Outcome(*outcome) for what, *outcome in map(json.loads, lines)}


def load_everything() -> None:
    """Import the package, Snakemake and MLflow, so that the processes of the cases need not do so each."""
    import mlflow.tracking  # noqa: F401
    import snakemake.cli  # noqa: F401
    import snakemake.workflow  # noqa: F401

    import mar

    for module in pkgutil.walk_packages(mar.__path__, "mar."):
        importlib.import_module(module.name)


def main() -> int:
    """Run the cases; the status is 1 if one of them is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--base", type=Path, help="folder that keeps what the cases start from; made where it is missing"
    )
    parser.add_argument("--only", default="", help="regular expression: the cases to run")
    parser.add_argument("--kept", type=Path, help="file that keeps outcomes: what is right in it is not tried again")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once; 0: none, print what is kept")
    parser.add_argument("--out", type=Path, help="page to write")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests" / "support")]
    import cases_files
    import cases_study
    import cases_tools

    cases = [c for module in (cases_study, cases_files, cases_tools) for c in module.cases()]
    cases = [case for case in cases if re.search(options.only, case.what)]
    with tempfile.TemporaryDirectory(prefix="base-") as scratch:
        kept = options.kept or Path(scratch, "outcomes")
        known = outcomes_in(kept)
        todo = [case for case in cases if case.what not in known or known[case.what].outcome not in GOOD]
        if todo and options.jobs:
            load_everything()
            base = options.base or Path(scratch, "repo")
            if not base.exists():
                build(base)
            run_all(todo, base, options.jobs, kept)
            known = outcomes_in(kept)
    outcomes = [known.get(case.what, Outcome("not tried", "")) for case in cases]
    counts = Counter(outcome.outcome for outcome in outcomes)
    print(f"{len(cases)} cases; " + ", ".join(f"{name}: {counts[name]}" for name in OUTCOMES if counts[name]))
    if options.out:
        options.out.write_text(PAGE + table(cases, outcomes))
    return int(any(outcome.outcome not in GOOD for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
