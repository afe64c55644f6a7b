"""The commands about results that lie on disk already."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mar.cli.group import find_study, main, open_study, study_option
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


@main.command()
@click.option("--study", default="", metavar="STUDY", help="Name of a study, its file, or its study.json.")
@click.option("--sets", multiple=True, metavar="PATTERN", help="Only these sets have their features in it, as 'mar/*'.")
@click.option("--from", "parts", multiple=True, type=click.Path(path_type=Path, file_okay=False), metavar="BUNDLE")
@click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", help="Default: bundles/<study>.")
@click.option("--dry-run", is_flag=True, help="Only say how large it would be.")
def bundle(study: str, sets: tuple[str, ...], parts: tuple[Path, ...], out: Path | None, dry_run: bool) -> None:
    """Write what a reviewer needs of a study into one folder, an RO-Crate; or join the bundles of --from."""
    from mar.bundle import record, write

    if bool(study) == bool(parts) or (parts and sets):
        raise ValueError("bundle: accepted: --study, with or without --sets; or --from twice or more")
    if parts:
        write.join(list(parts), out or Path("bundles") / record.read(parts[0]).study, dry_run)
        return
    loaded, root = open_study(study)
    write.bundle(loaded, root, out or Path("bundles") / loaded.study, sets, dry_run)


@main.command()
@click.argument("bundle", metavar="BUNDLE", type=click.Path(path_type=Path, file_okay=False))
def verify(bundle: Path) -> None:
    """Compute the numbers of a bundle again from its features, without GPU, network and data; nothing in it is run."""
    from mar.bundle.checks import verify

    lines, right = verify(bundle)
    click.echo("\n".join(lines))
    sys.exit(not right)


@main.command()
@click.option("--study", required=True, metavar="STUDY", help="Its file, or its name, as `mar plan` takes it.")
def adopt(study: str) -> None:
    """Accept results of a study that were copied here, where they match it; the workflow then makes only the rest."""
    from mar.bundle.adopt import adopt

    path = find_study(study, results=False)
    click.echo("\n".join(adopt(*open_study(str(path)))))


@main.command()
@study_option
def disk(study: str) -> None:
    """Show what of a study takes how much room on the disk."""
    from mar.planning.disk import text

    click.echo(text(*open_study(study)))


@main.command()
@study_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(study: str, yes: bool) -> None:
    """Remove what nothing of a study needs any more, after showing it; what is in use stays."""
    from mar.planning import disk
    from mar.runtime import folders

    loaded, root = open_study(study)
    folders.hold(layout.workflow_lock(root), "mar clean or snakemake")
    found = disk.removable(loaded, root)
    for one in found:
        click.echo(f"{disk.size(one.size):>9}  {one.path}: {one.why}")
    click.echo(f"{disk.size(sum(one.size for one in found))} in {len(found)} folders and files")
    if found and (yes or click.confirm("remove them")):
        for line in disk.clean(found):
            click.echo(line)


@main.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
def compare(a: str, b: str) -> None:
    """Compare two studies or bundles: numbers that moved beyond their intervals, by what is not the same."""
    from mar.bundle import compare, record

    def side(given: str) -> compare.Side:
        if (Path(given) / record.BUNDLE).exists():
            return compare.side(given)
        path = find_study(given)
        return compare.side(path, open_study(str(path))[1])

    click.echo("\n".join(compare.compare(side(a), side(b))))


@main.command()
@click.option("--golden", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Default: what ships.")
@click.option("--record", "writes", is_flag=True, help="Write what is computed here into that file instead.")
def doctor(golden: Path | None, writes: bool) -> None:
    """Look at what mar needs of this machine, and whether it still computes the numbers of before.

    The second is a micro-run of every kind of model, compared with the recorded one.
    """
    from mar.planning import machine

    if not writes:
        wrong = 0
        for line in machine.look():
            click.echo(machine.text(line))
            wrong += line.state == machine.BAD
        if wrong:
            click.echo(f"{wrong} not ok: mend that first; then the numbers are looked at too")
            sys.exit(1)
        click.echo("nothing here stands in the way; now a minute of training, compared with what was recorded")
    from mar.planning import doctor

    file = golden or doctor.GOLDEN
    if writes:
        doctor.record(file)
        click.echo(f"{file}: written")
        return
    lines, well = doctor.examine(file)
    click.echo("\n".join(lines))
    sys.exit(not well)
