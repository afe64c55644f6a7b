"""Tables of the paper with our numbers beside: CSV with everything, Markdown and LaTeX to read.

A table has the columns that the paper's file has (config/paper/<name>.csv), in the order of COLUMNS.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.paper_columns import (
    COLUMNS,
    COUNTED,
    FLOOR,
    NOT_RUN,
    SAMPLED,
    Column,
    columns_of,
    describing,
    headings,
    printed,
)
from mar.analysis.result_files import Estimate, duration, short
from mar.analysis.seed_variance import decompose
from mar.paper.numbers import paper_samples, table_rows
from mar.report.tables import formats
from mar.runtime.files import write_text
from mar.study import labels, layout
from mar.study.products import table_names
from mar.study.records import ONE_CLASS
from mar.study.sections import Table, TableRow
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd


DAY = 24 * 60 * 60  # seconds
NONE = "-"  # marks a number that the study does not have: another system's row, or a setting that the row does not name


def millions(count: float) -> str:
    """A parameter count in millions, as 479M, 1.23M, 0.0456M."""
    return f"{count / 1e6:.0f}M" if count >= 1e8 else f"{short(count / 1e6)}M"


def frame(study: Study, root: Path, name: str, results: Results | None = None) -> pd.DataFrame:
    """One row per row of the study's table, and the real-versus-real floor as the last one where samples are judged.

    Columns: the paper's description of the row, our variant and settings with the guidance scale and temperature used
    (`swept`: those that a sweep chose), and for each number of the paper's file ours with its interval (value, low,
    high; "not run" for an untrained variant, "-" where the study has no such number) and the paper's. A row of sets
    that others drew has `given` for our variant and seeds, and their names for its settings. FID at infinitely many
    images is ours alone. `<column>_minus_paper` is there only where both are on one scale (`Results.comparable`).

    Raises:
        ValueError: the study has no such table, the table names a row that the paper's file lacks, or a metric file
            is missing or stale.
    """
    import pandas as pd

    table = table_of(study, name)
    results = results or Results(study, root)
    paper = table_rows(table, f"tables.{name}.paper: ")
    columns, describe = columns_of(paper), describing(paper)
    extra = [c for c in COLUMNS if not c.paper and c.metric in results.names]
    with_fid = {c.guided for c in columns if c.metric == "fid"}
    columns = [c for c in COLUMNS if c in columns or (c in extra and c.guided in with_fid)]
    lines: list[dict[str, Any]] = []
    for i, row in enumerate(table.rows):
        if row.key not in paper:
            raise ValueError(f"tables.{name}.rows[{i}].paper: found {row.key!r}; accepted: {', '.join(paper)}")
        published_row = paper[row.key]
        line: dict[str, Any] = {"row": row.key, **{key: published_row[key] for key in describe}}
        whose = row.variant or (layout.GIVEN if row.sets else NONE)
        line |= {"ours": whose, "setting": row.without or NONE, "setting_guided": row.guided or NONE}
        line |= _used(results, row)
        if _rejects(table, study):
            line |= _accepted(results, row)
        seeds = " ".join(map(str, study.variants[row.variant].seeds)) if row.variant else whose
        judged = seeds not in ("", NONE)
        line |= {"seeds": seeds or NOT_RUN, "n": study.metrics.samples if judged else NOT_RUN if row.variant else NONE}
        for column in columns:
            ours = _relative(results, table, paper, row) if column.metric == "relative" else _ours(results, row, column)
            line |= _numbers(column, ours)
            if not column.paper:
                continue
            published = printed(published_row[column.paper], column.metric)
            if results.comparable and column.metric not in COUNTED | {"training", "relative"}:
                number, gap = published_row[column.paper], f"{column.name}_minus_paper"
                line[gap] = ours.value - float(number) if isinstance(ours, Estimate) and number else ""
                if column.metric == "seconds" and line[gap] != "" and not results.timed_as_published(row.variant or ""):
                    line[gap] = ""  # the paper's device and protocol differ
            line[f"paper_{column.name}"] = published
        lines.append(line)
    sampled = [column for column in columns if column.metric in SAMPLED]
    lines += [{"row": FLOOR}] if sampled and results.measured else []
    for column in sampled:
        if column.metric in results.measured:
            floor = results.floor(column.metric)
            lines[-1] |= _numbers(column, floor) | {"n": floor.n}
    return pd.DataFrame(lines, columns=list(lines[0]), dtype=object).fillna("")


def _used(results: Results, row: TableRow) -> dict[str, Any]:
    """Guidance scale and temperature of a row's samples, and which of them a sweep chose."""
    used: dict[str, Any] = {}
    swept = []
    for suffix, setting in (("", row.without), ("_guided", row.guided)):
        sampled = row.variant and setting and results.study.variants[row.variant].seeds
        s = results.sampling(row.variant, setting) if row.variant and setting and sampled else None
        used |= {f"guidance{suffix}": s.guidance if s else NONE, f"temperature{suffix}": s.temperature if s else NONE}
        swept += [setting] if s and setting and results.study.sampling[setting].sweep else []
    return used | {"swept": " ".join(swept) or NONE}


