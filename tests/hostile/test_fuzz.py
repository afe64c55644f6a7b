"""Random damage to everything that is read: what is refused is a ValueError in one message, and nothing else happens.

`make fuzz` tries a hundred times as many inputs, and other ones each time.
"""

from __future__ import annotations

import copy
import inspect
import io
import json
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from mar.cluster import records as job_records
from mar.data import published
from mar.data.tokens import TokenSet
from mar.features import image_sets
from mar.paper import claims
from mar.runtime import files, npz, runlog
from mar.study import reading
from mar.study import records as study_records
from mar.weights import importing

HOSTILE = [
    None,
    True,
    -1,
    0,
    10**30,
    -(2**70),
    0.5,
    float("nan"),
    float("inf"),
    1e308,
    5e-324,
    "",
    "x",
    "../../x",
    "a\nb",
]
HOSTILE += [
    "$(touch pwned)",
    "\x00",
    "\x1b[31m",
    "x" * 300,
    [],
    {},
    [[[]]],
    {"a": {"b": {}}},
    [None],
    "1e9",
    "2024-01-01",
]
values = st.sampled_from(HOSTILE) | st.integers() | st.floats() | st.text(max_size=20)
whole_text = st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("latin-1"))


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, each in inside for found in [(*way, key), *places(each, (*way, key))]]


@st.composite
def damaged(draw: Callable[..., Any], whole: Any) -> Any:
    """A value with up to three of the values inside it replaced, removed or renamed."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        *way, key = draw(st.sampled_from(places(value) or [("x",)]))
        inner = value
        for step in way:
            inner = inner[step]
        kind = draw(st.sampled_from(["replace", "remove", "rename"]))
        if kind == "replace" or not isinstance(inner, dict):
            inner[key] = draw(values)
        else:
            old = inner.pop(key, None)
            if kind == "rename":
                inner[draw(st.text(min_size=1, max_size=9))] = old
    return value


@st.composite
def broken(draw: Callable[..., Any], whole: bytes) -> bytes:
    """Bytes that are cut off, or of which some are others, or more."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.sampled_from(["cut", "change", "insert", "number"]))
        if kind == "cut":
            del data[at:]
        elif kind == "change":
            data[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        else:
            data[at : at + 8] = struct.pack("<Q", draw(st.integers(0, 2**64 - 1)))
    return bytes(data)


def refused(name: str, read: Callable[[], object]) -> str:
    """The message of a ValueError with the name of the file; nothing where it is read. All else is a fault."""
    try:
        read()
    except ValueError as error:
        message = str(error)
        assert name in message and len(message.splitlines()) <= 15, message
        return message
    return ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@given(value=damaged(tiny.STUDY))
def test_study(place: Path, value: Any) -> None:
    file = place / "study.yaml"
    file.write_text(yaml.safe_dump(value))
    refused("study.yaml", lambda: reading.load(file))


@given(text=whole_text)
def test_text_that_is_no_study(place: Path, text: str) -> None:
    file = place / "text.yaml"
    file.write_text(text, encoding="latin-1", errors="replace")
    assert refused("text.yaml", lambda: reading.load(file))
    assert refused("text.yaml", lambda: claims.load(file))


@given(data=broken(yaml.safe_dump(tiny.STUDY).encode()))
def test_bytes_of_a_study(place: Path, data: bytes) -> None:
    file = place / "bytes.yaml"
    file.write_bytes(data)
    refused("bytes.yaml", lambda: reading.load(file))


RECORDS = [
    record
    for module in (study_records, job_records)
    for _, record in inspect.getmembers(module, inspect.isclass)
    if issubclass(record, files.Record) and record.__module__ == module.__name__
]


@given(
    record=st.sampled_from(RECORDS), value=st.recursive(values, lambda x: st.lists(x) | st.dictionaries(st.text(), x))
)
def test_records(place: Path, record: type[files.Record], value: Any) -> None:
    file = place / "record.json"
    file.write_text(json.dumps(value), errors="replace")
    refused("record.json", lambda: files.read(file, record))


@given(data=st.data())
def test_a_manifest_of_tokens_and_its_files(place: Path, data: st.DataObject) -> None:
    whole = place / "tokens"
    if not whole.exists():
        tiny.make_root(whole)
    folder = place / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole / "tiny/tokens" / data.draw(st.sampled_from(["kl", "vq", "msvq"])) / "train", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    if data.draw(st.booleans()):
        (folder / "manifest.json").write_text(json.dumps(data.draw(damaged(manifest))))
    else:
        shard = folder / manifest["shards"][0]["file"]
        shard.write_bytes(data.draw(broken(shard.read_bytes()[:400])) + shard.read_bytes()[400:])
        manifest["shards"][0]["sha256"] = files.sha256(shard)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    def read() -> None:
        tokens = TokenSet.open(folder)
        tokens.batch(torch.arange(len(tokens)), torch.zeros(len(tokens), dtype=torch.long))

    refused("copy", read)


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, kind)
    return buffer.getvalue()


@given(
    data=st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"]).flatmap(
        lambda kind: broken(picture(kind))
    )
)
def test_images(place: Path, data: bytes) -> None:
    folder = place / "photos"
    folder.mkdir(exist_ok=True)
    (folder / "image.png").write_bytes(data)

    def read() -> None:
        for rows in image_sets.open_set(folder).pieces():
            assert rows.dtype == np.uint8 and rows.ndim == 4 and rows.shape[3] == 3

    refused("image.png", read)


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, arr_0=np.zeros((3, 4, 4, 3), np.uint8), mu=np.zeros(4), sigma=np.eye(4))
    return buffer.getvalue()


@given(data=broken(arrays()))
def test_an_npz(place: Path, data: bytes) -> None:
    file = place / "arrays.npz"
    file.write_bytes(data)

    def read() -> None:
        for name, (shape, _) in npz.headers(file).items():
            if np.prod(shape, dtype=float) < 1e6:
                npz.read(file, name)
                list(npz.stream(file, name, 2)) if shape else None

    refused("arrays.npz", read)


@given(
    data=broken(save({"a": torch.zeros(2, 3), "b": torch.ones(4)})), suffix=st.sampled_from([".safetensors", ".pth"])
)
def test_weights(place: Path, data: bytes, suffix: str) -> None:
    file = place / f"weights{suffix}"
    file.write_bytes(data)
    refused("weights", lambda: importing.read(file))


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"a": torch.zeros(2, 3)}, "images": 5}, buffer)
    return buffer.getvalue()


@given(data=broken(checkpoint()) | broken(pickle.dumps({"model": [1, 2, 3]})))
def test_checkpoints(place: Path, data: bytes) -> None:
    file = place / "weights.pth"
    file.write_bytes(data)

    def read() -> None:
        with importing.opened(file, place) as path:
            importing.read(path)

    refused("weights.pth", read)


@given(lines=st.lists(st.text(max_size=40) | values.map(lambda v: json.dumps({"images": v, "loss": v})), max_size=6))
def test_a_log(place: Path, lines: list[str]) -> None:
    file = place / "metrics.jsonl"
    file.write_text("\n".join(lines), errors="replace")
    for line in runlog.read(file):
        assert all(isinstance(value, int | float) and abs(value) < 1e300 for value in line.values())


@given(row=st.lists(st.text(max_size=30), min_size=8, max_size=8) | st.lists(st.text(max_size=9), max_size=10))
def test_the_table_of_assets(place: Path, row: list[str]) -> None:
    file = place / "assets.csv"
    file.write_text(",".join(published.COLUMNS) + "\n" + ",".join(row) + "\n", errors="replace")
    refused("assets.csv", lambda: published.table(file))
