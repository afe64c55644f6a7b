"""The table `fast`: fast sampling modes of one variant, accepted or refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.analysis.acceptance import MARGIN, Mode, modes, percent, section_of
from mar.analysis.estimates import Results
from mar.analysis.metric_kinds import title
from mar.analysis.result_files import short
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
        numbers = {"seconds": mode.seconds, **mode.metrics, "fid_difference": mode.difference}
        for name, number in numbers.items():
            ends = (number.value, number.low, number.high) if number else ("", "", "")
            line |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        line |= {"speedup": mode.speedup or "", "n": mode.metrics["fid"].n}
        line |= {"accepted": "" if mode.difference is None else not mode.refused, "refused": "; ".join(mode.refused)}
        lines.append(line)
    return pd.DataFrame(lines, dtype=object)


def texts(measured: list[Mode]) -> pd.DataFrame:
    """The table for readers, one row for the default and each mode."""
    names = list(measured[0].metrics) if measured else []
    heads = [("", "setting", "l"), ("", "differs by", "l"), ("", "seconds an image", "r"), ("", "times as fast", "r")]
    heads += [("", title(metric), "r") for metric in names]
    heads += [("", "FID difference", "r"), ("", "accepted", "l")]
    rows = []
    for mode in measured:
        difference = ""
        if mode.difference:
            low, high = percent(mode.difference.low), percent(mode.difference.high)
            difference = f"{percent(mode.difference.value)} [{low}, {high}]"
        verdict = "" if mode.difference is None else f"no: {'; '.join(mode.refused)}" if mode.refused else "yes"
        cells = [mode.setting, mode.differs or "the default", str(mode.seconds or "")]
        cells += [short(mode.speedup) if mode.speedup else "", *(str(mode.metrics[metric]) for metric in names)]
        rows.append([*cells, difference, verdict])
    return formats.texts(heads, rows)


def note(results: Results, measured: list[Mode]) -> str:
    """What the numbers are, and from how many images on a mode with the default's FID would be accepted."""
    study, section = results.study, section_of(results.study)
    differences = [mode.difference for mode in measured if mode.difference]
    if not differences:
        return f"Not run: {section.variant} has no training seeds."
    widest = max((d.high - d.low) / 2 for d in differences)
    enough = int(-(-study.metrics.samples * (widest / MARGIN) ** 2 // 100) * 100)
    return (
        f"Variant {section.variant}, {study.metrics.samples} images a set, same weights, labels and noise seeds. FID "
        f"difference: from the default's, in percent of it, with its 95% interval from {study.metrics.bootstrap} "
        f"resamples of pairs. Accepted: its upper end is at most {100 * MARGIN:g}%, and IS, precision and recall lie "
        f"inside the default's intervals. The widest interval is +-{100 * widest:.1f}%: a mode of exactly the "
        f"default's FID passes from about {enough} images on. Seconds: median of timed batches and its interval, by "
        f"the protocol of the trade-off figure. FID of real images held out: {results.floor('fid')}."
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
