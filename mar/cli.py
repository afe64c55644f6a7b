"""The commands of `mar`: one a stage, thin. What a stage does is told in its module.

Every command takes the resolved study.json that the workflow writes, and its folder is the root of the results.
Imports happen inside the commands: `mar --help` needs no torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mar.config import Study


class Commands(click.Group):
    """A group whose commands tell a user's mistake, a ValueError of this package, in one line without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a ValueError from a library is a bug of ours and keeps its traceback."""
        try:
            return super().invoke(ctx)
        except ValueError as error:
            raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
            if not raised_in.is_relative_to(Path(__file__).parent):
                raise
            raise click.ClickException(str(error)) from None


@click.group(cls=Commands, context_settings={"max_content_width": 120})
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads of torch; 0 leaves it its default.")
def main(threads: int) -> None:
    """MAR, "Autoregressive Image Generation without Vector Quantization", one command a stage."""
    if threads:
        # Torch reads these when it is imported, which the commands do later and only if they need it.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)


def _open(
    path: str,
    variant: str = "",
    setting: str = "",
    tokenizer: str = "",
    recipe: str = "",
    stage: str = "",
    seed: int = 0,
    extractor: str = "",
) -> tuple[Study, Path]:
    """The study and the root of its results; names that the study lacks are refused here.

    So is a study.json that says something else by now than the `recipe` with which the workflow planned the job: it is
    written anew whenever the workflow is read, a dry run of an edited study included.
    """
    from mar import slices
    from mar.config import known
    from mar.study import load

    if Path(path).name != "study.json":
        raise ValueError(f"--study {path}: accepted: results/<study>/study.json, which `snakemake -n` writes")
    study = load(path)
    if variant:
        known("--variant", variant, study.variants)
    if setting:
        known("--setting", setting, study.variants[variant].sampling)
    if tokenizer:
        known("--tokenizer", tokenizer, study.tokenizers)
    if extractor:
        known("--extractor", extractor, study.metrics.extractors)
    names = {"tokenizer": (tokenizer,), "train": (variant, seed), "sample": (variant, setting), "speed": (variant,)}
    names |= {"features": (extractor,), "sweep": (variant, setting)}
    if recipe and recipe != (now := getattr(slices, f"{stage}_slice")(study, *names.get(stage, ()))):
        raise ValueError(
            f"{path}: changed since this job was planned; run the workflow again. Planned {recipe}, now {now}"
        )
    return study, Path(path).parent


def _study(function: Callable[..., None]) -> Callable[..., None]:
    return click.option("--study", required=True, metavar="results/<study>/study.json", help="The resolved study.")(
        function
    )


_recipe = click.option("--recipe", default="", help="What the workflow planned with; another study.json is refused.")
_tokenizer = click.option("--tokenizer", required=True, help="Name of a tokenizer of the study.")
_variant = click.option("--variant", required=True, help="Name of a variant of the study.")
_seed = click.option("--seed", required=True, type=int, help="Training seed.")
_setting = click.option("--setting", required=True, help="Name of a sampling setting of the variant.")
_shard = click.option(
    "--shard", type=int, nargs=2, default=(0, 1), metavar="I N", help="Make files I, I+N, I+2N, ... only."
)


@main.command()
@_study
def prepare(study: str) -> None:
    """Find, check and count the images."""
    from mar.data.images import prepare

    prepare(*_open(study))


@main.command()
@_study
@_recipe
def classifier(study: str, recipe: str) -> None:
    """Train the classifier whose features the metrics use."""
    from mar.metrics.classifier import train

    train(*_open(study, recipe=recipe, stage="classifier"))


_extractor = click.option("--extractor", required=True, help="Network that judges, of metrics.extractors.")
_set = click.option("--set", "where", required=True, help="train, heldout, reference, or VARIANT/seedK/SETTING.")


@main.command()
@_study
@_extractor
@_set
@_recipe
@_shard
def features(study: str, extractor: str, where: str, recipe: str, shard: tuple[int, int]) -> None:
    """Show a set of images to a network and keep its features, or a share of them; the same command resumes."""
    from mar.metrics.features import features

    features(*_open(study, extractor=extractor, recipe=recipe, stage="features"), extractor, where, shard)


@main.command()
@_study
@_extractor
@_set
def statistics(study: str, extractor: str, where: str) -> None:
    """Mean and covariance of the features of a set."""
    from mar.metrics.statistics import statistics

    statistics(*_open(study, extractor=extractor), extractor, where)


@main.command()
@_study
@_recipe
def reference(study: str, recipe: str) -> None:
    """Every metric of held-out real images: the real-versus-real floor."""
    from mar.metrics.evaluate import reference

    reference(*_open(study, recipe=recipe, stage="reference"))