def _rejects(table: Table, study: Study) -> bool:
    """Whether images of a row are accepted or rejected."""
    settings = [s for row in table.rows if row.variant for s in row.sets]
    return any(study.sampling[s].reject for s in settings)


def _accepted(results: Results, row: TableRow) -> dict[str, Any]:
    """Share of the drawn images that were accepted, and draws an image, of a row's samples; nothing where all are."""
    trained = row.variant and results.study.variants[row.variant].seeds
    found = [s for s in (row.guided, row.without) if s and trained and results.study.sampling[s].reject]
    if not row.variant or not found:
        return {"accepted": NONE, "draws_an_image": NONE}
    return {
        "accepted": results.accepted(row.variant, found[0]),
        "draws_an_image": results.draws(row.variant, found[0]),
    }


def _ours(results: Results, row: TableRow, column: Column) -> Estimate | str:
    """Our number for a cell, or why there is none."""
    setting = row.guided if column.guided else row.without
    if row.variant is None:
        judged = setting is not None and column.metric in SAMPLED
        return (results.given_cell(setting, column.metric) if setting and judged else None) or NONE
    if not results.study.variants[row.variant].seeds:
        return NOT_RUN
    if column.metric == "parameters":
        return results.parameters(row.variant)
    if column.metric == "head_parameters":
        return results.head_parameters(row.variant) or NONE
    if column.metric == "training":
        cost = results.training(row.variant)
        return replace(cost, **{k: getattr(cost, k) / DAY for k in ("value", "low", "high")}) if cost else NONE
    if column.metric == "rfid":
        return results.rfid(row.variant) or NONE
    if column.metric == "seconds":
        return _seconds(results, row) or NONE
    if column.metric not in results.names:  # for example precision, where the reference has statistics and no images
        return NONE
    return (results.cell(row.variant, setting, column.metric) if setting else None) or NONE


def _seconds(results: Results, row: TableRow) -> Estimate | None:
    """Seconds an image of a row: guided, as the FID beside the paper's seconds, where that is timed."""
    timed = (results.seconds(row.variant, s) for s in (row.guided, row.without) if row.variant and s)
    return next((seconds for seconds in timed if seconds is not None), None)


def _relative(results: Results, table: Table, paper: dict[str, dict[str, str]], row: TableRow) -> Estimate | str:
    """Seconds an image over those of the row whose time the paper sets to 1; the interval is of both, independent."""
    ours = _seconds(results, row)
    first = next((other for other in table.rows if other.variant and paper[other.key]["rel_time"] == "1"), None)
    unit = _seconds(results, first) if first else None
    if ours is None or unit is None:
        return NONE if not row.variant or results.study.variants[row.variant].seeds else NOT_RUN
    if row == first:
        return replace(ours, value=1.0, low=1.0, high=1.0)
    value = ours.value / unit.value
    below = math.hypot(1 - ours.low / ours.value, unit.high / unit.value - 1)
    above = math.hypot(ours.high / ours.value - 1, 1 - unit.low / unit.value)
    return replace(ours, value=value, low=value * max(0.0, 1 - below), high=value * (1 + above))


