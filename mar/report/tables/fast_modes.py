"""The table `fast`: fast sampling modes of one variant, accepted or refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.acceptance import Mode, modes, percent, section_of
from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.noninferiority import MARGINS
from mar.analysis.result_files import Estimate, short
from mar.report.tables import formats
from mar.study import layout
from mar.study.study import Study

if TYPE_CHECKING:
    import pandas as pd


NAME, TITLE = "fast", "Fast sampling modes"


def frame(measured: list[Mode]) -> pd.DataFrame:
    """One row for the default and each mode: seconds, speed-up, metrics and FID difference with intervals, verdict."""
    import pandas as pd

    lines = []
    for mode in measured:
        line: dict[str, Any] = {"setting": mode.setting, "differs": mode.differs}
        ends = {name: (n.value, n.low, n.high) if n else ("", "", "") for name, n in _numbers(mode).items()}
        for metric in mode.metrics:
            lost = mode.losses.get(metric)
            ends[f"{metric}_loss"] = (lost.value, lost.low, lost.bound) if lost else ("", "", "")
        for name, three in ends.items():
            line |= dict(zip((name, f"{name}_low", f"{name}_high"), three, strict=True))
        line |= {"speedup": mode.speedup or "", "n": mode.metrics["fid"].n}
        line |= {"accepted": "" if mode.difference is None else not mode.refused, "refused": "; ".join(mode.refused)}
        lines.append(line)
    return pd.DataFrame(lines, dtype=object)


def _numbers(mode: Mode) -> dict[str, Estimate | None]:
    return {"seconds": mode.seconds, **mode.metrics}


def texts(measured: list[Mode]) -> pd.DataFrame:
    """The table for readers, one row for the default and each mode."""
    names = list(measured[0].metrics) if measured else []
    heads = [("", "setting", "l"), ("", "differs by", "l"), ("", "seconds an image", "r"), ("", "times as fast", "r")]
    heads += [("", title(metric), "r") for metric in names]
    heads += [("", f"{title(metric)} lost", "r") for metric in names]
    heads += [("", "accepted", "l")]
    rows = []
    for mode in measured:
        verdict = "" if mode.difference is None else f"no: {'; '.join(mode.refused)}" if mode.refused else "yes"
        cells = [mode.setting, mode.differs or "the default", str(mode.seconds or "")]
        cells += [short(mode.speedup) if mode.speedup else "", *(str(mode.metrics[metric]) for metric in names)]
        lost = [mode.losses.get(metric) for metric in names]
        cells += [f"{percent(x.value)} [{percent(x.low)}, {percent(x.bound)}]" if x else "" for x in lost]
        rows.append([*cells, verdict])
    return formats.texts(heads, rows)


def note(results: Results, measured: list[Mode]) -> str:
    """What the numbers are, and from how many images on a mode with the default's FID would be accepted."""
    study, section = results.study, section_of(results.study)
    held = [mode for mode in measured if mode.losses]
    if not held:
        return f"Not run: {section.variant} has no training seeds."
    margins = ", ".join(f"{title(metric)} {100 * MARGINS[metric]:g}%" for metric in held[0].losses)
    least = min(mode.power for mode in held)
    most = max((mode.enough or 0 for mode in held), default=0)
    many = f"; in 90% of studies from about {most} images on" if all(mode.enough for mode in held) else ""
    return (
        f"Variant {section.variant}, {study.metrics.samples} images a set, same weights, labels and noise seeds. Lost: "
        f"FID and IS in percent of the default's, precision and recall in points, with 95% intervals from "
        f"{study.metrics.bootstrap} resamples of pairs; below 0 it gains. Accepted: the upper end of each is at most "
        f"its margin ({margins}), whatever it gains. A mode that loses nothing passes in {100 * least:.0f}% of studies "
        f"of this size{many}. Seconds: median of timed batches and its interval, by the protocol of the trade-off "
        f"figure. FID of real images held out: {results.floor('fid')}."
    )


def table(study: Study, root: Path) -> None:
    """Write tables/fast.{csv,md,tex}."""
    results = Results(study, root)
    measured = modes(results)
    formats.write(root, NAME, TITLE, texts(measured), note(results, measured), frame(measured))
    accepted = sum(mode.difference is not None and not mode.refused for mode in measured)
    print(
        f"{layout.table(root, NAME, 'csv')}, .md, .tex: {accepted} of {max(0, len(measured) - 1)} modes accepted",
        flush=True,
    )