@main.command()
@_study
@_tokenizer
@_recipe
def tokenizer(study: str, tokenizer: str, recipe: str) -> None:
    """Train a tokenizer."""
    from mar.tokenizers.train import train

    train(*_open(study, tokenizer=tokenizer, recipe=recipe, stage="tokenizer"), tokenizer)


@main.command()
@_study
@_tokenizer
@_recipe
def rfid(study: str, tokenizer: str, recipe: str) -> None:
    """Measure what a tokenizer loses: rFID, PSNR, codebook usage."""
    from mar.tokenizers.measure import rfid

    rfid(*_open(study, tokenizer=tokenizer, recipe=recipe, stage="metrics"), tokenizer)


@main.command()
@_study
@_tokenizer
@_recipe
@_shard
def encode(study: str, tokenizer: str, recipe: str, shard: tuple[int, int]) -> None:
    """Turn all images into tokens, or a share of them beside other workers; the same command resumes."""
    from mar.encode import encode

    encode(*_open(study, tokenizer=tokenizer, recipe=recipe, stage="tokenizer"), tokenizer, shard)


_assets = click.option(
    "--assets", default="results/assets", type=click.Path(path_type=Path), help="Folder of imports and downloads."
)
_table = click.option(
    "--table", default="config/assets.csv", type=click.Path(path_type=Path), help="Table of published files."
)


@main.command("import")
@click.argument("format", metavar="FORMAT")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--as", "name", default="", help="Name that studies ask for; default: that of FILE without its end.")
@_assets
@_table
def import_(format: str, file: Path | None, name: str, assets: Path, table: Path) -> None:
    """Import published weights.

    FORMAT is official-mar, dit, var, ldm-kl, ldm-vq, var-msvq, diffusers-kl or consistency-decoder.

    Without FILE the file is fetched that the table calls NAME, or the only one that it has of FORMAT.
    """
    from mar.assets import compare, fetch, only

    asset = None if file else only(format, name, table)
    if asset:
        file, name = fetch(asset, assets), name or asset.name
    elif file and file.is_file():
        compare(file, name or file.stem, table)
    assert file  # fetched, if not given
    from mar.weights import import_weights

    import_weights(format, file, name or file.stem, assets, asset)


@main.command("fetch")
@click.argument("name")
@_assets
@_table
def fetch_(name: str, assets: Path, table: Path) -> None:
    """Fetch a published file by its name in the table, and check it."""
    from mar.assets import fetch, find

    fetch(find(name, table), assets)


@main.command()
@_study
@_variant
@_seed
@_recipe
def train(study: str, variant: str, seed: int, recipe: str) -> None:
    """Train a variant with one seed; the same command resumes."""
    from mar.train import train

    train(*_open(study, variant, recipe=recipe, stage="train", seed=seed), variant, seed)


@main.command()
@_study
@_variant
@_setting
@_recipe
def sweep(study: str, variant: str, setting: str, recipe: str) -> None:
    """Choose guidance and temperature of a swept setting for a variant; the same command resumes."""
    from mar.sweep import sweep

    sweep(*_open(study, variant, setting, recipe=recipe, stage="sweep"), variant, setting)


@main.command()
@_study
@_variant
@_seed
@_setting
@_recipe
@_shard
def sample(study: str, variant: str, seed: int, setting: str, recipe: str, shard: tuple[int, int]) -> None:
    """Draw a sample set from a trained variant, or a share of it beside other workers; the same command resumes."""
    from mar.sample import sample

    sample(*_open(study, variant, setting, recipe=recipe, stage="sample"), variant, seed, setting, shard)


@main.command()
@_study
@_variant
@_seed
@_setting
@_recipe
def evaluate(study: str, variant: str, seed: int, setting: str, recipe: str) -> None:
    """Measure a sample set by its features and statistics."""
    from mar.metrics.evaluate import evaluate

    evaluate(*_open(study, variant, setting, recipe=recipe, stage="metrics"), variant, seed, setting)


@main.command()
@_study
@_variant
@_recipe
def speed(study: str, variant: str, recipe: str) -> None:
    """Measure the seconds per image of a variant at each of its sampling settings."""
    from mar.speed import measure

    measure(*_open(study, variant, recipe=recipe, stage="speed"), variant)


