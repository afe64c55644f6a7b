"""Files that one stage writes and another reads: older ones are read, damaged ones refused in one message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabricate import PROVENANCE, fabricate, swept
from pydantic import BaseModel

from mar.analysis.estimates import Results
from mar.runtime.files import Manifest, Record, read, read_json, sha256, write, write_json
from mar.study.records import (
    ClassifierRecord,
    DataManifest,
    FileLists,
    ImportRecord,
    LockedFiles,
    Metric,
    MetricsFile,
    Origin,
    RfidRecord,
    RunRecord,
    SampleManifest,
    ShapeRecord,
    SpeedRecord,
    SweepRecord,
    TokenizerRecord,
    TokenManifest,
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
    "verdict": "undecided",
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
SOURCE = {"file": "f.pth", "sha256": "5" * 64, "size": 7}
ORIGIN = {"format": "official-mar", "source": SOURCE, "asset": None, "licence": "MIT"}
TOKENS = {"count": 3, "classes": 1, "class_names": ["a"], "views": 1, "grid": 4, "tokens": 16, "group": 1}
TOKENS |= {"tokenizer": "1" * 64, "data": "d" * 64}
FILES = {"labels_sha256": "2" * 64, "shards": [{"file": "shard-00000.npy", "count": 3, "sha256": "3" * 64}]}
METRIC = {"n": 40, "bootstrap": 20, "seed": 0, "higher_is_better": None}
IDS = {"kind": "ids", **TOKENS, "codebook_size": 16, **FILES}

# As versions before the records wrote them: without `format`, keys in this order.
OLD: dict[type[BaseModel], dict[str, Any]] = {
    DataManifest: {
        "kind": "digits",
        "classes": ["a"],
        "splits": {"train": {"count": 2, "per_class": [2]}, "heldout": {"count": 1, "per_class": [1]}},
        "files": "f" * 64,
        "skipped": [{"file": "a/b.png", "reason": "truncated"}],
        "image_size": 8,
        "flip": False,
        "listing": "sklearn",
    },
    FileLists: {"train": [["a/1.png", 0, 10], ["a/2.png", 0, 11]], "heldout": [["a/3.png", 0, 12]]},
    TokenManifest: {"kind": "moments", **TOKENS, "token_dim": 8, **FILES, "scale": 0.9377},
    TokenizerRecord: {"kind": "kl", "parameters": 5, "net": {"in_channels": 3}, "provenance": PROVENANCE},
    ClassifierRecord: {
        "accuracy": 0.97,
        "split": "heldout",
        "count": 1,
        "classes": ["a"],
        "parameters": 9,
        "provenance": PROVENANCE,
    },
    RunRecord: {
        "variant": "mar",
        "seed": 0,
        "parameters": 9,
        "images": 64,
        "seconds": 1.5,
        "restarts": 0,
        "final_loss": 0.5,
        "checkpoint": "e" * 64,
        "tokens": "7" * 64,
        "provenance": PROVENANCE,
    },
    ImportRecord: {
        **ORIGIN,
        "sha256": "6" * 64,
        "architecture": {"kind": "masked", "width": 32, "mlp_ratio": 4.0, "shared_aln": False, "scales": [1, 2]},
        "parameters": 9,
        "counts": {"mapped": 1, "dropped": 1},
        "tensors": {"a": "b 3x4 float32"},
        "dropped": {"c": "of the training loss"},
        "beside": {"epoch": "int"},
        "provenance": PROVENANCE,
    },
    LockedFiles: {"clean": {"sha256": "8" * 64, "size": 3, "url": "https://x.invalid/y"}},
}

# Each file with its record and the place of a number in it.
FILES: dict[str, tuple[type[BaseModel], tuple[str | int, ...]]] = {
    "metrics/diff/seed0/s4.json": (MetricsFile, ("metrics", "fid", "value")),
    "metrics/reference.json": (MetricsFile, ("samples",)),
    "samples/diff/seed0/s4/manifest.json": (SampleManifest, ("chunks", 0, "count")),
    "speed/diff.json": (SpeedRecord, ("points", "s4", "low")),
    "sweeps/diff/s4-cfg.json": (SweepRecord, ("grid", 1, "fid", "high")),
    "tokenizers/kl/rfid.json": (RfidRecord, ("metrics", "rfid", "n")),
    "drill/shapes/metrics.json": (ShapeRecord, ("stages", 0, "seconds")),
    "claims.json": (Verdicts, (0, "effect")),
    "DataManifest.json": (DataManifest, ("splits", "train", "count")),
    "FileLists.json": (FileLists, ("train", 0, 1)),
    "TokenManifest.json": (TokenManifest, ("scale",)),
    "TokenizerRecord.json": (TokenizerRecord, ("parameters",)),
    "ClassifierRecord.json": (ClassifierRecord, ("accuracy",)),
    "RunRecord.json": (RunRecord, ("seconds",)),
    "ImportRecord.json": (ImportRecord, ("source", "size")),
    "LockedFiles.json": (LockedFiles, ("clean", "size")),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    study, root = swept(), tmp_path_factory.mktemp("records")
    fabricate(study, root, lambda variant, setting, seed: 20.0, noise=0.01, images=False)
    write_json(root / "claims.json", [CLAIM])
    write_json(root / "drill" / "shapes" / "metrics.json", SHAPE)
    for record, values in OLD.items():
        write_json(root / f"{record.__name__}.json", values)
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
    if kind in OLD and not dated:
        assert sha256(tmp_path / "again.json") == sha256(finished[1] / name), "later stages name it by its checksum"


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
    refused(caught, path, kind)


CONTENT = {
    "list": b"[]",
    "number": b"3",
    "empty": b"",
    "brace": b"{",
    "latin-1": b'{"caf\xe9": 1}',
    "no UTF-8": b'{"a": "\xff"}',
    "short": b"\x00\x01\xff",
    "binary": bytes(range(256)),
    "deep": b"[" * 20_000,
    "nan": b'{"kind": NaN}',
}


@pytest.mark.parametrize("content", ["cut", *CONTENT])
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_something_else_is_refused(
    finished: tuple[Study, Path], tmp_path: Path, name: str, content: str
) -> None:
    kind, _ = FILES[name]
    path, raw = tmp_path / "damaged.json", (finished[1] / name).read_bytes()
    path.write_bytes(CONTENT.get(content, raw[: len(raw) // 2]))
    if (kind, content) == (Verdicts, "list"):  # of a study that decides no claim
        assert read(path, Verdicts).root == ()
        return
    with pytest.raises(ValueError) as caught:
        read(path, kind)
    refused(caught, path, kind)


def refused(caught: pytest.ExceptionInfo[ValueError], path: Path, kind: type[BaseModel]) -> None:
    text = str(caught.value)
    assert type(caught.value) is ValueError and text.startswith(f"{path}: ")
    assert f"; accepted: a {kind.__name__} " in text and "delete the file and run the same command again" in text
    assert len(text.splitlines()) == 1 and len(text) < 500


@pytest.mark.parametrize(
    ("name", "place", "new", "said"),
    [
        (
            "metrics/diff/seed0/s4.json",
            ("metrics", "fid", "low"),
            30.0,
            r"metrics\.fid: value 20 is outside of its interval, low 30",
        ),
        ("metrics/diff/seed0/s4.json", ("metrics", "fid", "value"), 1e6, r"metrics\.fid: value 1e\+06 is outside"),
        *(
            ("metrics/diff/seed0/s4.json", ("metrics", name), {**METRIC, "value": new, "low": new, "high": new}, said)
            for name, new, said in (
                ("precision", 7.0, r"metrics\.precision: found 7; accepted: 0 to 1"),
                ("recall", -0.5, r"metrics\.recall: found -0.5; accepted: 0 to 1"),
                ("agreement", 1.5, r"metrics\.agreement: found 1.5; accepted: 0 to 1"),
                ("inception_score", 0.1, r"metrics\.inception_score: found 0.1; accepted: 1 to"),
                ("fid", -3.0, r"metrics\.fid: found -3; accepted: 0 to"),
                ("fid", 1e300, r"metrics\.fid: found 1e\+300; accepted: 0 to 1e\+09"),
                ("fid_dinov2", -3.0, r"metrics\.fid_dinov2: found -3; accepted: 0 to"),
            )
        ),
        ("metrics/diff/seed0/s4.json", ("extractor",), "dinov2", "extractor: found 'dinov2'; accepted: one of"),
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
        ("speed/diff.json", ("points", "s4", "seconds_per_image"), -1.0, r"points\.s4: found seconds -1 with low"),
        ("sweeps/diff/s4-cfg.json", ("best", "guidance"), 99.0, "best: guidance 99, temperature 0.95 is no point of"),
        ("speed/diff.json", ("points", "s4", "seconds_per_image"), 1e9, r"points\.s4: found seconds 1e\+09 with low"),
        ("sweeps/diff/s4-cfg.json", ("grid", 0, "fid", "value"), 1e6, r"grid\.0\.fid: value 1e\+06 is outside"),
        ("sweeps/diff/s4-cfg.json", ("grid", 0, "error"), "e", r"grid\.0: found neither fid nor error, or both"),
        ("tokenizers/kl/rfid.json", ("metrics", "rfid"), ..., "metrics: rfid is missing; found psnr"),
        ("claims.json", (0, "verdict"), "certain", r"0\.verdict: .*found 'certain'"),
        ("RunRecord.json", ("seconds",), float("nan"), "seconds: Input should be a finite number"),
        ("RunRecord.json", ("images",), -1, "images: .*greater than or equal to 0; found '-1'"),
        ("RunRecord.json", ("images",), 1.5, r"images: .*; found '1\.5'"),
        ("RunRecord.json", ("checkpoint",), "c0ffee", "checkpoint: .*; found 'c0ffee'"),
        ("RunRecord.json", ("format",), 2, "format: Input should be 1; found '2'"),
        ("TokenManifest.json", ("shards", 0, "file"), "../../x.npy", r"shards\.0\.file: "),
        ("TokenManifest.json", ("kind",), "ids", "found kind ids without codebook_size"),
        ("TokenManifest.json", ("scales",), [1, 2], "found kind moments without code_width, quantizer_sha256"),
        ("TokenManifest.json", ("tokens",), 9, "tokens: found 9; accepted: "),
        ("TokenManifest.json", ("views",), 3, "views: found 3; accepted: 1, or 2"),
        ("TokenManifest.json", ("classes",), 99, "classes: found 99; accepted: "),
        ("TokenManifest.json", ("group",), 3, "token_dim: found .*accepted: a multiple of 9"),
        ("TokenManifest.json", ("count",), 5, "count: found 5; accepted: "),
        ("TokenManifest.json", ("scale",), -1.0, "scale: .*greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_refused(
    finished: tuple[Study, Path], tmp_path: Path, name: str, place: tuple[str | int, ...], new: Any, said: str
) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(changed(read_json(finished[1] / name), place, new)))
    with pytest.raises(ValueError, match=rf"damaged\.json: {said}"):
        read(path, FILES[name][0])


@pytest.mark.parametrize(
    ("name", "elsewhere", "key"),
    [
        ("metrics/diff/seed0/s4.json", "metrics/diff/seed0/s4-cfg.json", "setting"),
        ("metrics/diff/seed0/s4.json", "metrics/diff/seed7/s4.json", "seed"),
        ("metrics/diff/seed0/s4.json", "metrics/other/seed0/s4.json", "variant"),
        ("metrics/reference.json", "metrics/diff/seed0/s4.json", "variant"),
        ("samples/diff/seed0/s4/manifest.json", "samples/diff/seed0/s4-cfg/manifest.json", "setting"),
        ("speed/diff.json", "speed/other.json", "variant"),
        ("sweeps/diff/s4-cfg.json", "sweeps/diff/s8-cfg.json", "setting"),
        ("RunRecord.json", "runs/mar/seed1/run.json", "seed"),
        ("drill/shapes/metrics.json", "drill/shapes/data.json", "shape"),
    ],
)
def test_a_record_copied_to_the_place_of_another_is_refused(
    finished: tuple[Study, Path], tmp_path: Path, name: str, elsewhere: str, key: str
) -> None:
    path, content, kind = tmp_path / elsewhere, (finished[1] / name).read_bytes(), FILES[name][0]
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name}: {key}: found .*; accepted: .*, as its path says; delete it"):
        read(path, kind)
    (tmp_path / "elsewhere.json").write_bytes(content)  # as of a folder that somebody sent
    read(tmp_path / "elsewhere.json", kind)


@pytest.mark.parametrize(
    ("record", "key"), [(record, key) for record, old in OLD.items() if record is not LockedFiles for key in old]
)
def test_a_key_that_is_missing_or_of_another_type_is_named(tmp_path: Path, record: type[BaseModel], key: str) -> None:
    path, old = tmp_path / "a.json", OLD[record]
    if record.model_fields[key].is_required() or key == "scale":
        path.write_text(json.dumps({k: v for k, v in old.items() if k != key}))
        with pytest.raises(ValueError, match=rf"a\.json: .*{key}.*; accepted: a {record.__name__}"):
            read(path, record)
    wrong: dict[str, Any] = {"value": 1} if isinstance(old[key], str | list | type(None)) else "text"
    path.write_text(json.dumps(old | {key: wrong}))
    with pytest.raises(ValueError, match=rf"a\.json: {key}.*; found .*; accepted: a {record.__name__}"):
        read(path, record)


def test_keys_of_a_newer_version_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OLD[RunRecord] | {"format": 1, "novelty": 3}))
    found = read(tmp_path / "a.json", RunRecord)
    assert (found.images, found.head_parameters, found.processes, found.pretrained) == (64, None, 1, None)


def test_keys_that_were_added_later_may_be_missing(finished: tuple[Study, Path], tmp_path: Path) -> None:
    root = finished[1]
    assert read(root / "speed" / "diff.json", SpeedRecord).points["s4"].head_share is None
    assert read(root / "tokenizers" / "kl" / "rfid.json", RfidRecord).train is None
    assert read(root / "samples" / "diff" / "seed0" / "s4" / "manifest.json", SampleManifest).labels_sha256 is None
    write_json(tmp_path / "mlflow.json", {"experiment": "1", "runs": {"runs/a/seed0": "f"}, "later": 1})
    assert read(tmp_path / "mlflow.json", TrackedRuns).server == "", "and those that are added later still are no harm"


OTHER = {"extractor": "dinov2", "verdict": "not replicated", "effect": 0.1, "low": 0.05, "high": 0.2}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"missing": {"kind": "one seed", "text": "t"}}, "undecided: one seed"),
        ({"missing": None}, "undecided"),
        ({"verdict": "replicated", "extractors": [OTHER]}, "replicated (dinov2: not replicated)"),
        ({"verdict": "not replicated", "extractors": [OTHER]}, "not replicated"),
    ],
)
def test_what_is_missing_and_who_disagrees_is_said(tmp_path: Path, change: dict[str, Any], shown: str) -> None:
    write_json(tmp_path / "claims.json", [CLAIM | change])
    (verdict,) = read(tmp_path / "claims.json", Verdicts).root
    assert verdict.shown == shown


def test_a_lack_is_one_of_a_closed_set(tmp_path: Path) -> None:
    write_json(tmp_path / "claims.json", [CLAIM | {"missing": {"kind": "luck", "text": "t"}}])
    with pytest.raises(ValueError, match=r"missing.kind: .*'interval'.*'still learning'"):
        read(tmp_path / "claims.json", Verdicts)


def test_a_distance_below_zero_is_refused(finished: tuple[Study, Path], tmp_path: Path) -> None:
    study, root = swept(), tmp_path
    fabricate(study, root, lambda variant, setting, seed: 20.0, images=False)
    file = root / "metrics" / "diff" / "seed0" / "s4.json"
    below = Metric(value=-3.0, low=-4.0, high=-2.0, n=40, bootstrap=20, seed=0, higher_is_better=False)
    found = read(file, MetricsFile)
    write(file, found.model_copy(update={"metrics": found.metrics | {"fid": below}}))
    with pytest.raises(ValueError, match=r"diff/seed0/s4\.json: metrics\.fid: found -3; accepted: 0 to"):
        Results(study, root).cell("diff", "s4", "fid")


def test_ids_need_no_scale(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(IDS))
    found = read(tmp_path / "a.json", TokenManifest)
    assert (found.scale, found.token_dim, found.scales) == (0.0, 0, ())


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.json: missing; the stage that writes it has not run"):
        read(tmp_path / "no.json", RunRecord)
    with pytest.raises(ValueError, match="found a folder; accepted: a file"):
        read(tmp_path, RunRecord)


def test_where_imported_weights_are_from(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OLD[ImportRecord]))
    assert read(tmp_path / "a.json", ImportRecord).origin == Origin.model_validate(ORIGIN)
