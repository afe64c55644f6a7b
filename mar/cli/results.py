"""The commands about results that lie on disk already."""

from __future__ import annotations

from pathlib import Path

import click

from mar.cli.group import main
from mar.study import layout

folder_argument = click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False))


@main.command("accept-code")
@folder_argument
def accept_code(folder: Path) -> None:
    """Let half-done work of FOLDER go on with today's code; both codes are recorded."""
    from mar.analysis import code_changes

    click.echo(code_changes.accept(folder))


@main.command()
@folder_argument
def restart(folder: Path) -> None:
    """Move the content of FOLDER, a training, tokenizer or sample set, aside; the workflow makes it anew."""
    from mar.runtime import folders

    if not (folder / folders.RECIPE).is_file():
        raise ValueError(f"{folder}: has no {folders.RECIPE}; accepted: a folder that a stage made, as {_example()}")
    with folders.alone(folder):
        click.echo(f"{folder}: moved to {folders.move_aside(folder)}; the workflow makes it anew")


def _example() -> Path:
    return layout.run(layout.RESULTS / "demo", "mar", 0)
