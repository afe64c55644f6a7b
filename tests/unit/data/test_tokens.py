"""Token shards: reading, refusing damage, and the functions between latents and tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mar.data.latents import patchify, sample_posterior, unpatchify
from mar.data.tokens import TokenSet, check_split
from mar.runtime.files import sha256


def write(folder: Path, kind: str = "moments", counts: tuple[int, ...] = (4, 3), views: int = 2) -> dict[str, Any]:
    """A folder of shards; image i of view v holds numbers around 10 i + v."""
    folder.mkdir()
    manifest: dict[str, Any] = {"kind": kind, "count": sum(counts), "views": views, "grid": 2, "tokens": 4, "group": 1}
    names = [str(i) for i in range(sum(counts))]
    manifest |= {"classes": len(names), "class_names": names, "tokenizer": "1" * 64, "data": "d" * 64}
    manifest |= {"codebook_size": 100} if kind == "ids" else {"token_dim": 3, "scale": 1.0}
    shape = {"ids": (4,), "moments": (6, 2, 2), "latents": (3, 2, 2)}[kind]
    base = np.arange(sum(counts)).repeat(views).reshape(-1, views) * 10 + np.arange(views)
    array = np.broadcast_to(base.reshape(*base.shape, *[1] * len(shape)), (*base.shape, *shape))
    manifest["shards"], first = [], 0
    for number, count in enumerate(counts):
        path = folder / f"shard-{number:05d}.npy"
        np.save(path, array[first : first + count].astype("int32" if kind == "ids" else "float32"))
        manifest["shards"].append({"file": path.name, "count": count, "sha256": sha256(path)})
        first += count
    np.save(folder / "labels.npy", np.arange(sum(counts)))
    manifest["labels_sha256"] = sha256(folder / "labels.npy")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


@pytest.mark.parametrize(("kind", "shape"), [("moments", (6, 2, 2)), ("latents", (3, 2, 2)), ("ids", (4,))])
def test_batches_cross_shards(tmp_path: Path, kind: str, shape: tuple[int, ...]) -> None:
    write(tmp_path / "t", kind)
    tokens = TokenSet.open(tmp_path / "t")
    assert len(tokens) == 7 and tokens.labels.tolist() == list(range(7))
    assert tokens.sha256 == sha256(tmp_path / "t" / "manifest.json")
    batch = tokens.batch(torch.tensor([6, 0, 3, 4]), torch.tensor([1, 0, 1, 0]))
    assert batch.shape == (4, *shape)
    assert batch.dtype == (torch.int64 if kind == "ids" else torch.float32)
    assert batch.flatten(1)[:, 0].tolist() == [61, 0, 31, 40]


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def damage_reshape(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def damage_pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("file", ["shard-00001.npy", "labels.npy"])
@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_reshape, damage_pickle, Path.unlink])
def test_a_damaged_file_is_named(tmp_path: Path, file: str, damage: Any) -> None:
    write(tmp_path / "t")
    damage(tmp_path / "t" / file)
    with pytest.raises(ValueError, match=rf"{file}: .*run `mar encode` again"):
        TokenSet.open(tmp_path / "t")


def test_without_verification_only_the_checksum_is_skipped(tmp_path: Path) -> None:
    write(tmp_path / "t")
    damage_flip(tmp_path / "t" / "shard-00000.npy")
    TokenSet.open(tmp_path / "t", verify=False)
    damage_truncate(tmp_path / "t" / "shard-00000.npy")
    with pytest.raises(ValueError, match=r"shard-00000\.npy"):
        TokenSet.open(tmp_path / "t", verify=False)


def test_counts_must_agree(tmp_path: Path) -> None:
    manifest = write(tmp_path / "t")
    manifest["shards"].pop()
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"manifest\.json: count: found 7; accepted: 4, as its pieces hold"):
        TokenSet.open(tmp_path / "t")


def test_tokens_of_another_split_are_refused_where_their_data_are_known(tmp_path: Path) -> None:
    data = tmp_path / "data" / "manifest.json"
    data.parent.mkdir()
    splits = {"train": {"count": 7, "per_class": [1] * 7}, "heldout": {"count": 7, "per_class": [7, *[0] * 6]}}
    about = {"kind": "x", "classes": list("0123456"), "splits": splits, "files": "f" * 64, "skipped": []}
    data.write_text(json.dumps(about | {"image_size": 8, "flip": True, "listing": "l"}))
    manifest = write(tmp_path / "t")
    check_split(TokenSet.open(tmp_path / "t"), tmp_path, "heldout")  # of other data: nothing is known of their images
    (tmp_path / "t" / "manifest.json").write_text(json.dumps(manifest | {"data": sha256(data)}))
    tokens = TokenSet.open(tmp_path / "t")
    check_split(tokens, tmp_path, "train")
    with pytest.raises(ValueError, match=r"t: holds 7 images, \(1, .*accepted: the heldout split of .*, 7, \(7, 0"):
        check_split(tokens, tmp_path, "heldout")


def test_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"manifest\.json: missing"):
        TokenSet.open(tmp_path)


@pytest.mark.parametrize("group", [1, 2])
def test_patchify(group: int) -> None:
    latents = torch.randn(2, 3, 4, 4)
    tokens = patchify(latents, group)
    assert tokens.shape == (2, 16 // group**2, 3 * group**2)
    assert (unpatchify(tokens, group, 3) == latents).all()
    # the published order: einsum nchpwq -> nhwcpq
    side = 4 // group
    published = torch.einsum("nchpwq->nhwcpq", latents.reshape(2, 3, side, group, side, group))
    assert (tokens == published.reshape(2, side**2, 3 * group**2)).all()


def test_sample_posterior() -> None:
    mean, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    drawn = sample_posterior(torch.cat([mean, torch.full_like(mean, 2.0 * np.log(0.5))], 1), noise)
    torch.testing.assert_close(drawn, mean + 0.5 * noise)
    narrow = sample_posterior(torch.cat([mean, torch.full_like(mean, -1e6)], 1), noise)
    torch.testing.assert_close(narrow, mean, atol=2e-6, rtol=0)
    wide = sample_posterior(torch.cat([mean, torch.full_like(mean, 1e6)], 1), noise)
    assert torch.isfinite(wide).all()  # log variance is held at 20
