"""The log of a training, metrics.jsonl: a JSON object a line, appended while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def append(path: str | Path, line: dict[str, Any]) -> None:
    """Append one JSON line and flush it. A line torn by a kill is closed first, so it spoils nothing after it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            torn = file.read(1) != b"\n"
            file.write(b"\n" if torn else b"")
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()


def read(path: str | Path) -> list[dict[str, Any]]:
    """Lines of a metrics.jsonl, ordered by `images`; of steps done twice (after a restart) the last one written.

    Torn lines (a process was killed while it wrote) and a missing file give fewer lines, not an error.
    """
    last: dict[int, dict[str, Any]] = {}
    try:
        text = Path(path).read_text(errors="replace")
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
