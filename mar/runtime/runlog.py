"""The log of a training, metrics.jsonl: one JSON object on each line, appended while the training runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from mar.runtime.files import a_file

MOST = 10**18  # images: a line that says more is damaged


def append(path: str | Path, line: dict[str, Any]) -> None:
    """Append one JSON line and flush it. A last line that was cut off by a kill is ended first and stays by itself."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            cut_off = file.read(1) != b"\n"
            file.write(b"\n" if cut_off else b"")
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()


def read(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl in the order of `images`; of a step that a restart repeated, the line written last.

    Every value is a finite number. Lines that say no whole number of images, as one that was cut off by a kill, are
    left out, and so are values that are no numbers. A missing file has no lines.

    Raises:
        ValueError: it is no file.
    """
    last: dict[int, dict[str, Any]] = {}
    try:
        text = a_file(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):  # ValueError: no JSON, or a number of thousands of digits
            continue
        values = {key: value for key, value in line.items() if _is_number(value)} if isinstance(line, dict) else {}
        if isinstance(images := values.get("images"), int) and 0 <= images <= MOST:
            last[images] = values
    return [last[images] for images in sorted(last)]


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number, small enough to be computed with."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf and abs(value) < 1e300
    )
