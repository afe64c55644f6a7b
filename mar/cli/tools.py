"""The commands outside the workflow: init, import, fetch, ship, export, plan, drill, comparison, schema."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from mar.cli.group import (
    find_study,
    first_seed,
    main,
    open_study,
    seed_option,
    setting_option,
    study_option,
    variant_option,
)
from mar.study import layout

assets_option = click.option(
    "--assets",
    default=layout.ASSETS,
    type=click.Path(path_type=Path),
    help="Folder of imports and downloads.",
)

table_option = click.option(
    "--table", default=layout.shipped("assets.csv"), type=click.Path(path_type=Path), help="Table of published files."
)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Make a folder to work in without a checkout: studies, profiles, the door to the workflow, a README."""
    from mar.study.working_folder import init

    print(f"{folder}: {len(init(folder))} files; its README.md says how to go on")


@main.command("import")
@click.argument("format", metavar="FORMAT")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--as", "name", default="", help="Name that studies ask for; default: that of FILE without its end.")
@assets_option
@table_option
def import_(format: str, file: Path | None, name: str, assets: Path, table: Path) -> None:
    """Import published weights.

    FORMAT is official-mar, dit, var, ldm-kl, ldm-vq, var-msvq, diffusers-kl or consistency-decoder; or exported, a
    file of `mar export`, which holds a model with its tokenizer and its study.

    Without FILE the file is fetched that the table calls NAME, or the only one that it has of FORMAT.
    """
    from mar.data.published import compare, fetch, only
    from mar.weights.names import EXPORTED

    if format == EXPORTED and file:
        from mar.weights.exported import import_exported

        import_exported(file, name or file.stem, assets)
        return
    asset = None if file else only(format, name, table)
    if asset:
        file, name = fetch(asset, assets), name or asset.name
    elif file and file.is_file():
        compare(file, name or file.stem, table)
    assert file  # `only` raised an error or named a file to fetch
    from mar.weights.importing import import_weights

    import_weights(format, file, name or file.stem, assets, asset)


@main.command("fetch")
@click.argument("name")
@assets_option
@table_option
def fetch_(name: str, assets: Path, table: Path) -> None:
    """Fetch a published file by its name in the table, and check it."""
    from mar.data.published import fetch, find

    fetch(find(name, table), assets)


@main.command()
@study_option
@click.option("--compare", is_flag=True, help="Write nothing; say whether equal weights ship.")
def ship(study: str, compare: bool) -> None:
    """Put the tokenizers and the classifier of a finished study into config/shipped/, for studies of equal recipe."""
    from mar.runtime.files import read
    from mar.study.products import used_tokenizers
    from mar.study.records import ClassifierRecord, RfidRecord
    from mar.weights import shipped

    loaded, root = open_study(study)
    found = []
    if loaded.classifier:
        record = read(layout.classifier(root) / layout.CLASSIFIER, ClassifierRecord)
        found.append((layout.classifier(root), layout.CLASSIFIER, {"accuracy": record.accuracy}))
    for name in used_tokenizers(loaded):
        if loaded.instances[name].config.trained:
            rfid = read(layout.rfid(root, name), RfidRecord).metrics["rfid"].value
            found.append((layout.tokenizer(root, name), layout.TOKENIZER, {"rfid": rfid}))
    for folder, last, quality in found:
        print(shipped.compare(folder, quality) if compare else shipped.ship(folder, last, quality))


@main.command()
@study_option
@variant_option
@click.option("--seed", type=int, help="Training seed; default: the variant's first.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE.safetensors")
def export(study: str, variant: str, seed: int | None, out: Path) -> None:
    """Write a trained variant with its tokenizer and its config into one file, for `mar import exported` elsewhere."""
    from mar.weights.exported import export

    loaded, root = open_study(study, variant)
    export(loaded, root, variant, first_seed(loaded, variant, seed), out)


@main.command("export-adm")
@click.option("--study", default="", metavar="STUDY", help="With --variant, --seed, --setting.")
@click.option("--variant", default="", help="Name of a variant of the study.")
@click.option("--seed", type=int, default=0, show_default=True, help="Training seed.")
@click.option("--setting", default="", help="Name of a sampling setting of the variant.")
@click.option("--samples", default="", metavar="SOURCE", help="Instead: a folder of samples or images, or an .npz.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE.npz")
def export_adm(study: str, variant: str, seed: int, setting: str, samples: str, out: Path) -> None:
    """Write a sample set as the .npz that the evaluator of the ADM suite reads, its images shuffled."""
    from mar.crosscheck.export_adm import export
    from mar.features import image_sets

    if [bool(x) for x in (study, variant, setting, samples)] not in ([1, 1, 1, 0], [0, 0, 0, 1]):
        raise ValueError("export-adm: accepted: --study, --variant and --setting together, or --samples alone")
    if samples:
        export(image_sets.open_set(Path(samples)), out)
    else:
        export(image_sets.of_samples(*open_study(study, variant, setting, seed=seed), variant, seed, setting), out)


