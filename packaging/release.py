"""Refuses a release whose files disagree about its number, and writes its notes: release.py v0.1.0 FILE."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import mar

PLACES = {"CITATION.cff": r"^version: (.+)$", "CHANGELOG.md": r"^## \[(\d[^\]]*)\]"}


def notes(version: str) -> str:
    """The part of CHANGELOG.md on a version.

    Raises:
        ValueError: the package, CITATION.cff or the newest entry of CHANGELOG.md has another version.
    """
    said = {"mar/__init__.py": mar.__version__}
    for place, line in PLACES.items():
        found = re.search(line, Path(place).read_text(encoding="utf-8"), re.MULTILINE)
        said[place] = found[1] if found else "none"
    wrong = [f"{place}: found version {found}" for place, found in said.items() if found != version]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; accepted: {version}, as the tag says")
    changes = Path("CHANGELOG.md").read_text(encoding="utf-8")
    # the headings part the file into what stands above the first, then a version and its text in turn
    parts = re.split(r"^## \[(.+?)\].*$", changes, flags=re.MULTILINE)
    return parts[parts.index(version) + 1].strip() + "\n"


if __name__ == "__main__":
    try:
        Path(sys.argv[2]).write_text(notes(sys.argv[1].removeprefix("v")), encoding="utf-8")
    except ValueError as error:
        sys.exit(f"Error: {error}")
