"""Prints every package of a lock with the licence that its own metadata names: third_party.py requirements.lock."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path


def licence(name: str) -> str:
    """The licence of an installed package: its expression, else its classifiers, else the first line of its text."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    classifiers = [value.split(" :: ")[-1] for value in found.get_all("Classifier", []) if value.startswith("License")]
    text = (found.get("License") or "").strip().split("\n")[0]
    said = found.get("License-Expression") or ", ".join(classifiers) or text
    return said or "none in its metadata: see its .dist-info folder"


def table(lock: Path) -> str:
    """A table in Markdown: package, version, licence."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    rows = [f"| {name} | {version} | {licence(name).replace('|', '/')} |" for name, version in pins]
    return "\n".join(["| package | version | licence |", "|---|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(table(Path(sys.argv[1])), end="")
