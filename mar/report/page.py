"""The report of a study as one HTML page that needs nothing but itself: images are inside, links go to its files."""

from __future__ import annotations

import base64
import functools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.paper_columns import FLOOR, Column, describing, headings
from mar.analysis.result_files import short
from mar.analysis.tally import RULINGS, tally
from mar.analysis.warnings import warnings
from mar.analysis.wording import effect
from mar.paper.deviations import deviations
from mar.paper.numbers import paper_lines, table_rows
from mar.report import evidence, first_screen, page_sections
from mar.report.evidence import file, given_id, server_of, set_id
from mar.report.figures.curves import ANCHORS
from mar.report.page_sections import JUDGES
from mar.report.tables.paper_tables import NONE, cell_text, frame, given_label, given_text, note, other, remarks, shown
from mar.runtime.files import a_file, read, write_text
from mar.runtime.text import one_line
from mar.study import labels, layout
from mar.study.products import figure_names
from mar.study.records import UnderExtractor, Verdict, Verdicts
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Template

CAPTIONS = {
    "claims": "What was measured of each claim that compares two numbers, with its interval, beside the same of the "
    "paper's numbers. Left of the line is what the paper claims.",
    "tradeoff": "FID against measured seconds per image. The paper's Figure 6 is this plot on ImageNet with one A100.",
    "diffusion_steps": "FID and Inception Score against the steps of the reverse process. The paper's Figure 4 is this "
    "plot on ImageNet.",
    "evaluations": "FID and Inception Score against how often the network of the head is evaluated for a token. Heun's "
    "method takes two a step, the others one.",
    "temperature": "FID and Inception Score against the temperature of the head. The paper's Figure 5 is this plot on "
    "ImageNet.",
    "sweep": "FID on the grid of guidance scale and temperature that a swept setting is chosen from.",
    "guidance": "Precision against recall and FID against Inception Score along the guidance scale of each sweep.",
    "heldout_loss": "Loss on held-out and on training images along each training. Losses of different heads share no "
    "scale and are no signal of how good samples are.",
    "laws": "Loss and token error of VAR over parameters and over training compute, with the fitted power laws.",
    "laws_samples": "What VAR of growing size draws along its training, always with the same random numbers. The "
    "paper's Figure 7 is this grid on ImageNet.",
    "tokenizers": "How the tokenizers learned, and what is lost where an image is rebuilt from the first scales alone.",
    "tasks": "Held-out images, what is kept of each, and four draws of each model, of which the first is measured.",
    "rejection": "FID over the share of the drawn images that a second classifier, which is not the judge, accepted.",
    "fid_images": "FID against held-out images along each training, over images seen: a diagnosis, used by no claim.",
    "fid_operations": "The same over the operations of the training.",
    "samples": "Samples of the first seed, one row per class, in the guided setting; held-out real images first.",
    "losses": "Training loss. Losses of different heads do not compare.",
}
LISTED = (
    page_sections.learned,
    page_sections.power_laws,
    page_sections.tasks_done,
    page_sections.fast,
    page_sections.sources,
)  # tables without rows of the paper
WIDTH = 1600  # largest width of an embedded figure in pixels: twice its width on the page, for dense screens
LARGE = 1_000_000  # a PNG of more bytes, such as a grid of samples, is embedded as lossy WebP
SIZE = "@size of the page@"  # stands in the page until its size is known


def report(study: Study, root: Path, figures: Path) -> None:
    """Write report.html: verdicts, tables, figures, deviations, costs and where every number comes from.

    Raises:
        ValueError: a file that it shows is missing; the message names it.
    """
    root, figures, results = Path(root), Path(figures), Results(study, root)
    variants = evidence.variants(study, root, results)
    tracked = evidence.tracked_runs(root)
    frames = {name: frame(study, root, name, results) for name in study.tables}
    verdicts = claims(root)
    columns = dict.fromkeys(column for values in frames.values() for column in shown(values, infinite=True))
    html = _template().render(
        study=study,
        folder=root.name,
        size=SIZE,
        warnings=_warnings(results, variants),
        first=first_screen.parts(study, root, results, verdicts),
        verdicts=_verdicts(verdicts),
        total=len(verdicts),
        asked=sum(claim.verdict in RULINGS[:3] for claim in verdicts),
        tally=tally(verdicts),
        claims=_claims(study, root, verdicts),
        tables=[_table(study, root, name, values) for name, values in frames.items()],
        note=" ".join(filter(None, (note(study, results), given_text(results, study.given), remarks(columns)))),
        figures=[_figure(root, figures, name) for name in figure_names(study)],
        metrics=page_sections.metrics(study, root, results),
        sweeps=page_sections.sweeps(study, root),
        listed=[part for of in LISTED if (part := of(study, root, results))],
        tokenizers=page_sections.tokenizers(study, root),
        speed=page_sections.speed(study, root, results),
        deviations=deviations(study),
        costs=page_sections.costs(study, root, variants),
        provenance=page_sections.provenance(study, root, results),
        variants=variants,
        judges=JUDGES,
        study_file=file(root, layout.study(root)),
        tracked=bool(tracked and tracked.runs),
        server=server_of(root),
    )
    html = html.replace(SIZE, f"{len(html.encode()) / 1e6:.1f} MB")
    write_text(layout.report(root), html)
    print(f"{layout.report(root)}: {len(html.encode()) / 1e6:.1f} MB", flush=True)


