"""Foreign checkpoints: prefixes of DDP and torch.compile, numbers that are none, names that are paths, nested zips."""

import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import published
import pytest
import torch
from safetensors.torch import save_file

from mar.weights import importing
from mar.weights.importing import import_weights


def saved(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    torch.save({"model_ema": tensors}, folder / "x.pth")
    return folder / "x.pth"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_a_prefix_of_all_names_is_taken_off_and_told(tmp_path: Path, prefix: str) -> None:
    weights = published.weights("mar_tiny")
    plain = import_weights("official-mar", saved(tmp_path, weights), "plain", tmp_path)
    report = import_weights(
        "official-mar", saved(tmp_path, {prefix + k: v for k, v in weights.items()}), "ddp", tmp_path
    )
    assert report.sha256 == plain.sha256
    assert [key for key in report.beside if report.beside[key].startswith("stood before the names")]


def test_a_prefix_of_some_names_is_none(tmp_path: Path) -> None:
    weights = {("module." if i else "") + k: v for i, (k, v) in enumerate(published.weights("mar_tiny").items())}
    with pytest.raises(ValueError, match=r"x\.pth"):
        import_weights("official-mar", saved(tmp_path, weights), "x", tmp_path)


def test_the_model_inside_the_trainer_of_var() -> None:
    tensors = {"a": torch.zeros(1)}
    content = {"epoch": 3, "trainer": {"var_wo_ddp": tensors, "vae_local": {"b": torch.ones(1)}}}
    assert importing.pick(content, "var", Path("ar-ckpt-last.pth")) == (tensors, {"epoch": "int"})
    found, _ = importing.pick(content, "var-msvq", Path("ar-ckpt-last.pth"))
    assert list(found) == ["b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v * torch.inf, "found numbers that are not finite; accepted: finite floating point numbers"),
        (lambda v: v * torch.nan, "found numbers that are not finite"),
        (lambda v: v.double() + 1e300, "found numbers that are not finite"),
        (lambda v: v.to(torch.complex64), "sparse, quantised or complex"),
        (lambda v: v.to_sparse(), "sparse, quantised or complex"),
        (lambda v: v.long(), r"type: .* is torch\.int64; accepted: torch\.float32"),
        (lambda v: v > 0, r"type: .* is torch\.bool; accepted: torch\.float32"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(tmp_path: Path, change, message: str) -> None:
    weights = published.weights("mar_tiny")
    first = next(iter(weights))
    with pytest.raises(ValueError, match=message) as error:
        import_weights("official-mar", saved(tmp_path, weights | {first: change(weights[first])}), "x", tmp_path)
    assert "x.pth" in str(error.value) and not list(tmp_path.glob("x.json")) + list(tmp_path.glob("x.safetensors"))


@pytest.mark.parametrize("name", ["../../x", "/x", "a'$(touch pwned)", "x" * 101, ".x", "-x", "a\n", ""])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"--as: found .*; accepted: letters, digits"):
        import_weights("official-mar", saved(tmp_path, published.weights("mar_tiny")), name, tmp_path / "assets")
    assert not (tmp_path / "assets").exists()


def test_zips_in_zips_end(tmp_path: Path) -> None:
    content = b"x"
    for _ in range(9):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("a.pth", content)
        content = (tmp_path / "x.pth").read_bytes()
    with pytest.raises(ValueError, match=r"x\.pth: holds zips in zips; accepted: at most 3 in each other"):
        import_weights("official-mar", tmp_path / "x.pth", "x", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "x.pth"]


def test_a_zip_that_unpacks_to_far_more_than_it_is_is_not_unpacked(tmp_path: Path, monkeypatch: Any) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.pth", bytes(3 << 20))
    monkeypatch.setattr(importing, "PACKED", 2)
    with pytest.raises(
        ValueError, match=r"x\.pth: a\.pth has 3,145,728 bytes, .* in the zip; accepted: at most 2 times"
    ):
        import_weights("official-mar", tmp_path / "x.pth", "x", tmp_path)
    monkeypatch.setattr(importing, "PACKED", 100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(ValueError, match=r"x\.pth: a\.pth has 3,145,728 bytes; accepted: at most 1,048,576, which the"):
        import_weights("official-mar", tmp_path / "x.pth", "x", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "x.pth"]


def test_a_pipe_and_a_broken_safetensors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: no such file; accepted"):
        import_weights("official-mar", tmp_path / "x.pth", "x", tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 99)
    with pytest.raises(ValueError, match=r"x\.safetensors: .*; accepted: a safetensors file"):
        import_weights("official-mar", tmp_path / "x.safetensors", "x", tmp_path)


def test_a_damaged_record_of_an_import_is_made_again(tmp_path: Path) -> None:
    save_file(published.weights("mar_tiny"), tmp_path / "flat.safetensors")
    first = import_weights("official-mar", tmp_path / "flat.safetensors", "x", tmp_path)
    (tmp_path / "x.json").write_text("[]")
    assert import_weights("official-mar", tmp_path / "flat.safetensors", "x", tmp_path).sha256 == first.sha256
