"""The commands that submit, list and cancel jobs."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from mar.cli.group import main, open_study, study_option
from mar.study import layout


def _words(option: str, text: str) -> list[str]:
    """The words of an option that holds several, quoted as a shell has them.

    Raises:
        ValueError: a quote is not closed.
    """
    try:
        return [word for word in shlex.split(text) if word]
    except ValueError as error:
        raise ValueError(f"{option}: found {text!r}: {error}; accepted: names of files, quoted") from None


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("--cluster", type=click.Choice(["local", "debug", "slurm"]), default="local", help="Where the job runs.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of the job: job.json, output.")
@click.option("--gpus", default=0, metavar="N", help="GPUs of this machine that no other job has; 0: all that it sees.")
@click.option("--recipe", default="", help="What the result depends on, to tell jobs of other recipes from this one.")
@click.option("--slurm-partition", default="", metavar="NAME")
@click.option("--slurm-account", default="", metavar="NAME")
@click.option("--slurm-qos", default="", metavar="NAME")
@click.option("--slurm-constraint", default="", metavar="FEATURES")
@click.option("--slurm-nodes", default=0, metavar="N")
@click.option("--slurm-gpus-per-node", default=0, metavar="N")
@click.option("--slurm-gres", default="", metavar="KIND", help="For --gres in place of --gpus-per-node, as gpu:a100.")
@click.option("--slurm-cpus-per-task", default=0, metavar="N")
@click.option("--slurm-time", default=0, metavar="MINUTES")
@click.option("--slurm-mem", default=0, metavar="MEGABYTES", help="Memory per node.")
@click.option("--slurm-signal", default=0, metavar="SECONDS", help="Time for saving before the time limit.")
@click.option(
    "--slurm-device", default="", metavar="cuda|cpu", help="Where it computes; default: cuda if GPUs are asked for."
)
@click.option("--slurm-shards", default=0, metavar="N", help="Share the command among an array of N jobs.")
@click.option("--slurm-setup", default="", metavar="LINES", help="Of the script of a job, before its command.")
@click.option("--slurm-python", default="", metavar="COMMAND", help="Of Python in a job, as in a container.")
@click.option("--slurm-srun-args", default="", metavar="OPTIONS", help="More options of srun, as --name=value.")
@click.option("--slurm-extra", default="", metavar="OPTIONS", help="More options of sbatch, as --name=value.")
@click.option("--inputs", default="", metavar="FILES", help="What the command reads, in one argument, quoted.")
@click.option("--outputs", default="", metavar="FILES", help="What it writes, quoted: there when it is done.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def launch(
    cluster: str,
    folder: Path,
    gpus: int,
    recipe: str,
    inputs: str,
    outputs: str,
    command: tuple[str, ...],
    **slurm: Any,
) -> None:
    """Run a COMMAND of mar as a job and follow it: mar launch --folder F -- train --study S --variant V --seed K."""
    from mar.cluster.launch import Slurm, launch
    from mar.planning import remaining

    site = Slurm(**{name.removeprefix("slurm_"): value for name, value in slurm.items()})
    with remaining.told(folder) if cluster == "local" else contextlib.nullcontext():
        status = launch(
            command, folder, cluster, recipe, site, _words("--outputs", outputs), _words("--inputs", inputs), gpus
        )
    sys.exit(status)


@main.command()
@click.option("--study", default="", metavar="STUDY", help="Of one study; without it of all.")
def jobs(study: str) -> None:
    """List jobs: queued, running, done, failed, stopped or lost."""
    from mar.cluster.jobs import table

    roots = (
        [open_study(study)[1]]
        if study
        else sorted(root for root in layout.RESULTS.glob("*") if layout.jobs(root).is_dir())
    )
    for line in [("state", "job", "submitted", "folder"), *(line for root in roots for line in table(root))]:
        click.echo("{:<18} {:>10} {:<19} {}".format(*line))


@main.command()
@study_option
def status(study: str) -> None:
    """Show what of a study is done, runs, waits and failed, since when, and the GPU hours that it has had."""
    from mar.planning import status as of

    click.echo(of.text(*open_study(study)))


@main.command()
@study_option
def cancel(study: str) -> None:
    """End the jobs of a study; the same workflow goes on from their checkpoints."""
    from mar.cluster.jobs import cancel

    click.echo(f"ended: {' '.join(cancel(open_study(study)[1])) or 'nothing was queued or running'}")
