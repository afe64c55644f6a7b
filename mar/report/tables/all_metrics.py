"""The table `metrics`: every metric of every sample set, with all that it takes to read the number right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.paper_columns import FLOOR
from mar.analysis.result_files import Estimate
from mar.report.tables import formats
from mar.report.tables.paper_tables import note
from mar.runtime.files import write_text
from mar.study import layout
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd

NAME, TITLE = "metrics", "Every sample set"
ARROWS = {True: " ↑", False: " ↓", None: ""}


def table(study: Study, root: Path) -> None:
    """Write tables/metrics.{csv,md,tex}."""
    results = Results(study, root)
    shown = texts(results)
    text = f"{note(study, results)} {remarks(results)}"
    write_text(layout.table(root, NAME, "tex"), formats.latex(TITLE, shown, text, floor=True))
    write_text(layout.table(root, NAME, "md"), formats.markdown(TITLE, shown, text))
    write_text(layout.table(root, NAME, "csv"), frame(results).to_csv(index=False, lineterminator="\n"))
    print(f"{layout.table(root, NAME, 'csv')}, .md, .tex: {len(shown) - 1} variants and settings", flush=True)


def frame(results: Results) -> pd.DataFrame:
    """A row for each metric of each variant and setting, of each of its sample sets alone, and of the floor.

    `interval` says what the interval holds: images, or images and training seeds. `files` are below the results folder.
    """
    import pandas as pd

    lines = []
    for variant, setting in results.cells:
        for metric in results.names:
            cell, sets = results.cell(variant, setting, metric), results.each(variant, setting, metric)
            assert cell is not None, "cells of untrained variants are left out before"
            held = "images and training seeds" if results.spread(metric).dof else "images"
            lines.append(_line(results, metric, cell, held))
            lines += [_line(results, metric, found, "images") for found in sets] if len(sets) > 1 else []
    for metric in results.measured:
        lines.append(_line(results, metric, results.floor(metric), "images") | {"variant": FLOOR})
    return pd.DataFrame(lines, columns=list(lines[0]), dtype=object).fillna("")


def texts(results: Results) -> pd.DataFrame:
    """The table to read, a row for each variant and setting; the floor is the last."""
    better = {metric: ARROWS[results.higher_is_better(metric)] for metric in results.names}
    heads = [("", "variant", "l"), ("", "setting", "l"), ("", "guidance", "r"), ("", "temperature", "r")]
    heads += [*(("", title(metric) + better[metric], "r") for metric in results.names), ("", "seeds", "l")]
    rows = []
    for variant, setting in results.cells:
        used, swept = results.sampling(variant, setting), results.study.sampling[setting].sweep
        chosen = [f"{x:g}{'*' * bool(swept)}" for x in (used.guidance, used.temperature)]
        numbers = [str(results.cell(variant, setting, metric)) for metric in results.names]
        rows.append([variant, setting, *chosen, *numbers, " ".join(map(str, results.study.variants[variant].seeds))])
    floor = [str(results.floor(metric)) if metric in results.measured else "" for metric in results.names]
    return formats.texts(heads, [*rows, [FLOOR, "", "", "", *floor, ""]])


def remarks(results: Results) -> str:
    """What the columns are."""
    said = ["Arrows: which side is better."]
    said += ["FID∞: extrapolated to infinitely many images."] if "fid_infinity" in results.names else []
    if any(sampling.sweep for sampling in results.study.sampling.values()):
        said.append("*: chosen by a sweep.")
    judges = [f"{name} {values['weights'][:12]}" for name, values in results.extractors.items()]
    said.append(f"Extractors and the checksums of their weights: {', '.join(judges)}.")
    said += [f"{name}: {values['note']}." for name, values in results.extractors.items() if values["note"]]
    said += [f"{text}." for text in results.notes]
    return " ".join(said)


def _line(results: Results, metric: str, found: Estimate, held: str) -> dict[str, Any]:
    source, judge = found.source, metric.removeprefix("fid_")
    judge = judge if judge in results.extractors else results.extractor
    used = results.sampling(source.variant, source.setting) if source and source.setting else None
    better, real = results.higher_is_better(metric), results.extractors[judge]["reference"]
    return {
        "variant": source.variant if source else "",
        "setting": source.setting if source else "",
        "guidance": used.guidance if used else "",
        "temperature": used.temperature if used else "",
        "swept": bool(source and source.setting and results.study.sampling[source.setting].sweep),
        "sampling_seed": used.seed if used else "",
        "seeds": " ".join(map(str, found.seeds)),
        "metric": metric,
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "interval": held,
        "n": found.n,
        "higher_is_better": "" if better is None else better,
        "extractor": judge,
        "weights": results.extractors[judge]["weights"],
        "reference": real["name"],
        "reference_sha256": real["sha256"],
        "files": " ".join(source.files) if source else "metrics/reference.json",
    }
