"""The group of commands, the options that several of them share, and how a command opens its study.

A study is named by its name, by its file, or by the resolved study.json that the workflow writes into the folder of its
results.
"""

from __future__ import annotations

import difflib
import errno
import io
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mar.runtime import devices, environment
from mar.study import layout

if TYPE_CHECKING:
    from mar.study.study import Study


AGAIN = "then run the same command again; finished parts are kept"
RIGHTS = "accepted: a file or folder that you may read and write"
# What a user can do about an error of the operating system, by its number.
REMEDIES = {
    errno.ENOSPC: f"make room on this disk, {AGAIN}",
    errno.EDQUOT: f"make room within your quota, {AGAIN}",
    errno.EFBIG: f"raise the limit on the size of a file (ulimit -f), {AGAIN}",
    errno.EIO: f"check the disk or the network file system, {AGAIN}",
    errno.ESTALE: f"check the network file system, {AGAIN}",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {AGAIN}",
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: RIGHTS,
    errno.ENOENT: "accepted: a file or folder that exists",
    errno.EEXIST: "accepted: a name that is not taken",
    errno.EISDIR: "accepted: a file",
    errno.ENOTDIR: "accepted: a folder",
    errno.ELOOP: "accepted: a path without circular links",
    errno.ENAMETOOLONG: "accepted: a shorter name",
}
# What torch says where memory ends: on the CPU, in a mapped file, on a GPU.
NO_MEMORY = re.compile("can't allocate memory|[Cc]annot allocate memory|out of memory|unable to mmap", re.I)
BUG = (
    "This is a fault of mar, not of its input. Please report the command, this traceback and the study file in the "
    "issue tracker of the repository that this copy is from."
)


class Commands(click.Group):
    """A group whose commands end with one message for what a user can mend, and with a traceback for a fault of ours.

    A user can mend a ValueError of this package, a file that cannot be read or written, text in a wrong encoding, and
    too little memory.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # click ends quietly when nobody reads the output any more
            message = _message(error, f"mar {ctx.invoked_subcommand}")
            if message is None:
                error.add_note(BUG)
                raise
            raise click.ClickException(message) from None


def _message(error: Exception, command: str) -> str | None:
    """The message for an error that a user can mend; None for a fault of ours."""
    if isinstance(error, OSError) and error.errno in REMEDIES:
        return f"{error.filename or command}: {error.strerror}; {REMEDIES[error.errno]}"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(str(error))):
        reason = next(iter(str(error).splitlines()), "") or "no memory is left"
        return f"{command}: out of memory ({reason[:200]}); accepted: smaller networks or batches, or more memory"
    if isinstance(error, UnicodeDecodeError | UnicodeEncodeError):
        text = error.object[max(0, error.start - 20) : error.end + 20]
        return f"{command}: {text!r}: {error.reason}; accepted: files and names in UTF-8"
    from mar.study import own_code

    if said := own_code.blame(error):
        return f"{command}: {said}; accepted: code that does what docs/extending.md says"
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    ours = isinstance(error, ValueError) and raised_in.is_relative_to(Path(__file__).parents[1])
    return str(error) if ours else None


def _version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        from mar import __version__
        from mar.runtime.provenance import git_commit

        click.echo(f"mar {__version__}, commit {git_commit()}")
        context.exit()


@click.group(cls=Commands, context_settings={"max_content_width": 120})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("--threads", type=click.IntRange(0, 4096), default=0, help="Threads of torch; 0 leaves it its default.")
@click.option("--device", type=click.Choice(devices.CHOICES), help="Default: a GPU where torch sees one.")
def main(threads: int, device: str | None) -> None:
    """MAR, "Autoregressive Image Generation without Vector Quantization", one command a stage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 lacks some letters
    devices.choose(device or "")
    os.environ.update(environment.REPEATABLE | os.environ)
    if threads:
        # Torch reads these when it is imported, which the commands do later and only if they need it.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)


def find_study(given: str, results: bool = True) -> Path:
    """The file of a study that `--study` names: by itself, or by the name of a study.

    Args:
        given: path of a study file or of a resolved study.json, or a name.
        results: look for the name in results/ first, and then in config/; else the other way round.

    Raises:
        ValueError: there is no study of that name.
    """
    if Path(given).suffix in (".yaml", ".yml", ".json"):
        return Path(given)
    places = [layout.study(layout.RESULTS / given), layout.shipped(f"{given}.yaml")]
    for path in places if results else reversed(places):
        if path.exists():
            return path
    names = sorted(
        {path.parent.name for path in layout.RESULTS.glob(f"*/{layout.study(Path()).name}")}
        | {path.stem for path in layout.shipped().glob("*.yaml") if path.stem != "claims"}
    )
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"--study: found {given!r}{hint}; accepted: a study file, or a name: {', '.join(names)}")