def note(study: Study, results: Results) -> str:
    """What the numbers of a table are, and with which they do not compare."""
    size, spread, why = study.data.image_size, results.spread("fid"), results.incomparable
    real = "fid" in results.measured
    fewer = _fewer(results) if real else ""
    seeds = (
        f"the seed spread that the study measured (log FID: {short(spread.sd)}, {spread.dof} degrees of freedom)"
        if spread.dof and spread.sd
        else f"a seed spread below the noise of the images ({spread.dof} degrees of freedom)"
        if spread.dof
        else "no seed spread, since the study trains no variant twice"
    )
    features = "the study's own classifier" if results.extractor == "classifier" else results.extractor
    about = f"; {said}" if (said := results.reference.note) else ""
    random = f"Random weights: {', '.join(results.random)}; such numbers show that it runs and mean nothing else. "
    return (
        f"Ours: {study.data.title} at {size}x{size}, {study.metrics.samples} images a sample set, features and "
        f"probabilities of {features}, compared with {results.reference.name} "
        f"({results.reference.sha256[:12]}{about}); the mean over training seeds (geometric for FID) "
        f"with its 95% interval from resampled images and {seeds}. "
        + (f"{FLOOR.capitalize()}: as many held-out images, or all if there are fewer{fewer}. " if real else "")
        + (random if results.random else "")
        + f"The paper: ImageNet, {paper_samples():,} images, Inception features. "
        + (f"Ours have {why}. So only which is better compares with the paper's, not the sizes. " if why else "")
        + _foreseen(results)
    ).strip()


def given_text(results: Results, names: Iterable[str]) -> str:
    """What sample sets that others drew are, in a sentence; empty without any."""
    said = []
    for name in dict.fromkeys(names):
        record = results.given(name)
        assert record.given is not None  # `given` refuses a file without
        unknown = ", classes unknown" if ONE_CLASS in record.notes else ""
        about = f"{record.given.name}, {record.given.sha256[:12]}{unknown}"
        said.append(f"{labels.given(results.study, name)} ({about})")
    return f"Given, drawn by others, with the interval of their images alone: {'; '.join(said)}." if said else ""


def _fewer(results: Results) -> str:
    """How the floor is biased where fewer images are held out than a sample set has; else empty."""
    count = results.floor("fid").n
    if count >= results.study.metrics.samples:
        return ""
    return f": {count} here, which makes its FID rather too high, its IS and KID rather too low"


def _foreseen(results: Results) -> str:
    """A sentence where sampling seeds were measured to scatter more or less than the intervals predict; else empty."""
    parts = decompose(results, "fid") if results.cells else None
    if parts is None or parts.agrees is not False:
        return ""
    return (
        f"Over sampling seeds, log FID has {short(parts.ratio)} times the variance that the resampled images foresee "
        f"(expected {short(parts.ratio_low)} to {short(parts.ratio_high)}): the intervals are "
        f"{'too narrow' if parts.ratio > 1 else 'too wide'}, see the table of the variance."
    )


def remarks(columns: Iterable[Column]) -> str:
    """Sentences that explain those of the columns that are not plain metrics of the samples."""
    said = {
        "rfid": "rFID: of the reconstructed train split, as the paper's; ours by the features of the other numbers.",
        "params": "Parameters: without the tokenizer.",
        "seconds": "Seconds an image: the median of timed batches and its interval, by the protocol of the trade-off "
        "figure; the paper's on one A100 with batch 256.",
        "rel_time": "Relative time: seconds an image over those of the row that the paper sets to 1.",
        "training_days": "Days of training: ours on one device each, least and most of the seeds; the paper's on all.",
        "fid_infinity": "FID∞: extrapolated to infinitely many images; noise can take it below 0.",
    }
    return " ".join(said[column.name] for column in columns if column.name in said)