@main.command()
@click.option("--study", default="", metavar="STUDY", help="With --variant; or the study that describes an import.")
@click.option("--variant", default="", help="Name of a variant of the study.")
@click.option("--seed", type=int, help="Training seed; default: the variant's first.")
@click.option("--import", "weights", default="", metavar="NAME", help="Instead: imported weights, such as mar-b.")
@click.option("--setting", default="", help="Name of a sampling setting; default: the last with guidance.")
@click.option("--class", "label", required=True, type=int, metavar="K", help="Class of the images, a number from 0.")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=8, show_default=True, help="Number of images.")
@click.option("--out", default="draw.png", type=click.Path(path_type=Path), show_default=True, metavar="FILE.png")
@assets_option
def draw(
    study: str,
    variant: str,
    seed: int | None,
    weights: str,
    setting: str,
    label: int,
    count: int,
    out: Path,
    assets: Path,
) -> None:
    """Draw images of a class from a trained variant or from imported weights, as one picture."""
    from mar.sampling.drawing import draw
    from mar.study.compatibility import known

    if weights and not variant and seed is None:
        from mar.weights.install import install_alone

        loaded, root, variant = install_alone(weights, find_study(study, results=False) if study else None, assets)
    elif variant and study and not weights:
        loaded, root = open_study(study, variant)
        seed = first_seed(loaded, variant, seed)
    else:
        raise ValueError("draw: accepted: --study and --variant, with or without --seed; or --import NAME")
    known("--setting", setting := setting or loaded.shown_setting(variant), loaded.sampling)
    draw(loaded, root, variant, seed or 0, setting, label, count, out)


