"""The table `learning`: where each variant's held-out loss and FID were lowest, and whether it was still learning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.learning_curves import along, optimum, records, trend
from mar.analysis.result_files import short
from mar.report.tables import formats
from mar.study import layout
from mar.study.products import learned
from mar.study.records import Range
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd


NAME, TITLE = "learning", "Curves of learning"
NOTE = (
    "At the weight averages that each training kept (evaluate_at), means over the training seeds. Loss on held-out "
    "images at fixed noise, mean over the mask ratios; losses of different heads share no scale, and none says how "
    "good samples are. FID of images drawn there against held-out images, another reference and number of images than "
    "in the other tables. Best checkpoint: the lowest FID on the way, of a model that this FID chose; a sensitivity "
    "row that no claim uses. Change of FID in the last quarter: [95% interval], paired by noise; where it lies below "
    "zero, the variant was still learning."
)


def frame(results: Results) -> pd.DataFrame:
    """One row per variant: loss at the end and at its lowest, the same of FID, and the change in the last quarter."""
    import pandas as pd

    lines = []
    for variant in dict.fromkeys(name for name, _ in learned(results.study)):
        found = records(results, variant)
        line: dict[str, Any] = {"variant": variant, "head": _head(results.study, variant)}
        line |= {"images": found[0].points[-1].images, "operations_per_image": found[0].operations}
        line |= {"seeds": " ".join(str(record.seed) for record in found)}
        for what, name in (("heldout", "heldout_loss"), ("train", "train_loss"), ("fid", "fid")):
            curve = along(found, what)
            ended = curve[-1][1] if curve and curve[-1][0] == line["images"] else None
            lowest = optimum(curve)
            line |= _numbers(name, ended) | {f"{name}_lowest_at": lowest[0] if lowest else ""}
            line |= _numbers(f"{name}_lowest", lowest[1] if lowest else None)
        change = trend(found)
        line |= {"setting": found[0].setting or "", "samples": found[0].samples or ""}
        line |= {"since": change.since if change else "", "log_ratio": change.effect if change else ""}
        line |= {"log_ratio_low": change.low if change else "", "log_ratio_high": change.high if change else ""}
        lines.append(line | {"change": str(change or ""), "still_learning": change.falls if change else ""})
    return pd.DataFrame(lines, dtype=object)


def texts(results: Results) -> pd.DataFrame:
    """The table for readers."""
    loss, fid = "held-out loss", "FID against held-out images"
    heads = [("", "variant", "l"), (loss, "at the end", "r"), (loss, "lowest", "r"), (loss, "after images", "r")]
    heads += [("", "train loss at the end", "r"), (fid, "at the end", "r"), (fid, "best checkpoint", "r")]
    heads += [(fid, "after images", "r"), (fid, "change in the last quarter", "r"), ("", "still learning", "l")]
    rows = []
    for _, line in frame(results).iterrows():
        cells = [line["variant"], *(_text(line, name) for name in ("heldout_loss", "heldout_loss_lowest"))]
        cells += [_count(line, "heldout_loss"), _text(line, "train_loss"), _text(line, "fid")]
        cells += [_text(line, "fid_lowest"), _count(line, "fid"), line["change"]]
        rows.append([*cells, "not measured" if line["still_learning"] == "" else _yes(line["still_learning"])])
    return formats.texts(heads, rows)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _head(study: Study, variant: str) -> str:
    return study.heads[study.variants[variant].head].kind


def _numbers(name: str, number: Range | None) -> dict[str, float | str]:
    keys = {"": "value", "_low": "low", "_high": "high"}
    return {f"{name}{end}": getattr(number, key) if number else "" for end, key in keys.items()}


def _text(line: Any, name: str) -> str:
    if line[name] == "":
        return ""
    return f"{short(line[name])} [{short(line[f'{name}_low'])}, {short(line[f'{name}_high'])}]"


def _count(line: Any, name: str) -> str:
    at = line[f"{name}_lowest_at"]
    return f"{at:,}" if at != "" else ""


def table(study: Study, root: Path) -> None:
    """Write tables/learning.{csv,md,tex}."""
    results = Results(study, root)
    values = texts(results)
    formats.write(root, NAME, TITLE, values, NOTE, frame(results))
    print(f"{layout.table(root, NAME, 'csv')}, .md, .tex: {len(values)} variants", flush=True)