def open_study(
    given: str,
    variant: str = "",
    setting: str = "",
    tokenizer: str = "",
    recipe: str = "",
    stage: str = "",
    seed: int | None = None,
    extractor: str = "",
) -> tuple[Study, Path]:
    """The study, its lengths in images, and the folder of its results.

    Snakemake writes study.json whenever it reads the workflow, so a dry run of an edited study changes it under jobs
    that are waiting. Such a job refuses to start: the stage key of its study.json is no longer its `recipe`.

    Args:
        given: name of the study, its file, or the resolved study.json.
        variant: name of a variant, or empty.
        setting: name of a sampling setting of the variant, or empty.
        tokenizer: name of a tokenizer on disk, or empty.
        recipe: stage key with which the workflow planned the job; empty where nobody planned it.
        stage: the stage of that key.
        seed: training seed of the variant, or None.
        extractor: name of an extractor, or empty.

    Raises:
        ValueError: the study has no such name, another stage key than `recipe`, or lies in the folder of another one.
    """
    from mar.study import stage_keys
    from mar.study.compatibility import known
    from mar.study.lengths import count_prepared
    from mar.study.reading import load

    path = find_study(given)
    study = load(path)
    root = layout.RESULTS / study.study
    if path.name == layout.study(Path()).name:
        root = path.parent
        if study.study != (folder := path.absolute().parent.name):
            raise ValueError(
                f"{path}: study: found {study.study!r}; accepted: {folder}, the name of its folder, which holds the "
                "results of no other study; run the workflow again"
            )
    if variant:
        known("--variant", variant, study.variants)
    if setting:
        known("--setting", setting, study.variants[variant].sampling)
    if seed is not None:
        first_seed(study, variant, seed)
    if tokenizer:
        known("--tokenizer", tokenizer, study.instances)
    if extractor:
        known("--extractor", extractor, study.metrics.extractors)
    names: dict[str, tuple[str | int | None, ...]] = {"tokenizer": (tokenizer,), "train": (variant, seed)}
    names |= {"sample": (variant, setting), "speed": (variant,), "features": (extractor,), "sweep": (variant, setting)}
    names |= {"learning": (variant,), "tasks": (variant,)}
    if recipe and recipe != (now := getattr(stage_keys, f"{stage}_key")(study, *names.get(stage, ()))):
        raise ValueError(
            f"{path}: changed since this job was planned; run the workflow again. Planned {recipe}, now {now}"
        )
    return count_prepared(study, root), root


def first_seed(study: Study, variant: str, seed: int | None) -> int:
    """The training seed that was asked for, or the variant's first.

    Raises:
        ValueError: the variant has no such seed.
    """
    seeds = study.variants[variant].seeds
    if not seeds or (seed is not None and seed not in seeds):
        accepted = ", ".join(map(str, seeds)) or f"none: variants.{variant}.seeds is empty"
        raise ValueError(f"--seed: found {'none' if seed is None else seed}; accepted: {accepted}")
    return seeds[0] if seed is None else seed


study_option = click.option(
    "--study", required=True, metavar="STUDY", help="Name of a study, its file, or results/<study>/study.json."
)


recipe_option = click.option(
    "--recipe", default="", help="What the workflow planned with; another study.json is refused."
)
tokenizer_option = click.option(
    "--tokenizer", required=True, help="Name of a tokenizer of the study; with `per_seed` as KL-seed0."
)
variant_option = click.option("--variant", required=True, help="Name of a variant of the study.")
seed_option = click.option("--seed", required=True, type=int, help="Training seed.")
setting_option = click.option("--setting", required=True, help="Name of a sampling setting of the variant.")


def _share(_context: click.Context, _option: click.Parameter, share: tuple[int, int]) -> tuple[int, int]:
    """The share (i, n) of worker i of n.

    Raises:
        ValueError: there is no such worker.
    """
    worker, workers = share
    if not 0 <= worker < workers:
        raise ValueError(f"--shard: found {worker} {workers}; accepted: I N with N at least 1 and I from 0 to N - 1")
    return share


shard_option = click.option(
    "--shard",
    type=int,
    nargs=2,
    default=(0, 1),
    callback=_share,
    metavar="I N",
    help="Make files I, I+N, I+2N, ... only.",
)
