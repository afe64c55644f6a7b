"""The log of a training, metrics.jsonl: one JSON object on each line, appended while the training runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


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

    Lines that were cut off by a kill are left out, and a missing file has no lines.
    """
    last: dict[int, dict[str, Any]] = {}
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and "images" in line:
            last[int(line["images"])] = line
    return [last[images] for images in sorted(last)]
