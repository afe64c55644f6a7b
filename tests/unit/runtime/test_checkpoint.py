"""Checkpoints and weights that are not what they should be: one message each, and no traceback of torch."""

from __future__ import annotations

import json
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mar.runtime import checkpoint, files, folders


class Command:
    """Runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def replaced(folder: Path, content: bytes) -> None:
    """The newest checkpoint, of other content and with the right checksum."""
    checkpoint.save(folder, 8, {"model": nn.Linear(2, 3).state_dict()})
    (folder / "0000000008.pt").write_bytes(content)
    entry = {"file": "0000000008.pt", "images": 8, "sha256": files.sha256(folder / "0000000008.pt")}
    (folder / "index.json").write_text(json.dumps([entry]))


class TestCheckpoint:
    @pytest.mark.parametrize("kind", ["garbage", "empty", "pickle", "other"])
    def test_the_newest_is_none_of_this_training(self, tmp_path: Path, kind: str) -> None:
        old = pickle.dumps(Command(tmp_path / "pwned"), protocol=2)
        torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "other.pt")
        content = {"garbage": b"garbage" * 99, "empty": b"", "pickle": old}
        replaced(tmp_path / "c", content.get(kind, (tmp_path / "other.pt").read_bytes()))
        said = r"c/0000000008\.pt: no checkpoint of this training \(\w+: .*\); accepted: one that this command wrote"
        with pytest.raises(ValueError, match=said), checkpoint.latest(tmp_path / "c") as state:
            assert state is not None
            nn.Linear(2, 3).load_state_dict(state["model"])
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("{}", "found '{}'"),
            ("[1, 2]", "0: .*; found '1'"),
            ('[{"file": "a.pt", "images": 1}]', "0.sha256: Field required"),
            ('[{"file": "../a.pt", "images": 1, "sha256": ""}]', "0.file: .*; found '../a.pt'"),
            ("[", "Invalid JSON"),
        ],
    )
    def test_a_damaged_index_is_refused(self, tmp_path: Path, content: str, said: str) -> None:
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(ValueError, match=rf"index\.json: .*{said}.*; accepted: a Index"):
            checkpoint.checkpoints(tmp_path)

    def test_the_index_is_the_list_that_older_versions_read(self, tmp_path: Path) -> None:
        checkpoint.save(tmp_path, 8, {})
        (entry,) = json.loads((tmp_path / "index.json").read_text())
        assert entry == {"file": "0000000008.pt", "images": 8, "sha256": files.sha256(tmp_path / "0000000008.pt")}


class TestWriter:
    """Checkpoints that are written beside the training."""

    def test_a_copy_is_written(self, tmp_path: Path) -> None:
        net = nn.Linear(2, 3)
        state = {"model": net.state_dict(), "images": 8, "groups": [{"betas": (0.9, 0.95), "moment": torch.ones(2)}]}
        kept = checkpoint.copied(state)
        writer = checkpoint.Writer(tmp_path)
        writer.save(8, kept)
        with torch.no_grad():
            want = net.weight.clone()
            net.weight.zero_()
            state["groups"][0]["moment"].zero_()  # type: ignore[index]
        writer.wait()
        with checkpoint.latest(tmp_path) as found:
            assert found is not None and torch.equal(found["model"]["weight"], want)
            assert found["groups"][0]["betas"] == (0.9, 0.95) and found["groups"][0]["moment"].tolist() == [1.0, 1.0]
        (entry,) = checkpoint.checkpoints(tmp_path)
        assert entry.sha256 == files.sha256(tmp_path / entry.file)

    def test_one_at_a_time_in_order(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The training goes on while one is written, and waits for it before it begins the next."""
        begun, may_end, save = threading.Event(), threading.Event(), checkpoint.save

        def slow(folder: Path, images: int, state: dict[str, Any]) -> None:
            begun.set()
            assert may_end.wait(60)
            save(folder, images, state)

        monkeypatch.setattr(checkpoint, "save", slow)
        writer = checkpoint.Writer(tmp_path)
        writer.save(8, {})
        assert begun.wait(60) and not checkpoint.checkpoints(tmp_path)
        may_end.set()
        writer.save(16, {})
        assert checkpoint.checkpoints(tmp_path)[0].images == 8
        writer.wait()
        assert [entry.images for entry in checkpoint.checkpoints(tmp_path)] == [8, 16]

    def test_an_error_is_told(self, tmp_path: Path) -> None:
        writer = checkpoint.Writer(tmp_path / "file" / "folder")
        (tmp_path / "file").write_text("in the way")
        writer.save(8, {})
        with pytest.raises(OSError):
            writer.save(16, {})


