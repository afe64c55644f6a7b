"""`mar replicate TABLE:ROW`: a row of a table of the paper from its published weights, from the price to the verdict.

The study of one row has what that row needs and nothing else. Where the tokenizer's scale is published, or its tokens
are ids, and the reference of FID is too, no image of ImageNet is read: weights and the reference are fetched.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

from mar.analysis.estimates import Results
from mar.analysis.targets import against_print
from mar.data import imagenet, published
from mar.paper import numbers
from mar.paper.claims import COLUMN
from mar.planning import kept_costs, plan
from mar.runtime.files import write_text
from mar.study import layout
from mar.study.alone import alone, plain
from mar.study.parts import NoImages
from mar.study.reading import load, resolve
from mar.study.sections import TableRow
from mar.study.study import Study

COLUMNS = {f"{column}_{end}": (metric, end == "cfg") for metric, column in COLUMN.items() for end in ("nocfg", "cfg")}


class Cell(NamedTuple):
    """A row of a table of the paper and the variant of a study that gives it.

    Attributes:
        paper: name of the table's file in config/paper.
        row: key of the row.
        columns: printed columns that are asked for, with their numbers.
        study: the study that describes the row.
        entry: its row of the table: variant and sampling settings.
    """

    paper: str
    row: str
    columns: dict[str, float]
    study: Study
    entry: TableRow

    @property
    def settings(self) -> dict[str, str]:
        """The sampling setting of each column that the study has one for."""
        found = {column: self.entry.guided if COLUMNS[column][1] else self.entry.without for column in self.columns}
        return {column: setting for column, setting in found.items() if setting}


def find(cell: str, file: Path | None) -> Cell:
    """The cell that `TABLE:ROW` or `TABLE:ROW:COLUMN` names, with published weights where a study has them.

    Args:
        cell: as table4:mar-b, mar_table4:mar-b or var-table1:var-d16-released:fid_cfg.
        file: the study that describes it; None for the shipped ones on ImageNet.

    Raises:
        ValueError: there is no such table, row or column, or no study describes the row.
    """
    table, row, column = (*cell.split(":"), "", "")[:3]
    plain = table.replace("-", "_")
    known = sorted(path.stem for path in numbers.FOLDER.glob("*_table*.csv"))
    paper = next((name for name in (plain, f"mar_{plain}") if name in known), "")
    if not paper or cell.count(":") not in (1, 2):
        raise ValueError(f"{cell}: accepted: TABLE:ROW or TABLE:ROW:COLUMN with one of the tables {', '.join(known)}")
    rows = numbers.paper_rows(paper)
    if row not in rows:
        raise ValueError(f"{cell}: {paper} has no row {row!r}; accepted: {', '.join(rows)}")
    printed = {key: float(rows[row][key]) for key in COLUMNS if rows[row].get(key)}
    if column and column not in printed:
        raise ValueError(f"{cell}: {paper} prints no {column!r} for {row}; accepted: {', '.join(printed) or 'none'}")
    columns = {column: printed[column]} if column else printed
    files = [file] if file else sorted(path for path in layout.shipped().glob("*.yaml") if path.stem != "claims")
    found = [
        Cell(paper, row, columns, study, entry)
        for study in map(load, files)
        if file or study.data.totals == "imagenet"
        for name in study.tables
        if study.tables[name].paper == paper
        for entry in study.tables[name].rows
        if entry.paper == row and entry.variant
    ]
    found.sort(key=lambda found: not found.study.variants[str(found.entry.variant)].pretrained)
    if not found:
        where = f"{file} does not describe it" if file else "no shipped study on ImageNet describes it"
        raise ValueError(f"{cell}: the paper prints numbers of this system; {where}")
    return found[0]


def reduced(cell: Cell) -> dict[str, Any]:
    """The mapping of a study that has this row alone."""
    study, variant = cell.study, cell.study.variants[str(cell.entry.variant)]
    tok = study.tokenizers[variant.tokenizer]
    settings = list(dict.fromkeys(cell.settings.values()))
    images = study.data
    if variant.pretrained and study.metrics.reference and (tok.ids or tok.scale) and study.data.totals == "imagenet":
        images = NoImages(kind="none", image_size=images.image_size, num_classes=imagenet.CLASSES)
    judged = {"extractors": ("inception",)} if "inception" in study.metrics.extractors else {}
    parts = {
        "data": images,
        "classifier": None if study.metrics.reference else study.classifier,
        "metrics": study.metrics.model_copy(update=judged),
        "speed": study.speed,
    }
    sides = {key: setting for key in ("without", "guided") if (setting := getattr(cell.entry, key)) in settings}
    row = {"paper": cell.row, "variant": cell.entry.variant, **sides}
    return {
        "study": f"replicate-{cell.paper.replace('_', '-')}-{cell.row}",
        "title": f"{cell.paper}, row {cell.row}",
        **alone(study, str(cell.entry.variant), settings),
        **{key: plain(value) for key, value in parts.items() if value is not None},
        "tables": {"replicate": {"paper": cell.paper, "title": f"Row {cell.row}", "rows": [row]}},
    }


def assets(study: Study) -> list[published.Asset]:
    """The published files that a study of one row fetches."""
    rows = published.table(published.TABLE)
    names = [v.weights or name for name, v in study.variants.items() if v.pretrained]
    names += [tok.weights or name for name, tok in study.tokenizers.items() if tok.pretrained]
    names += [published.WEIGHTS[name] for name in study.metrics.extractors if name in published.WEIGHTS]
    names += [study.metrics.reference.file] if study.metrics.reference else []
    return [rows[name] for name in names if name in rows]


def price(study: Study, root: Path) -> str:
    """What the study costs, in a line, and each file that it fetches with its licence."""
    images = plan.count_images(study, root)
    found = plan.jobs(study, images, kept_costs.count(study, root, images.classes))
    hours, disk = sum(job.hours(plan.UTILISATION) for job in found), plan.total(found).disk / 1e9
    drawn = sum(job.images for job in found if job.stage == "sample")
    training = sum(job.hours(plan.UTILISATION) for job in found if job.stage == "train")
    line = f"price: about {_number(hours)} A100 hours, {disk:,.0f} GB on disk; {drawn:,} images are drawn"
    lines = [line + (f"; {_number(training)} of the hours train it" if training else "")]
    for asset in assets(study):
        there = any(place.exists() for place in published.places(asset, layout.ASSETS))
        there = there or layout.import_weights(layout.ASSETS, asset.name).exists()
        size = f"{asset.size / 1e9:.2f} GB" if asset.size else asset.note
        lines.append(f"  {asset.name}: {'there already' if there else asset.url}; {size}; licence: {asset.licence}")
    if study.data.decoded:
        lines.append(f"  {study.data.folder}: images of your own, which this row needs")
    return "\n".join(lines)


def _number(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def replicate(cell: str, file: Path | None, dry_run: bool, yes: bool, more: Sequence[str]) -> int:
    """Price, fetch, sample, judge: returns the exit status of Snakemake.

    Args:
        cell: see `find`.
        file: the study that describes it; None for the shipped ones.
        dry_run: stop after the price.
        yes: do not ask.
        more: further arguments of snakemake, as --profile.

    Raises:
        ValueError: as `find`; or this is not the folder of the project; or a licence is not agreed to.
    """
    wanted = find(cell, file)
    values = reduced(wanted)
    root = layout.RESULTS / values["study"]
    path, variant = root / "replicate.yaml", str(wanted.entry.variant)
    study = resolve(values, path)
    pretrained = study.variants[variant].pretrained
    if not pretrained:
        print(f"{cell}: no published weights of this row; it would have to be trained (variant {variant})")
    print(price(study, root), flush=True)
    if dry_run or not pretrained:
        return 0
    if not Path("Snakefile").exists():
        raise ValueError("Snakefile: none here; accepted: a checkout, or a folder that `mar init` made")
    for asset in assets(study):
        if (
            "NC" in asset.licence
            and not yes
            and not click.confirm(f"{asset.name} is for non-commercial use only ({asset.licence}). Go on?")
        ):
            raise ValueError(f"{asset.name}: {asset.licence} was not agreed to")
    write_text(path, f"# written by `mar replicate {cell}`\n{yaml.safe_dump(values, sort_keys=False)}")
    settings = dict.fromkeys(wanted.settings.values())
    targets = [str(layout.metrics(root, layout.sample_set(variant, 0, name))) for name in settings]
    command = [*targets, "--configfile", str(path), *more]
    print(f"{path}\n{shlex.join(['snakemake', *command])}", flush=True)
    if status := subprocess.run([sys.executable, "-m", "snakemake", *command]).returncode:
        return status
    if all(Path(target).exists() for target in targets):  # a dry run of snakemake makes none
        print(verdicts(wanted, study, root))
    return 0


def verdicts(cell: Cell, study: Study, root: Path) -> str:
    """Our numbers beside the printed ones, in Markdown: value with interval, the paper's, the verdict and why."""
    results, variant = Results(study, root), str(cell.entry.variant)
    lines = ["| | ours | the paper | verdict | |", "|---|---|---|---|---|"]
    for column, setting in cell.settings.items():
        metric, guided = COLUMNS[column]
        found, printed = results.cell(variant, setting, metric), cell.columns[column]
        assert found is not None  # the study runs the variant
        finding = against_print(metric, found, printed)
        verdict, why = finding.verdict, finding.reason.partition("; ")[2]
        if results.incomparable:
            verdict, why = "not decidable here", results.incomparable
        label = f"{metric.replace('_', ' ')}, {'guidance' if guided else 'no guidance'}"
        lines.append(f"| {label} | {found} | {printed:g} | {verdict} | {why} |")
    return "\n".join(lines)
