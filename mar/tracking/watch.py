"""`mar watch`: the trainings of a study as they run, on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mar.runtime.runlog import read
from mar.study import layout
from mar.study.study import Study
from mar.tracking.mlflow_sync import _sources

if TYPE_CHECKING:
    from rich.table import Table


def watch(study: Study, root: Path, every: float = 2.0) -> None:
    """Show all trainings of a study live until Ctrl-C; without a terminal, print them once.

    Args:
        study: the study.
        root: its results folder.
        every: seconds between two readings of the files.
    """
    from rich.console import Console
    from rich.live import Live

    if not sys.stdout.isatty():
        Console(width=120, markup=False, emoji=False).print(_progress_table(study, Path(root)))
        return
    try:
        with Live(
            _progress_table(study, Path(root)), console=Console(markup=False, emoji=False), refresh_per_second=4
        ) as live:
            while True:
                time.sleep(every)
                live.update(_progress_table(study, Path(root)))
    except KeyboardInterrupt:
        pass


def _progress_table(study: Study, root: Path) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=f"{study.study}: {root}", box=box.SIMPLE_HEAD, title_justify="left")
    measured = ("data wait", "memory GB", "MFU")
    for column in ("training", "images", "of", "loss", "images/s", *measured, "left"):
        table.add_column(column, justify="left" if column == "training" else "right", no_wrap=True)
    for source in _sources(study, root):
        lines = read(source.folder / layout.LOG)
        last: dict[str, Any] = lines[-1] if lines else {"images": 0}
        rate = _rate(lines)
        left = "done" if source.done.exists() else "" if not rate else _clock((source.total - last["images"]) / rate)
        loss = f"{last['loss']:.4f}" if "loss" in last else ""
        name = source.key.removeprefix("runs/")
        speed = f"{rate:,.0f}" if rate else ""
        table.add_row(name, f"{last['images']:,}", f"{source.total:,}", loss, speed, *_measured(last), left)
    return table


def _measured(line: dict[str, Any]) -> list[str]:
    """Data wait, peak memory and utilisation of the last line of a log; empty where it has none."""
    forms: dict[str, Callable[[float], str]] = {
        "data_wait": "{:.0%}".format,
        "peak_memory": lambda number: f"{number / 1e9:.1f}",
        "utilisation": "{:.0%}".format,
    }
    return [form(line[name]) if name in line else "" for name, form in forms.items()]  # numbers, as the log is read


def _rate(lines: list[dict[str, Any]]) -> float:
    """Images per second over the last ten lines, 0 where it is unknown."""
    timed = [line for line in lines[-10:] if "time" in line]
    if len(timed) < 2:
        return 0.0
    seconds = timed[-1]["time"] - timed[0]["time"]
    return (timed[-1]["images"] - timed[0]["images"]) / seconds if seconds > 0 else 0.0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