@main.command()
@study_option
@variant_option
@seed_option
@setting_option
@click.option("--image", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Cropped to a square.")
@click.option("--mask", required=True, metavar="FILE|BOX", help="White where it is drawn, or x0,y0,x1,y1 in shares.")
@click.option("--class", "label", type=int, default=-1, metavar="K", help="Class of what is drawn; default: none.")
@click.option("--count", type=click.IntRange(min=1), default=4, show_default=True, help="Number of draws.")
@click.option("--protocol", type=click.Choice(["fair", "published"]), default="fair", show_default=True)
@click.option("--out", default="edit.png", type=click.Path(path_type=Path), show_default=True, metavar="FILE.png")
def edit(study: str, variant: str, seed: int, setting: str, **values: Any) -> None:
    """Draw a part of an image anew: in-painting, out-painting, or with --class its class changed."""
    from mar.sampling.editing import edit

    edit(*open_study(study, variant, setting, seed=seed), variant, seed, setting, **values)


@main.command()
@click.option("--samples", required=True, metavar="SOURCE", help="Images to judge: folder of samples, of images, .npz.")
@click.option("--reference", default="", metavar="NAME|SOURCE", help="Real images; default: those of the study.")
@click.option("--study", default="", metavar="STUDY", help="Whose classifier and data are known.")
@click.option("--random-weights", is_flag=True, help="Inception with random weights: shows agreement, no quality.")
@click.option("--count", type=click.IntRange(min=0), default=0, metavar="N", help="Refuse fewer images than N.")
@click.option("--unknown-hash", is_flag=True, help="Take a reference of which no checksum is known.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the table as CSV, Markdown.")
def court(
    samples: str, reference: str, study: str, random_weights: bool, count: int, unknown_hash: bool, out: Path | None
) -> None:
    """Judge the same images by several evaluators side by side, with the reason for every difference."""
    from mar.crosscheck.run import court

    loaded, root = open_study(study) if study else (None, None)
    court(samples, reference, loaded, root, random_weights, count, unknown_hash, out)


@main.command()
@study_option
@click.option("--jobs", "each", is_flag=True, help="Show every job with operations, A100 hours and disk.")
@click.option("--utilisation", type=click.FloatRange(0.0, 1.0, min_open=True), help="Share of the peak; default: 0.23.")
@click.option(
    "--measured", metavar="VARIANT=RATE", help="Images a second in training on one GPU, or a file of gpu-check."
)
@click.option("--csv", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write the jobs there too.")
def plan(study: str, each: bool, utilisation: float | None, measured: str | None, file: Path | None) -> None:
    """Show how long a study takes on this machine and what is done, or what it costs on A100s."""
    from mar.paper.claims import check
    from mar.planning import kept_costs, minutes, slots
    from mar.planning import plan as plans
    from mar.runtime.files import write_text
    from mar.study import widths
    from mar.study.lengths import check_images, count
    from mar.study.reading import blame, load

    if utilisation and measured:
        raise ValueError("--utilisation and --measured: accepted: one of both")
    if utilisation is not None and math.isnan(utilisation):  # no comparison of click's range refuses it
        raise ValueError("--utilisation: found nan; accepted: above 0, at most 1")
    path = find_study(study, results=False)
    loaded = load(path)
    try:
        check(loaded)
    except ValueError as error:
        raise blame(error, path) from None
    root = path.parent if path.name == layout.study(Path()).name else layout.RESULTS / loaded.study
    share = plans.utilisation_of(loaded, measured) if measured else utilisation or plans.UTILISATION
    images = plans.count_images(loaded, root)
    if images.known:
        try:
            check_images(loaded, images.classes, images.train)
        except ValueError as error:
            raise blame(error, path) from None
        loaded = count(loaded, images.train)
    counts = kept_costs.count(loaded, root, images.classes, bool(each or file or loaded.memory.gpu_gib))
    jobs = plans.jobs(loaded, images, counts)
    if not counts.memory and sum(job.hours(share) for job in jobs) > minutes.GPU_HOURS:
        counts = kept_costs.count(loaded, root, images.classes, memory=True)
        jobs = plans.jobs(loaded, images, counts)
    steps = minutes.steps(loaded, root, jobs, images, counts)
    if each:
        click.echo(plans.text(loaded, jobs, images, counts, share))
    else:
        click.echo(minutes.text(loaded, jobs, images, steps, counts, share))
    for line in (*slots.too_long(loaded, root), *widths.narrow(loaded)):
        click.echo(line)
    if file:
        import pandas as pd

        lines = pd.DataFrame(plans.rows(jobs, share), dtype=object)
        write_text(file, lines.to_csv(index=False, lineterminator="\r\n"))
    try:
        plans.check(loaded, root, share)
    except ValueError as error:
        click.echo(f"the workflow refuses it: {error}", err=True)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("cell", metavar="TABLE:ROW[:COLUMN]")
@click.argument("snakemake", nargs=-1, type=click.UNPROCESSED)
@click.option("--study", type=click.Path(path_type=Path), metavar="FILE", help="Describes it; default: what ships.")
@click.option("--dry-run", is_flag=True, help="Stop after the price.")
@click.option("--yes", is_flag=True, help="Do not ask about licences.")
def replicate(cell: str, snakemake: tuple[str, ...], study: Path | None, dry_run: bool, yes: bool) -> None:
    """Repeat a row of a table of the paper with its published weights: price, files, samples, verdict.

    Other arguments go to snakemake: mar replicate table4:mar-b --profile slurm --profile site.yaml
    """
    from mar.planning.replicate import replicate

    sys.exit(replicate(cell, study, dry_run, yes, snakemake))


@main.command()
@study_option
@click.option("--shape", help="Run this shape; without it, gather the shapes that have run into one table.")
@click.option("--recipe", default="", help="What the workflow planned with; another study.json is refused.")
def drill(study: str, shape: str | None, recipe: str) -> None:
    """Run one shape of a study once at its true size on generated images, or show the table of all."""
    from mar.planning import drill_shapes as drills
    from mar.study.reading import load

    loaded, root = open_study(study)
    if shape is None:
        click.echo(drills.gather(loaded, root))
        return
    planned = load(study)  # its lengths in epochs, as in the workflow
    if recipe and recipe != drills.shape_key(planned, drills.shape_named(planned, shape)):
        raise ValueError(f"{study}: changed since this job was planned; run the workflow again")
    from mar.planning.drill import run

    run(loaded, root, shape)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), help="File to write instead of printing.")
def schema(out: Path | None) -> None:
    """JSON schema of a study file, for editors."""
    from mar.runtime.files import write_if_changed
    from mar.study.json_schema import json_schema

    text = json_schema()
    if out is None:
        click.echo(text, nl=False)
    else:
        write_if_changed(out, text)
