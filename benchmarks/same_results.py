"""Whether two results folders hold the same: weights, tokens, samples, features, metrics and tables, to the bit.

    python -m benchmarks.same_results OLD/results/smoke NEW/results/smoke [--cells]

Times, commits and machines may differ, and so may checksums of files that name them; everything else is compared.
With --cells, Markdown and LaTeX tables are compared cell by cell instead of byte by byte. Exit status 1: they differ.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

# Keys that may differ: they name time, commit or machine, or are checksums of files that do, or are of a later version.
MADE = {
    "provenance",
    "seconds",
    "time",
    "inputs",
    "recipe",
    "sha256",
    "data",
    "source",
    "reference",
    "format",
    "head_parameters",
}
RULE = re.compile(r"\\midrule|\\cmidrule\(lr\)\{[\d-]+\}|^\|[-:| ]+\|$", re.MULTILINE)
SPAN = re.compile(r"\\multicolumn\{(\d+)\}\{c\}\{(.*?)\}(?= [&\\])")  # a heading that spans several columns


def plain(value: Any) -> Any:
    """A JSON value without the keys in MADE and without null values, which mean the same as no key.

    Claims that rest on timings are left out too, and `tokens` where it is a checksum and not a number.
    """
    if isinstance(value, dict):
        values = {k: v for k, v in value.items() if v is not None and k not in MADE}
        return {k: plain(v) for k, v in values.items() if not (k == "tokens" and isinstance(v, str))}
    if isinstance(value, list):
        return [plain(v) for v in value if not timed(v)]
    return value


def timed(entry: Any) -> bool:
    """Whether an entry of claims.json rests on timings."""
    evidence = entry.get("evidence", []) if isinstance(entry, dict) else []
    return any(isinstance(e, dict) and "seconds" in str(e.get("metric")) for e in evidence)


def content(path: Path) -> Any:
    """The content of a file that is compared."""
    if path.suffix == ".json":
        return plain(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".safetensors":
        return {name: (a.shape, a.dtype.str, a.tobytes()) for name, a in load_file(path).items()}
    if path.suffix == ".npy":
        return path.read_bytes()
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {k: arrays[k].tobytes() for k in arrays if k not in ("about", "source")}
    return path.read_text(encoding="utf-8")


def cells(text: str) -> list[list[str]]:
    """The cells of each line of a table in Markdown or LaTeX, without rules and alignment; other lines are one cell."""
    text = SPAN.sub(lambda span: span[2] + " & " * (int(span[1]) - 1), RULE.sub("", text))
    lines = (line.strip().rstrip("\\") for line in text.splitlines())
    return [[" ".join(cell.split()) for cell in re.split(r"(?<!\\)[|&]", line)] for line in lines if line]


def files(root: Path) -> Iterator[Path]:
    """Paths of the files that are compared, relative to the results folder."""
    for folder in ("data", "classifier", "tokenizers", "tokens", "runs", "sweeps", "samples", "features", "statistics"):
        yield from (path.relative_to(root) for path in sorted((root / folder).rglob("*")) if kept(path))
    for folder in ("metrics", "tables"):
        yield from (path.relative_to(root) for path in sorted((root / folder).rglob("*")) if kept(path))
    yield from (path.relative_to(root) for path in [root / "claims.json"] if path.exists())


def kept(path: Path) -> bool:
    """Whether a file is a result: no folder, no lock, no checkpoint, no log, no record of what a folder depends on."""
    return (
        path.suffix in (".json", ".npy", ".npz", ".safetensors", ".csv", ".md", ".tex")
        and path.name != "recipe.json"
        and "checkpoints" not in path.parts
    )


def main() -> None:
    """Compare two results folders and print which files differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--cells", action="store_true")
    given = parser.parse_args()
    old, new = set(files(given.old)), set(files(given.new))
    differ = [f"only in one: {path}" for path in sorted(old ^ new)]
    for path in sorted(old & new):
        a, b = content(given.old / path), content(given.new / path)
        if given.cells and path.suffix in (".md", ".tex"):
            a, b = cells(a), cells(b)
        if a != b:
            differ.append(f"differs: {path}")
    print("\n".join(differ))
    print(f"{len(old & new)} files compared, {len(differ)} differ")
    raise SystemExit(bool(differ))


if __name__ == "__main__":
    main()
