"""The table `tasks`: in-painting, out-painting and class change of held-out images, each model on the same ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.estimates import Results
from mar.analysis.result_files import short
from mar.analysis.tasks import Effect, against, done, interval, records
from mar.report.tables import formats
from mar.study import layout
from mar.study.labels import label
from mar.study.records import Metric
from mar.study.sections import TASKS
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd


NAME, TITLE = "tasks", "Zero-shot tasks"
NOTE = (
    "Held-out images, the same for all models, one draw of each; protocol fair: pixels under the mask are grey before "
    "encoding, and tokens beside a masked one are drawn too. Box: {box}. FID: of pictures with the drawn part in the "
    "image's own surroundings; exchanged: with the part drawn for another image that shows the same class; tokenizer: "
    "with the part as the tokenizer rebuilds it; images: as they are. Outside the mask: PSNR in dB and LPIPS-like "
    "distance to the image, and what the tokenizer alone loses there. Class: share of the pictures that the study's "
    "classifier gives the class that they should show; that of the images themselves in brackets. Against: this "
    "model's FID over that of the first, and its PSNR and class share less that of the first. Intervals: 95%, over the "
    "images; the first training seed of each model."
)
MEASURES = ("fid", "fid_exchanged", "fid_rebuilt", "fid_real", "psnr", "psnr_rebuilt", "distance", "distance_rebuilt")
COMPARED = ("fid", "psnr", "agreement")


def frame(results: Results) -> pd.DataFrame:
    """One row for each task and model."""
    import pandas as pd

    found, lines = records(results), []
    for task in TASKS:
        for record in found:
            one = done(record, task)
            line: dict[str, Any] = {"task": task, "variant": record.variant, "seed": record.seed}
            line |= {"setting": record.setting, "images": record.count, "drawn": one.drawn}
            for name in (*MEASURES, "agreement", "agreement_real"):
                line |= _ends(name, one.metrics.get(name))
            line |= _ends("fid_over_exchanged", _ratio(interval(one.fits)))
            for name in COMPARED:
                effect = against(results, record, found[0], task, name) if record is not found[0] else None
                line |= _ends(f"{name}_against", effect and (_ratio(effect) if name == "fid" else effect))
            lines.append(line | {"against": found[0].variant if record is not found[0] else ""})
    return pd.DataFrame(lines, dtype=object)


def texts(results: Results) -> pd.DataFrame:
    """The table for readers."""
    inside, outside, other = "FID", "outside the mask", f"against {label(results.study, records(results)[0].variant)}"
    heads = [("", "task", "l"), ("", "model", "l"), ("", "images", "r"), ("", "tokens drawn", "r")]
    heads += [(inside, "drawn", "r"), (inside, "drawn / exchanged", "r"), (inside, "tokenizer", "r")]
    heads += [(inside, "images", "r"), (outside, "PSNR", "r"), (outside, "PSNR of the tokenizer", "r")]
    heads += [(outside, "distance", "r"), (outside, "distance of the tokenizer", "r"), ("", "class", "r")]
    heads += [(other, "FID", "r"), (other, "PSNR", "r"), (other, "class", "r")]
    rows = []
    for _, line in frame(results).iterrows():
        agreement = _text(line, "agreement")
        real = f" ({short(line['agreement_real'])})" if agreement else ""
        cells = [line["task"], label(results.study, line["variant"]), str(line["images"]), f"{line['drawn']:.0%}"]
        cells += [_text(line, name) for name in ("fid", "fid_over_exchanged", "fid_rebuilt")]
        cells += [short(line["fid_real"]), _text(line, "psnr"), short(line["psnr_rebuilt"])]
        cells += [_text(line, "distance"), short(line["distance_rebuilt"]), agreement + real]
        rows.append([*cells, *(_text(line, f"{name}_against") for name in COMPARED)])
    return formats.texts(heads, rows)


def note(study: Study) -> str:
    """What the columns mean."""
    assert study.tasks is not None  # whose table it is
    return NOTE.format(box=", ".join(f"{share:g}" for share in study.tasks.box))


def _ratio(effect: Effect) -> Effect:
    return Effect(*map(math.exp, effect))


def _ends(name: str, metric: Metric | Effect | None) -> dict[str, float | str]:
    if metric is None:
        return {name: "", f"{name}_low": "", f"{name}_high": ""}
    value = metric.value if isinstance(metric, Metric) else metric.effect
    return {name: value, f"{name}_low": metric.low, f"{name}_high": metric.high}


def _text(line: Any, name: str) -> str:
    if line[name] == "":
        return ""
    return f"{short(line[name])} [{short(line[f'{name}_low'])}, {short(line[f'{name}_high'])}]"


def table(study: Study, root: Path) -> None:
    """Write tables/tasks.{csv,md,tex}."""
    results = Results(study, root)
    values = texts(results)
    formats.write(root, NAME, TITLE, values, note(study), frame(results))
    print(f"{layout.table(root, NAME, 'csv')}, .md, .tex: {len(values)} rows", flush=True)
