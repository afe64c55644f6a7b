"""Texts of others, file names among them, made fit to be printed and written."""

from __future__ import annotations

import re
from pathlib import Path

# Control characters, among them escape, and bytes that are no UTF-8.
UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str | Path) -> str:
    r"""A text with control characters (terminal escapes) and undecodable bytes written out, as `\x1b` and `\udcff`.

    New lines stay: `one_line` writes them out too.
    """
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], str(text))


def one_line(name: str | Path) -> str:
    r"""A file name as `printable` has it, new lines written out as `\n`."""
    return printable(name).replace("\n", "\\n")