class TestWeights:
    @pytest.mark.parametrize(
        ("tensors", "said"),
        [
            (
                {"weight": torch.ones(4, 2), "bias": torch.ones(3)},
                r"1 .*: weight: found \[4, 2\]; accepted: \[3, 2\]",
            ),
            ({"weight": torch.zeros(3, 2)}, r"1 .*: bias: found none; accepted: \[3\]"),
            ({"x": torch.zeros(1)}, r"3 tensors do not fit the model: bias: found none"),
        ],
    )
    def test_of_another_model(self, tmp_path: Path, tensors: dict[str, torch.Tensor], said: str) -> None:
        save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(ValueError, match=rf"w\.safetensors: {said}.*; make it again"):
            checkpoint.load_weights(nn.Linear(2, 3), tmp_path / "w.safetensors", "make it again")

    @pytest.mark.parametrize("content", [b"", b"garbage" * 9, pickle.dumps({"weight": [1.0]})])
    def test_no_safetensors_file(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"w\.safetensors: found .*; accepted: a safetensors file; make it again"):
            checkpoint.load_weights(nn.Linear(2, 3), tmp_path / "w.safetensors", "make it again")
        with pytest.raises(ValueError, match=r"no\.safetensors: missing; make it again"):
            checkpoint.load_weights(nn.Linear(2, 3), tmp_path / "no.safetensors", "make it again")

    def test_that_fit(self, tmp_path: Path) -> None:
        one, other = nn.Linear(2, 3), nn.Linear(2, 3)
        save_file(one.state_dict(), tmp_path / "w.safetensors")
        checkpoint.load_weights(other, tmp_path / "w.safetensors", "")
        assert torch.equal(one.weight, other.weight) and torch.equal(one.bias, other.bias)


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("kind", ["objects", "cut", "pickle", "zip", "empty"])
def test_an_array_that_holds_no_numbers(tmp_path: Path, kind: str, mapped: bool) -> None:
    path = tmp_path / "a.npy"
    if kind == "objects":
        np.save(path, np.array([Command(tmp_path / "pwned")], dtype=object), allow_pickle=True)
    elif kind == "zip":
        with open(path, "wb") as file:
            np.savez(file, a=np.zeros(3))
    else:
        np.save(path, np.zeros(99))
        content = {"cut": path.read_bytes()[:-20], "pickle": pickle.dumps(Command(tmp_path / "pwned")), "empty": b""}
        path.write_bytes(content[kind])
    with pytest.raises(ValueError, match=r"a\.npy: truncated or no \.npy file of numbers \(.*\); make it again"):
        files.load_array(path, "make it again", mapped)
    assert not (tmp_path / "pwned").exists() and not files.whole(path, (99,), "float64")


@pytest.mark.parametrize("content", ["[]", '{"a": [1]}', '{"a": 1.5}', '{"a": null}', "{", "3"])
def test_a_recipe_of_anything_but_texts(tmp_path: Path, content: str) -> None:
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(ValueError, match=r"recipe\.json: .*; accepted: a Recipe as this project writes it; delete"):
        folders.claim(tmp_path, {"slice": "x"})
    assert (tmp_path / "recipe.json").read_text() == content
