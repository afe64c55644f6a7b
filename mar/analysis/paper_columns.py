"""Columns of the paper's tables, and which of a study's metrics stands in each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

NOT_RUN = "not run"  # declared by the study, not trained
FLOOR = "real versus real"


class Column(NamedTuple):
    """A column of numbers.

    Attributes:
        name: the column in the files that a study writes.
        metric: the metric in it.
        guided: whether it is of samples with guidance.
        paper: the column in the paper's file under config/paper/; empty if the paper has none.
        heading: the heading that is printed.
    """

    name: str
    metric: str
    guided: bool
    paper: str
    heading: str


COLUMNS = (
    Column("params", "parameters", False, "params", "parameters"),
    Column("head_params", "head_parameters", False, "head_params", "parameters of the head"),
    Column("training_days", "training", False, "days", "device days of training"),
    Column("rfid", "rfid", False, "rfid", "rFID, train split"),
    Column("fid", "fid", False, "fid_nocfg", "FID, no guidance"),
    Column("fid_infinity", "fid_infinity", False, "", "FID∞, no guidance"),
    Column("is", "inception_score", False, "is_nocfg", "IS, no guidance"),
    Column("precision", "precision", False, "pre_nocfg", "precision, no guidance"),
    Column("recall", "recall", False, "rec_nocfg", "recall, no guidance"),
    Column("fid_guided", "fid", True, "fid_cfg", "FID, guidance"),
    Column("fid_infinity_guided", "fid_infinity", True, "", "FID∞, guidance"),
    Column("is_guided", "inception_score", True, "is_cfg", "IS, guidance"),
    Column("precision_guided", "precision", True, "pre_cfg", "precision, guidance"),
    Column("recall_guided", "recall", True, "rec_cfg", "recall, guidance"),
    Column("seconds", "seconds", True, "seconds_per_image", "seconds an image"),
    Column("rel_time", "relative", True, "rel_time", "relative time"),
)
DIGITS = {"inception_score": 1, "seconds": 3, "training": 1}  # decimals that the paper prints; two for all others
COUNTED = frozenset({"parameters", "head_parameters"})  # the paper rounds these, to 479M or 2B
# metrics of sample sets, which have a real-versus-real floor
SAMPLED = frozenset({"fid", "fid_infinity", "inception_score", "precision", "recall"})
NAMES = {  # headings of columns that describe a row of the paper
    "variant": "model",
    "direction": "attention",
    "preds_per_step": "tokens a step",
}


def columns_of(paper: dict[str, dict[str, str]]) -> list[Column]:
    """The columns of numbers that a file of the paper has, in the order of COLUMNS."""
    keys = next(iter(paper.values()))
    return [column for column in COLUMNS if column.paper in keys]


def describing(paper: dict[str, dict[str, str]]) -> list[str]:
    """The columns of a file of the paper that describe a row: neither its key, nor a number, nor the source."""
    numbers = {column.paper for column in COLUMNS}
    return [key for key in next(iter(paper.values())) if key not in {"row", "source"} | numbers]


def headings(describe: Iterable[str]) -> list[str]:
    """The headings of columns that describe a row."""
    return [NAMES.get(key, key.replace("_", " ")) for key in describe]


def printed(text: str, metric: str) -> str:
    """A number of the paper with the digits that the paper prints; empty if it prints none."""
    return text if not text or metric in COUNTED | {"relative"} else f"{float(text):.{DIGITS.get(metric, 2)}f}"