@functools.cache
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")


def claims(root: Path) -> tuple[Verdict, ...]:
    """The verdicts of claims.json."""
    return read(layout.claims(root), Verdicts).root


def by_extractor(other: UnderExtractor) -> str:
    """The verdict on a claim by a further extractor, in words."""
    measured = effect(other, log=True)
    return f"by {JUDGES[other.extractor]}: {other.verdict}{f', {measured}' if measured else ''}"


def _verdicts(verdicts: tuple[Verdict, ...]) -> list[tuple[str, int]]:
    """Each verdict that some claim has, and how many claims have it."""
    counts = Counter(claim.verdict for claim in verdicts)
    return [(verdict, counts[verdict]) for verdict in RULINGS if counts[verdict]]


def _claims(study: Study, root: Path, verdicts: tuple[Verdict, ...]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """The tables of claims, the paper's and the study's own: title, head of the column, and rows."""
    own = {claim.id for claim in study.claims}
    heads = (("Claims of the paper", "claim of the paper", False), ("Claims of the study's own", "claim", True))
    found = []
    for name, head, ours in heads:
        rows = [
            {
                **dict(claim),
                "shown": claim.shown,
                "evidence": _evidence(study, root, claim),
                "others": [by_extractor(other) for other in claim.extractors],
            }
            for claim in verdicts
            if (claim.id in own) == ours
        ]
        found += [(name, head, rows)] if rows or not ours else []
    return found


def _evidence(study: Study, root: Path, claim: Verdict) -> list[dict[str, Any]]:
    """The numbers that a verdict rests on: for each, its place on the page and its files."""
    numbers = []
    for number in claim.evidence:
        place = set_id(number.variant, number.setting) if number.setting else f"variant:{number.variant}"
        files = [file(root, root / path, _short_name(path)) for path in number.files]
        of = labels.cell(study, number.variant, number.setting)
        numbers.append(
            {**dict(number), "of": of, "id": place, "title": title(number.metric).replace("_", " "), "files": files}
        )
    return numbers


def _short_name(path: str) -> str:
    """`seed 0` for a file whose path names a seed, else the first folder of the path, as `speed`."""
    parts = Path(path).parts
    return next((part.replace("seed", "seed ") for part in parts if part.startswith("seed")), parts[0])


def _warnings(results: Results, variants: list[dict[str, Any]]) -> list[str]:
    """Sentences that a reader has to know before the numbers."""
    sentences = [
        f"{JUDGES[name]} with random weights: its numbers prove that it runs, and nothing else."
        for name in results.random
    ]
    sentences += [warning.text for warning in warnings(results)]
    sets = [(f"{v['label']} at {s['name']}", x) for v in variants for s in v["settings"] for x in s["seeds"]]
    broken = [f"{name} seed {x['seed']}" for name, x in sets if not x["agree"]]
    if broken:
        sentences.append(f"Of {', '.join(broken)} the hashes do not agree with the files: run the workflow again.")
    commits = [c for _, x in sets for c in (x["sampled"], x["evaluated"]) if c]
    commits += [run["commit"] for v in variants for run in v["runs"]]
    if dirty := sum(c["dirty"] for c in commits):
        sentences.append(
            f"{dirty} files were made from a checkout with changes that are in no commit: marked dirty below."
        )
    return sentences


def _table(study: Study, root: Path, name: str, values: pd.DataFrame) -> dict[str, Any]:
    """A table of the paper: each cell has our number, its interval and place on the page, the paper's, and the gap."""
    columns, keys = shown(values, infinite=True), describing(table_rows(study.tables[name]))
    heads = [
        {
            "title": c.heading,
            "paper": c.paper if study.tables[name].paper else "",
            "gap": f"{c.name}_minus_paper" in values.columns,
        }
        for c in columns
    ]
    rows = []
    for _, row in values.iterrows():
        cells = [
            {
                **head,
                "ours": cell_text(row, c),
                "href": _place(study, row, c),
                "theirs": row.get(f"paper_{c.name}", ""),
                "difference": _signed(row.get(f"{c.name}_minus_paper", "")),
            }
            for c, head in zip(columns, heads, strict=True)
        ]
        used = [
            " / ".join(f"{row[k]:g}" for k in (key, f"{key}_guided") if isinstance(row[k], float))
            for key in ("guidance", "temperature")
        ]
        rows.append(
            {
                "describe": [(row[k], other(study, row, k)) for k in keys],
                "label": labels.label(study, row["ours"]) if row["ours"] in study.variants else given_label(study, row),
                "floor": row["row"] == FLOOR,
                "cells": cells,
                "used": used,
                "swept": row["swept"] not in ("", NONE),
                "seeds": row["seeds"],
            }
        )
    files = [file(root, layout.table(root, name, suffix), suffix) for suffix in layout.TABLE_FORMATS]
    return {
        "id": name,
        "title": study.tables[name].title,
        "head": headings(keys),
        "columns": heads,
        "rows": rows,
        "files": files,
    }


def _signed(gap: Any) -> str:
    if not isinstance(gap, float):
        return ""  # nothing to compare with
    return ("+" if gap > 0 else "-" if gap < 0 else "") + short(abs(gap))


def _place(study: Study, row: Any, column: Column) -> str:
    """Address on the page of what one of our numbers was computed from; empty where there is no number."""
    if row["row"] == FLOOR:
        return "" if row[column.name] == "" else "#floor"
    if isinstance(row[column.name], str):
        return ""
    variant, setting = row["ours"], row["setting_guided"] if column.guided else row["setting"]
    if variant == layout.GIVEN:
        return f"#{given_id(setting)}"
    if column.metric in ("parameters", "head_parameters", "training"):
        return f"#variant:{variant}"
    if column.metric == "rfid":
        return f"#tokenizer:{study.tokenizer_of(variant, study.variants[variant].seeds[0])}"
    if column.metric == "seconds":
        return f"#speed:{variant}"
    return f"#{set_id(variant, setting)}"


def _figure(root: Path, figures: Path, name: str) -> dict[str, Any]:
    from PIL import Image

    path = figures / f"{name}.png"
    if not path.exists():
        raise ValueError(f"{path}: missing; draw it with `mar figure`")
    try:
        with Image.open(a_file(path), formats=("PNG",)) as image:
            image.load()
            # At 1.25 times its printed size (96 CSS pixels per inch), text of 8 points is as large as the page's.
            width = round(1.25 * 96 * image.width / image.info.get("dpi", (150,))[0])
            height = round(image.height * width / image.width)
            if image.width > WIDTH or path.stat().st_size > LARGE:  # the page links the file itself
                smaller = image.convert("RGB")
                smaller.thumbnail((WIDTH, 16_000))  # WebP allows 16,383 pixels of height
                data = evidence.embed(smaller, "WEBP", quality=90)
            else:
                data = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except Exception as error:  # of Pillow, which raises for damaged files whatever it meets
        raise ValueError(f"{path}: no PNG ({one_line(str(error))}); delete it and run `mar figure` again") from None
    files = [file(root, figures / f"{name}.{suffix}", suffix) for suffix in layout.FIGURE_FORMATS]
    caption = CAPTIONS.get(name, "") + _printed(name)
    return {"name": name, "caption": caption, "data": data, "width": width, "height": height, "files": files}


def _printed(figure: str) -> str:
    """A sentence on the points of a figure that the paper prints as numbers; empty where it prints none."""
    points = []
    for line in paper_lines(ANCHORS):
        pairs = ((line["fid_nocfg"], "without guidance"), (line["fid_cfg"], "with guidance"))
        fid = ", ".join(f"{value} {how}" for value, how in pairs if value)
        if line["figure"] == figure and fid:
            seconds = f", {line['seconds_per_image']} seconds an image" if line["seconds_per_image"] else ""
            points.append(f"{line['label']} at {line['x']} steps: FID {fid}{seconds}")
    return f" The paper prints of it: {'; '.join(points)}." if points else ""