def table(study: Study, root: Path, name: str) -> None:
    """Write tables/<name>.{csv,md,tex}. Reads every metric file of the study: the seed spread is pooled over it."""
    results = Results(study, root)
    values = frame(study, root, name, results)
    title, of_paper = table_of(study, name).title, table_of(study, name).paper is not None
    sets = (entry for row in table_of(study, name).rows if not row.variant for entry in row.sets)
    said = (note(study, results), given_text(results, sets), _chosen(study, name), _rejected(study, name))
    text = " ".join(filter(None, said))
    floor = values["row"].iloc[-1] == FLOOR
    parts = [
        (texts(study, values, c, of_paper), f"{text} {remarks(c)}".strip())
        for c in (shown(values, infinite=True), shown(values))
    ]
    narrow = next((part for part in parts if formats.width(part[0]) <= formats.SIDEWAYS), parts[-1])
    write_text(layout.table(root, name, "tex"), formats.latex(title, *narrow, floor))
    write_text(layout.table(root, name, "md"), formats.markdown(title, *parts[0]))
    write_text(layout.table(root, name, "csv"), values.to_csv(index=False, lineterminator="\n"))
    print(f"{layout.table(root, name, 'csv')}, .md, .tex: {len(values) - floor} rows", flush=True)


def shown(values: pd.DataFrame, infinite: bool = False) -> list[Column]:
    """The columns of numbers that a frame has: the paper's, and, if `infinite`, FID at infinitely many images."""
    ours = {column.name for column in COLUMNS if not column.paper and infinite}
    return [c for c in COLUMNS if f"paper_{c.name}" in values.columns or (c.name in ours and c.name in values.columns)]


def texts(study: Study, values: pd.DataFrame, columns: Sequence[Column], of_paper: bool = True) -> pd.DataFrame:
    """The table for readers: the row's description, our numbers with intervals and the paper's, guidance, seeds."""
    describe = _description(values)
    heads = [("", name, "l") for name in headings(describe)]
    for column in columns:
        if column.paper:
            heads += [(column.heading, "ours", "r"), *([(column.heading, "paper", "r")] if of_paper else [])]
        else:
            heads.append((heads[-1][0], "FID∞", "r"))  # beside the FID that it extrapolates
    used = ("guidance", "temperature") if any(column.metric in SAMPLED for column in columns) else ()
    rejects = ("accepted", "draws_an_image") if "accepted" in values.columns else ()
    heads += [("", key.replace("_", " "), "r") for key in rejects]
    heads += [("", key, "l") for key in (*used, "seeds")]
    rows = []
    for _, row in values.iterrows():
        words = ["; ours ".join(filter(None, (str(row[key]), other(study, row, key)))) for key in describe]
        cells = words if row["row"] != FLOOR else [FLOOR, *[""] * (len(describe) - 1)]
        for column in columns:
            cells += [cell_text(row, column), *([paper_text(row, column)] if column.paper and of_paper else [])]
        cells += [short(row[key]) if isinstance(row[key], float) else "" for key in rejects]
        for key in used:
            cells.append(" / ".join(f"{row[k]:g}" for k in (key, f"{key}_guided") if isinstance(row[k], float)))
        rows.append([*cells, given_label(study, row) or str(row["seeds"])])
    return formats.texts(heads, rows)


def given_label(study: Study, row: Any) -> str:
    """What the sets that others drew are called of which a row has the numbers; empty for our rows."""
    sets = [row[key] for key in ("setting", "setting_guided") if row["ours"] == layout.GIVEN and row[key] != NONE]
    return f"given: {' / '.join(dict.fromkeys(labels.given(study, name) for name in sets))}" if sets else ""


