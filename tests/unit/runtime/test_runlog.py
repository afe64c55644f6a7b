"""The log of a training: what is damaged in it is left out, and what is read is numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mar.runtime import runlog


@pytest.mark.parametrize(
    "line",
    [
        '{"images": Infinity, "loss": 1}',
        '{"images": NaN}',
        '{"images": "x", "loss": 1}',
        '{"images": 1.5}',
        '{"images": true}',
        '{"images": -5, "loss": 1}',
        '{"images": 1' + 400 * "0" + "}",
        '{"images": ' + 5000 * "9" + "}",
        "[" * 100_000,
        "[1, 2]",
        '{"images": 12, "lo',
        "\x00\udcff",
    ],
)
def test_a_line_without_a_number_of_images_is_left_out(tmp_path: Path, line: str) -> None:
    file = tmp_path / "metrics.jsonl"
    runlog.append(file, {"images": 64, "loss": 0.5})
    with open(file, "a", errors="surrogateescape") as log:
        log.write(line + "\n")
    runlog.append(file, {"images": 128, "loss": 0.25})
    assert runlog.read(file) == [{"images": 64, "loss": 0.5}, {"images": 128, "loss": 0.25}]


@pytest.mark.parametrize("value", ['"x"', "NaN", "Infinity", "null", "[1]", "true", "1e400"])
def test_a_value_that_is_no_number_is_left_out(tmp_path: Path, value: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"images": 64, "loss": {value}, "learning_rate": 0.1}}\n')
    assert runlog.read(file) == [{"images": 64, "learning_rate": 0.1}]


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match=r"metrics\.jsonl: found a pipe or device; accepted: a file"):
        runlog.read(tmp_path / "metrics.jsonl")
    assert runlog.read(tmp_path / "missing.jsonl") == []