@main.command("export-adm")
@click.option("--study", default="", metavar="results/<study>/study.json", help="With --variant, --seed, --setting.")
@click.option("--variant", default="", help="Name of a variant of the study.")
@click.option("--seed", type=int, default=0, show_default=True, help="Training seed.")
@click.option("--setting", default="", help="Name of a sampling setting of the variant.")
@click.option("--samples", default="", metavar="SOURCE", help="Instead: a folder of samples or images, or an .npz.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE.npz")
def export_adm(study: str, variant: str, seed: int, setting: str, samples: str, out: Path) -> None:
    """Write a sample set as the .npz that the evaluator of the ADM suite reads, its images shuffled."""
    from mar.export import export
    from mar.metrics import sets

    if [bool(x) for x in (study, variant, setting, samples)] not in ([1, 1, 1, 0], [0, 0, 0, 1]):
        raise ValueError("export-adm: accepted: --study, --variant and --setting together, or --samples alone")
    if samples:
        export(sets.open_set(Path(samples)), out)
    else:
        export(sets.of_samples(*_open(study, variant, setting), variant, seed, setting), out)


@main.command()
@click.option("--samples", required=True, metavar="SOURCE", help="Images to judge: folder of samples, of images, .npz.")
@click.option("--reference", default="", metavar="NAME|SOURCE", help="Real images; default: those of the study.")
@click.option("--study", default="", metavar="results/<study>/study.json", help="Whose classifier and data are known.")
@click.option("--random-weights", is_flag=True, help="Inception with random weights: shows agreement, no quality.")
@click.option("--count", type=click.IntRange(min=0), default=0, metavar="N", help="Refuse fewer images than N.")
@click.option("--unknown-hash", is_flag=True, help="Take a reference of which no checksum is known.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the table as CSV, Markdown.")
def court(
    samples: str, reference: str, study: str, random_weights: bool, count: int, unknown_hash: bool, out: Path | None
) -> None:
    """Judge the same images by several evaluators side by side, with the reason for every difference."""
    from mar.court import court

    of, root = _open(study) if study else (None, None)
    court(samples, reference, of, root, random_weights, count, unknown_hash, out)


@main.command()
@_study
@click.option("--name", required=True, help="Name of a table of the study, metrics, variance or fast.")
def table(study: str, name: str) -> None:
    """Write a table as CSV, Markdown and LaTeX: one of the study's, every metric, what they move with, fast modes."""
    from mar import listing, modes, tables, variance

    made = {"metrics": listing.table, "variance": variance.table, "fast": modes.table}
    loaded, root = _open(study)
    made[name](loaded, root) if name in made else tables.table(loaded, root, name)


@main.command()
@_study
@click.option("--name", required=True, help="tradeoff, diffusion_steps, temperature, sweep, samples or losses.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for NAME.pdf, .png and .csv.")
def figure(study: str, name: str, out: Path) -> None:
    """Draw a figure and write its numbers."""
    from mar.figures import draw

    draw(*_open(study), name, out)


@main.command()
@_study
@click.option("--claims", "claims_file", default="config/claims.yaml", type=click.Path(path_type=Path))
def claims(study: str, claims_file: Path) -> None:
    """Judge each claim of the paper by what the study measured."""
    from mar.verdicts import judge

    judge(*_open(study), claims_file)


@main.command()
@_study
@click.option("--figures", required=True, type=click.Path(path_type=Path), help="Folder of the study's figures.")
def report(study: str, figures: Path) -> None:
    """Write everything on one self-contained page."""
    from mar.report import report

    report(*_open(study), figures)


@main.command()
@_study
def summary(study: str) -> None:
    """Print the tables, the verdicts and where to look further."""
    from mar.summary import summary

    summary(*_open(study))


@main.command()
@_study
@click.option("--db", default="results/mlflow.db", type=click.Path(path_type=Path), help="SQLite file of MLflow.")
@click.option(
    "--server", default="", envvar="MLFLOW_TRACKING_URI", metavar="URI", show_envvar=True, help="Server, instead."
)
def track(study: str, db: Path, server: str) -> None:
    """Fill MLflow from the files of the study; doing it again changes nothing."""
    from mar.track import sync

    sync(*_open(study), db, server)


@main.command()
@_study
def watch(study: str) -> None:
    """Show the trainings of a study as they run; Ctrl-C ends the show, not the trainings."""
    from mar.track import watch

    watch(*_open(study))


