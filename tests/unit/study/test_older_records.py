"""Records on disk: what older versions wrote is read, what is damaged is refused in one message, bytes stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mar.runtime.files import Manifest, Record, read, sha256, write
from mar.study import records
from mar.study.records import (
    ClassifierRecord,
    DataManifest,
    FileLists,
    ImportRecord,
    LockedFiles,
    RunRecord,
    TokenizerRecord,
    TokenManifest,
)

PROVENANCE = {"git_commit": "c", "time": "t", "python": "3.11", "torch": "2", "machine": "m", "cores": 2}
PROVENANCE |= {"device": "cpu", "threads": None}
SOURCE = {"file": "f.pth", "sha256": "5" * 64, "size": 7}
ORIGIN = {"format": "official-mar", "source": SOURCE, "asset": None, "licence": "MIT"}
TOKENS = {"count": 3, "classes": 1, "class_names": ["a"], "views": 1, "grid": 4, "tokens": 16, "group": 1}
TOKENS |= {"tokenizer": "1" * 64, "data": "d" * 64}
FILES = {"labels_sha256": "2" * 64, "shards": [{"file": "shard-00000.npy", "count": 3, "sha256": "3" * 64}]}
IDS = {"kind": "ids", **TOKENS, "codebook_size": 16, **FILES}

# As versions before the records wrote them: without `format`, keys in this order.
OLD: dict[type[Any], dict[str, Any]] = {
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


@pytest.mark.parametrize("record", OLD)
def test_files_of_older_versions_are_read_and_written_again(tmp_path: Path, record: type[Any]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(OLD[record], indent=1) + "\n")
    before = sha256(path)
    write(path, read(path, record))
    if issubclass(record, Record) and not issubclass(record, Manifest):
        assert json.loads(path.read_text()) == {"format": 1} | OLD[record]
    else:
        assert sha256(path) == before, "later stages name it by its checksum"


def test_keys_of_a_newer_version_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OLD[RunRecord] | {"format": 1, "novelty": 3}))
    found = read(tmp_path / "a.json", RunRecord)
    assert (found.images, found.head_parameters, found.processes, found.pretrained) == (64, None, 1, None)


@pytest.mark.parametrize("record", OLD)
@pytest.mark.parametrize(
    "content",
    [b"[]", b"3", b"", b"{", b'{"caf\xe9": 1}', b"\x00\x01\xff", b"[" * 20_000, b'{"kind": NaN}'],
    ids=["list", "number", "empty", "cut", "latin-1", "binary", "deep", "nan"],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, record: type[Any], content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"^{tmp_path}/a\.json: .*; accepted: a {record.__name__} .*; delete the file"
    ):
        read(tmp_path / "a.json", record)


@pytest.mark.parametrize(
    ("record", "key"), [(record, key) for record, old in OLD.items() if record is not LockedFiles for key in old]
)
def test_a_key_that_is_missing_or_of_another_type_is_named(tmp_path: Path, record: type[Any], key: str) -> None:
    path, old = tmp_path / "a.json", OLD[record]
    if record.model_fields[key].is_required() or key == "scale":
        path.write_text(json.dumps({k: v for k, v in old.items() if k != key}))
        with pytest.raises(ValueError, match=rf"a\.json: .*{key}.*; accepted: a {record.__name__}"):
            read(path, record)
    wrong: dict[str, Any] = {"value": 1} if isinstance(old[key], str | list | type(None)) else "text"
    path.write_text(json.dumps(old | {key: wrong}))
    with pytest.raises(ValueError, match=rf"a\.json: {key}.*; found .*; accepted: a {record.__name__}"):
        read(path, record)


@pytest.mark.parametrize(
    ("record", "over", "message"),
    [
        (RunRecord, {"seconds": float("nan")}, "seconds: Input should be a finite number"),
        (RunRecord, {"images": -1}, "images: .*greater than or equal to 0; found '-1'"),
        (RunRecord, {"images": 1.5}, "images: .*; found '1.5'"),
        (RunRecord, {"checkpoint": "c0ffee"}, "checkpoint: .*; found 'c0ffee'"),
        (RunRecord, {"format": 2}, "format: Input should be 1; found '2'"),
        (TokenManifest, {"shards": [{"file": "../../x.npy", "count": 3, "sha256": "3" * 64}]}, "shards.0.file: "),
        (TokenManifest, {"kind": "ids"}, "found kind ids without codebook_size"),
        (TokenManifest, {"scales": [1, 2]}, "found kind moments without code_width, quantizer_sha256"),
        (TokenManifest, {"scale": -1.0}, "scale: .*greater than or equal to 0"),
    ],
)
def test_values_that_no_stage_writes_are_refused(
    tmp_path: Path, record: type[Any], over: dict[str, Any], message: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OLD[record] | over))
    with pytest.raises(ValueError, match=rf"a\.json: {message}"):
        read(tmp_path / "a.json", record)


def test_ids_need_no_scale(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(IDS))
    found = read(tmp_path / "a.json", TokenManifest)
    assert (found.scale, found.token_dim, found.scales) == (0.0, 0, ())


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.json: missing; the stage that writes it has not run"):
        read(tmp_path / "no.json", RunRecord)
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read(tmp_path, RunRecord)


def test_where_imported_weights_are_from(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OLD[ImportRecord]))
    assert read(tmp_path / "a.json", ImportRecord).origin == records.Origin.model_validate(ORIGIN)
