"""The commands that make and show tables, figures, verdicts and the report."""

from __future__ import annotations

from pathlib import Path

import click

from mar.cli.group import main, open_study, study_option
from mar.study import layout


@main.command()
@study_option
@click.option("--name", required=True, help="A table of the study, metrics, variance, fast, learning, laws or tasks.")
def table(study: str, name: str) -> None:
    """Write a table as CSV, Markdown and LaTeX: one of the study's, or one that every study has, such as metrics."""
    from mar.report.tables.write import table
    from mar.study.compatibility import known
    from mar.study.products import table_names

    loaded, root = open_study(study)
    table(loaded, root, known("--name", name, table_names(loaded)))


@main.command()
@study_option
@click.option("--name", required=True, help="Name of a figure of the study, such as samples.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for NAME.pdf, .png and .csv.")
def figure(study: str, name: str, out: Path) -> None:
    """Draw a figure and write its numbers."""
    from mar.report.figures.draw import draw
    from mar.study.compatibility import known
    from mar.study.products import figure_names

    loaded, root = open_study(study)
    draw(loaded, root, known("--name", name, figure_names(loaded)), out)


@main.command()
@study_option
@click.option("--claims", "claims_file", default=layout.shipped("claims.yaml"), type=click.Path(path_type=Path))
def claims(study: str, claims_file: Path) -> None:
    """Decide each claim of the paper by what the study measured."""
    from mar.analysis.verdicts import decide

    decide(*open_study(study), claims_file)


@main.command()
@study_option
@click.option("--figures", required=True, type=click.Path(path_type=Path), help="Folder of the study's figures.")
def report(study: str, figures: Path) -> None:
    """Write everything on one self-contained page."""
    from mar.planning import status
    from mar.report.page import report

    loaded, root = open_study(study)
    status.hours(loaded, root)
    report(loaded, root, figures)


@main.command()
@study_option
@click.option("--claims", "all_claims", is_flag=True, help="Print every claim in full instead.")
def summary(study: str, all_claims: bool) -> None:
    """Print the answer on one screen: what was found, what would decide more, and where things are."""
    from mar.report.terminal import summary

    summary(*open_study(study), all_claims)


@main.command()
@study_option
@click.option(
    "--db",
    default=layout.DATABASE,
    type=click.Path(path_type=Path),
    help="SQLite file of MLflow.",
)
@click.option(
    "--server", default="", envvar="MLFLOW_TRACKING_URI", metavar="URI", show_envvar=True, help="Server, instead."
)
@click.option("--register", is_flag=True, help="Register the model of each training too, as `mar export` writes it.")
def track(study: str, db: Path, server: str, register: bool) -> None:
    """Fill MLflow from the files of the study; doing it again changes nothing. Where MLflow fails, a line says so."""
    from mar.tracking.mlflow_sync import sync

    sync(*open_study(study), db, server, register)


@main.command()
@study_option
def watch(study: str) -> None:
    """Show the trainings of a study as they run; Ctrl-C ends the show, not the trainings."""
    from mar.tracking.watch import watch

    watch(*open_study(study))