@main.command()
@click.option("--study", required=True, metavar="STUDY", help="Name under config/, a study file, or study.json.")
@click.option("--utilisation", type=click.FloatRange(0.0, 1.0, min_open=True), help="Share of the peak; default: 0.23.")
@click.option("--measured", metavar="VARIANT=RATE", help="Images a second of a training on one A100, instead.")
@click.option("--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the jobs there too.")
def plan(study: str, utilisation: float | None, measured: str | None, file: Path | None) -> None:
    """Show what a study costs: operations, A100 hours and disk of every job."""
    import csv

    from mar import plan as plans
    from mar.files import atomic
    from mar.study import load

    if utilisation and measured:
        raise ValueError("--utilisation and --measured: accepted: one of both")
    path = Path(study if Path(study).suffix in (".yaml", ".json") else f"config/{study}.yaml")
    loaded = load(path)
    root = path.parent if path.name == "study.json" else Path("results") / loaded.study
    share = plans.utilisation_of(loaded, measured) if measured else utilisation or plans.UTILISATION
    found = plans.jobs(loaded, root)
    click.echo(plans.text(loaded, found, plans.count_images(loaded, root), share))
    if file:
        lines = plans.rows(found, share)
        with atomic(file) as temporary, open(temporary, "w", newline="") as out:
            writer = csv.DictWriter(out, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    try:
        plans.check(loaded, root, share)
    except ValueError as error:
        click.echo(f"over budget: {error}", err=True)


@main.command()
@_study
@click.option("--shape", help="Run this shape; without it, gather the shapes that have run into one table.")
@click.option("--recipe", default="", help="What the workflow planned with; another study.json is refused.")
def drill(study: str, shape: str | None, recipe: str) -> None:
    """Run one shape of a study once at its true size on generated images, or show the table of all."""
    from mar import drill as drills

    loaded, root = _open(study)
    if shape is None:
        click.echo(drills.gather(loaded, root))
        return
    if recipe and recipe != drills.shape_slice(loaded, shape):
        raise ValueError(f"{study}: changed since this job was planned; run the workflow again")
    from mar.drill_run import run

    run(loaded, root, shape)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="File to write instead of printing.")
def schema(out: Path | None) -> None:
    """JSON schema of a study file, for editors."""
    from mar.files import write_if_changed
    from mar.schema import json_schema

    text = json_schema()
    if out is None:
        click.echo(text, nl=False)
    else:
        write_if_changed(out, text)


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("--cluster", type=click.Choice(["local", "debug", "slurm"]), default="local", help="Where the job runs.")
@click.option("--folder", required=True, type=click.Path(path_type=Path), help="Folder of the job: job.json, output.")
@click.option("--recipe", default="", help="What the result depends on, to tell jobs of other recipes from this one.")
@click.option("--slurm-partition", default="", metavar="NAME")
@click.option("--slurm-account", default="", metavar="NAME")
@click.option("--slurm-qos", default="", metavar="NAME")
@click.option("--slurm-constraint", default="", metavar="FEATURES")
@click.option("--slurm-nodes", default=0, metavar="N")
@click.option("--slurm-gpus-per-node", default=0, metavar="N")
@click.option("--slurm-cpus-per-task", default=0, metavar="N")
@click.option("--slurm-time", default=0, metavar="MINUTES")
@click.option("--slurm-mem", default=0, metavar="MEGABYTES", help="Memory per node.")
@click.option("--slurm-signal", default=0, metavar="SECONDS", help="Time for saving before the time limit.")
@click.option("--slurm-shards", default=0, metavar="N", help="Share the command among an array of N jobs.")
@click.option("--slurm-extra", default="", metavar="OPTIONS", help="More options of sbatch, as --name=value.")
@click.option("--inputs", default="", metavar="FILES", help="What the command reads, in one argument.")
@click.option("--outputs", default="", metavar="FILES", help="What it writes: there when it is done.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def launch(
    cluster: str, folder: Path, recipe: str, inputs: str, outputs: str, command: tuple[str, ...], **slurm: Any
) -> None:
    """Run a COMMAND of mar as a job and follow it: mar launch --folder F -- train --study S --variant V --seed K."""
    from mar.cluster.launch import Slurm, launch

    site = Slurm(**{name.removeprefix("slurm_"): value for name, value in slurm.items()})
    sys.exit(launch(command, folder, cluster, recipe, site, outputs.split(), inputs.split()))


@main.command()
@click.option("--study", default="", metavar="results/<study>/study.json", help="Of one study; without it of all.")
def jobs(study: str) -> None:
    """List jobs: queued, running, done, failed, stopped or lost."""
    from mar.cluster.jobs import table

    roots = [_open(study)[1]] if study else sorted(path.parent for path in Path("results").glob("*/jobs"))
    for line in [("state", "job", "submitted", "folder"), *(line for root in roots for line in table(root))]:
        click.echo("{:<18} {:>10} {:<19} {}".format(*line))


@main.command()
@_study
def cancel(study: str) -> None:
    """End the jobs of a study; the same workflow goes on from their checkpoints."""
    from mar.cluster.jobs import cancel

    click.echo(f"ended: {' '.join(cancel(_open(study)[1])) or 'nothing was queued or running'}")


if __name__ == "__main__":
    main()
