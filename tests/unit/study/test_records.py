"""Files that one stage writes and another reads: old ones are read, damaged ones refused with one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricate import PROVENANCE, fabricate, swept
from pydantic import BaseModel

from mar.analysis.estimates import Results
from mar.runtime.files import Manifest, Record, read, read_json, write, write_json
from mar.study.records import (
    Metric,
    MetricsFile,
    RfidRecord,
    SampleManifest,
    ShapeRecord,
    SpeedRecord,
    SweepRecord,
    TrackedRuns,
    Verdicts,
)
from mar.study.study import Study

CLAIM = {
    "id": "c",
    "text": "t",
    "source": "s",
    "decides": "any",
    "because": "b",
    "verdict": "inconclusive",
    "effect": 0.5,
    "low": 0.4,
    "high": 0.6,
    "scale": "log ratio",
    "reason": "r",
    "seeds": [2, 2],
    "evidence": [],
}
STAGE = {"stage": "encode", "note": "", **dict.fromkeys(("seconds", "cpu_seconds"), 1.0)}
STAGE |= dict.fromkeys(("memory_gb", "resident_gb", "disk_gb"), 0.1)
SHAPE = {"shape": "metrics", "covers": [], "parameters": 1, "stages": [STAGE], "machine": "m", "provenance": PROVENANCE}
# Each file with its record and where in it a number stands.
FILES: dict[str, tuple[type[BaseModel], tuple[str | int, ...]]] = {
    "metrics/diff/seed0/s4.json": (MetricsFile, ("metrics", "fid", "value")),
    "metrics/reference.json": (MetricsFile, ("samples",)),
    "samples/diff/seed0/s4/manifest.json": (SampleManifest, ("chunks", 0, "count")),
    "speed/diff.json": (SpeedRecord, ("points", "s4", "low")),
    "sweeps/diff/s4-cfg.json": (SweepRecord, ("grid", 1, "fid", "high")),
    "tokenizers/kl/rfid.json": (RfidRecord, ("metrics", "rfid", "n")),
    "drill/shapes/metrics.json": (ShapeRecord, ("stages", 0, "seconds")),
    "claims.json": (Verdicts, (0, "effect")),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study, root = swept(), tmp_path_factory.mktemp("records")
    fabricate(study, root, lambda variant, setting, seed: 20.0, noise=0.01, images=False)
    write_json(root / "claims.json", [CLAIM])
    write_json(root / "drill" / "shapes" / "metrics.json", SHAPE)
    return study, root


def changed(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    """JSON with another value at a place; `...`: without it."""
    values = json.loads(json.dumps(value))
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return values


@pytest.mark.parametrize("name", FILES)
def test_what_is_written_is_read_back(finished: tuple[Study, Path], name: str, tmp_path: Path) -> None:
    kind, _ = FILES[name]
    found = read(finished[1] / name, kind)
    write(tmp_path / "again.json", found)
    assert read(tmp_path / "again.json", kind) == found
    again, old = read_json(tmp_path / "again.json"), read_json(finished[1] / name)
    dated = issubclass(kind, Record) and not issubclass(kind, Manifest)
    assert again == ({"format": 1} | old if dated else old), "beside the format no more and no less"


DAMAGE: dict[str, Callable[[Any, tuple[str | int, ...]], Any]] = {
    "a list of numbers": lambda value, place: [1, 2],
    "a number": lambda value, place: 3,
    "without a key": lambda value, place: changed(value, place, ...),
    "null": lambda value, place: changed(value, place[:1], None),
    "text": lambda value, place: changed(value, place, "20.0"),
    "not a number": lambda value, place: changed(value, place, float("nan")),
    "infinite": lambda value, place: changed(value, place, float("inf")),
    "a truth": lambda value, place: changed(value, place, True),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused(finished: tuple[Study, Path], tmp_path: Path, name: str, damage: str) -> None:
    kind, place = FILES[name]
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(DAMAGE[damage](read_json(finished[1] / name), place)))
    with pytest.raises(ValueError) as caught:
        read(path, kind)
    refused(caught, path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cut", ["cut", "no UTF-8", "empty", "binary"])
def test_what_is_no_json_is_refused(finished: tuple[Study, Path], tmp_path: Path, name: str, cut: str) -> None:
    kind, _ = FILES[name]
    path, raw = tmp_path / "damaged.json", (finished[1] / name).read_bytes()
    broken = {"cut": raw[: len(raw) // 2], "no UTF-8": b'{"a": "\xff"}', "empty": b"", "binary": bytes(range(256))}
    path.write_bytes(broken[cut])
    with pytest.raises(ValueError) as caught:
        read(path, kind)
    refused(caught, path)


def refused(caught: pytest.ExceptionInfo[ValueError], path: Path) -> None:
    text = str(caught.value)
    assert type(caught.value) is ValueError and text.startswith(f"{path}: ")
    assert "accepted: " in text and "delete the file and run the same command again" in text
    assert len(text.splitlines()) == 1 and len(text) < 500


@pytest.mark.parametrize(
    ("name", "place", "new", "said"),
    [
        ("metrics/diff/seed0/s4.json", ("metrics", "fid", "low"), 30.0, r"metrics\.fid: low 30 is above high"),
        ("metrics/diff/seed0/s4.json", ("recipe",), {}, r"recipe\.slice: Field required"),
        ("metrics/diff/seed0/s4.json", ("inputs",), ..., r"inputs: Field required"),
        ("samples/diff/seed0/s4/manifest.json", ("count",), 50, "count: found 50; accepted: 40, as its pieces hold"),
        (
            "samples/diff/seed0/s4/manifest.json",
            ("chunks", 0, "file"),
            "../../x.npy",
            r"chunks\.0\.file: .*/x\.npy",
        ),
        ("samples/diff/seed0/s4/manifest.json", ("checkpoint",), "e", "checkpoint: .*found 'e'"),
        ("speed/diff.json", ("points", "s4", "seconds_per_image"), -1.0, r"points\.s4: found seconds that are not pos"),
        ("sweeps/diff/s4-cfg.json", ("best", "guidance"), 99.0, "best: guidance 99, temperature 0.95 is no point of"),
        ("sweeps/diff/s4-cfg.json", ("grid", 0, "error"), "e", r"grid\.0: found neither fid nor error, or both"),
        ("tokenizers/kl/rfid.json", ("metrics", "rfid"), ..., "metrics: rfid is missing; found psnr"),
        ("claims.json", (0, "verdict"), "certain", r"0\.verdict: .*found 'certain'"),
    ],
)
def test_what_cannot_be_is_refused(
    finished: tuple[Study, Path], tmp_path: Path, name: str, place: tuple[str | int, ...], new: Any, said: str
) -> None:
    path = tmp_path / "damaged.json"
    write_json(path, changed(read_json(finished[1] / name), place, new))
    with pytest.raises(ValueError, match=rf"damaged\.json: {said}"):
        read(path, FILES[name][0])


def test_keys_that_were_added_later_may_be_missing(finished: tuple[Study, Path], tmp_path: Path) -> None:
    root = finished[1]
    assert read(root / "speed" / "diff.json", SpeedRecord).points["s4"].head_share is None
    assert read(root / "tokenizers" / "kl" / "rfid.json", RfidRecord).train is None
    assert read(root / "samples" / "diff" / "seed0" / "s4" / "manifest.json", SampleManifest).labels_sha256 is None
    write_json(tmp_path / "mlflow.json", {"experiment": "1", "runs": {"runs/a/seed0": "f"}, "later": 1})
    assert read(tmp_path / "mlflow.json", TrackedRuns).server == "", "and those that are added later still are no harm"


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"one_seed": True}, "inconclusive (1 seed)"),
        ({"one_seed": False, "seeds": [1, 2]}, "inconclusive"),
        ({"seeds": [1, 2]}, "inconclusive (1 seed)"),  # of before it was recorded
        ({"seeds": [2, 2], "reason": "inconclusive (1 seed): not read"}, "inconclusive"),
        ({"one_seed": True, "verdict": "replicated"}, "replicated"),
    ],
)
def test_one_seed_is_said(tmp_path: Path, change: dict[str, Any], shown: str) -> None:
    write_json(tmp_path / "claims.json", [CLAIM | change])
    (verdict,) = read(tmp_path / "claims.json", Verdicts).root
    assert verdict.shown == shown


def test_a_distance_below_zero_is_refused(finished: tuple[Study, Path], tmp_path: Path) -> None:
    study, root = swept(), tmp_path
    fabricate(study, root, lambda variant, setting, seed: 20.0, images=False)
    file = root / "metrics" / "diff" / "seed0" / "s4.json"
    below = Metric(value=-3.0, low=-4.0, high=-2.0, n=40, bootstrap=20, seed=0, higher_is_better=False)
    found = read(file, MetricsFile)
    write(file, found.model_copy(update={"metrics": found.metrics | {"fid": below}}))
    with pytest.raises(ValueError, match=r"diff/seed0/s4\.json: metrics\.fid: found -3; accepted: at least 0"):
        Results(study, root).cell("diff", "s4", "fid")