def other(study: Study, row: Any, key: str) -> str:
    """What our model of a row has where the paper's description names another thing; empty where it has the same.

    The tokenizer by its kind and stride, and the steps of a row that draws many tokens a step.
    """
    variant = study.variants.get(row["ours"])
    if variant is None or not variant.seeds:
        return ""
    ours = ""
    if key == "tokenizer":
        tokenizer = study.tokenizers[variant.tokenizer]
        ours = f"{tokenizer.label or tokenizer.kind}-{tokenizer.stride}"
    if key == "preds_per_step" and row[key] != "1":
        setting = row["setting"] if row["setting"] in study.sampling else row["setting_guided"]
        ours = f"{study.sampling[setting].steps} steps of {study.tokens(variant.tokenizer)} tokens"
    return "" if ours == row[key] else ours


def cell_text(row: Any, column: Column) -> str:
    """Our number of one cell as `value [low, high]` (a count: the value alone), `not run`, or `-`."""
    value = row[column.name]
    if isinstance(value, str):
        return value
    if column.metric in COUNTED:
        return millions(value)
    estimate = Estimate(value, row[column.name + "_low"], row[column.name + "_high"], 0)
    return duration(estimate) if column.metric == "seconds" else str(estimate)


def paper_text(row: Any, column: Column) -> str:
    """The paper's number as it prints it, and, where both compare, how far ours is above (+) or below (-) it."""
    gap = row.get(f"{column.name}_minus_paper", "")
    signed = f" ({'+' if gap > 0 else '-'}{short(abs(gap))})" if isinstance(gap, float) else ""
    return f"{row[f'paper_{column.name}']}{signed}"


def _chosen(study: Study, name: str) -> str:
    """A sentence that explains the columns of guidance and temperature; empty where the table has none."""
    if not any(column.metric in SAMPLED for column in columns_of(table_rows(study.tables[name]))):
        return ""
    rows = [row for row in study.tables[name].rows if row.variant and study.variants[row.variant].seeds]
    settings = [s for row in rows for s in (row.without, row.guided) if s]
    sweeps = [sweep for s in settings if (sweep := study.sampling[s].sweep)]
    sentence = "Guidance scale and temperature: of the samples without / with guidance"
    if not sweeps:
        return f"{sentence}."
    counts = ", ".join(f"{n:,}" for n in sorted({sweep.samples for sweep in sweeps}))
    return f"{sentence}, chosen for each model by FID on {counts} other samples where the study has a sweep."


def _rejected(study: Study, name: str) -> str:
    """A sentence that explains the columns of rejection; empty where the table has none."""
    if not _rejects(study.tables[name], study) or study.rejecter is None:
        return ""
    who = study.rejecter.weights or "a second classifier, of another seed and trained on held-out images"
    return (
        f"Accepted: share of the drawn images to which {who} gives the class asked for at least the threshold of the "
        "setting, which is ours; it never judges. Draws an image: the cost."
    )


def _description(values: pd.DataFrame) -> list[str]:
    columns = list(values.columns)
    return columns[1 : columns.index("ours")]


def table_of(study: Study, name: str) -> Table:
    """A table of a study by its name.

    Raises:
        ValueError: it has none of this name.
    """
    if name not in study.tables:
        accepted = ", ".join(table_names(study))
        raise ValueError(f"study {study.study}: table {name!r}: not in tables; accepted: {accepted}")
    return study.tables[name]


def _numbers(column: Column, ours: Estimate | str) -> dict[str, Any]:
    keys = (column.name, f"{column.name}_low", f"{column.name}_high")[: 1 if column.metric in COUNTED else 3]
    if isinstance(ours, str):
        return dict.fromkeys(keys, ours)
    return dict(zip(keys, (ours.value, ours.low, ours.high), strict=False))
