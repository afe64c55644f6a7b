"""Sample sets: bytes that depend on (seed, chunk) only, restarts, guards, and the speed protocol."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from mar.models.order import draw_order, guidance_at, schedule
from mar.runtime.files import sha256
from mar.runtime.noise import Noise
from mar.sampling import sample_sets, sampler, speed
from mar.training.trainer import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tiny.make_root(tmp_path_factory.mktemp("trained"))
    for variant in ("ar-ce", "mar-diff", "var"):
        train(tiny.study(), root, variant, 0)
    return root


@pytest.fixture(autouse=True)
def fake_tokenizer(monkeypatch):
    monkeypatch.setattr(sampler.autoencoder, "load", lambda root, name, study: tiny.Decoder())


def copy(trained, tmp_path):
    tmp_path.mkdir(exist_ok=True)
    for name in ("runs", "tokens"):
        (tmp_path / name).symlink_to(trained / name)
    return tmp_path


def chunks(root, variant="mar-diff", setting="diff"):
    folder = root / "samples" / variant / "seed0" / setting
    return [sha256(folder / f"chunk-{c:05d}.npy") for c in range(4)], folder


@pytest.mark.parametrize(("variant", "setting"), [("mar-diff", "diff"), ("ar-ce", "ce"), ("var", "var")])
def test_bytes_do_not_depend_on_who_draws(trained, tmp_path, variant, setting):
    """One worker, or three processes at the same time: the same bytes."""
    one, many = copy(trained, tmp_path / "one"), copy(trained, tmp_path / "many")
    sample_sets.sample(tiny.study(), one, variant, 0, setting)
    script = (
        "import sys, torch; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "import tiny; from mar.sampling import sample_sets, sampler\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "sampler.autoencoder.load = lambda root, name, study: tiny.Decoder()\n"
        "shard = (int(sys.argv[3]), 3)\n"
        f"sample_sets.sample(tiny.study(), Path(sys.argv[1]), '{variant}', 0, '{setting}', shard)\n"
    )
    here = str(Path(tiny.__file__).parent)
    workers = [subprocess.Popen([sys.executable, "-c", script, str(many), here, str(i)]) for i in range(3)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]
    (a, folder), (b, _) = chunks(one, variant, setting), chunks(many, variant, setting)
    assert a == b and len(set(a)) == 4
    manifest = json.loads((many / "samples" / variant / "seed0" / setting / "manifest.json").read_text())
    assert [c["sha256"] for c in manifest["chunks"]] == a
    first = np.load(folder / "chunk-00000.npy")
    assert first.shape == (6, *first.shape[1:3], 3) and first.dtype == np.uint8


def test_labels_are_balanced(trained, tmp_path):
    root = copy(trained, tmp_path)
    sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")
    labels = np.load(chunks(root)[1] / "labels.npy")
    assert len(labels) == 24 and np.ptp(np.bincount(labels, minlength=10)) <= 1


def test_lost_chunk_is_drawn_again_alone(trained, tmp_path):
    root = copy(trained, tmp_path)
    sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")
    before, folder = chunks(root)
    stamp = (folder / "chunk-00000.npy").stat().st_mtime_ns
    (folder / "chunk-00002.npy").unlink()
    (folder / "manifest.json").unlink()  # Snakemake deletes a declared output before a job
    sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")
    assert chunks(root)[0] == before
    assert (folder / "chunk-00000.npy").stat().st_mtime_ns == stamp


def test_truncated_chunk_is_named_and_drawn_again(trained, tmp_path, capsys):
    root = copy(trained, tmp_path)
    sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")
    before, folder = chunks(root)
    chunk = folder / "chunk-00002.npy"
    os.truncate(chunk, chunk.stat().st_size // 2)
    (folder / "manifest.json").unlink()
    sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")
    assert f"{chunk}: truncated" in capsys.readouterr().out
    assert chunks(root)[0] == before


def test_changed_setting_never_reuses_chunks(trained, tmp_path):
    root = copy(trained, tmp_path)
    sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")
    before, folder = chunks(root)
    hot = {**tiny.STUDY["sampling"], "diff": {**tiny.STUDY["sampling"]["diff"], "temperature": 1.5}}
    sample_sets.sample(tiny.study(sampling=hot), root, "mar-diff", 0, "diff")
    assert not set(before) & set(chunks(root)[0])
    assert json.loads((folder / "manifest.json").read_text())["sampling"]["temperature"] == 1.5
    assert len(list(folder.parent.glob("diff.old-*"))) == 1


def test_settings_of_equal_values_are_drawn_once(trained, tmp_path, monkeypatch, capsys):
    root, sampling = copy(trained, tmp_path), {**tiny.STUDY["sampling"], "same": tiny.STUDY["sampling"]["diff"]}
    variants = {name: dict(values) for name, values in tiny.STUDY["variants"].items()}
    variants["mar-diff"]["sampling"] = ["diff", "same"]
    study = tiny.study(sampling=sampling, variants=variants)
    sample_sets.sample(study, root, "mar-diff", 0, "diff")
    before, folder = chunks(root)
    with open(folder / "chunk-00001.npy", "ab") as damaged:
        damaged.write(b"x")
    drawn = []
    chunk = sampler.Sampler.chunk
    monkeypatch.setattr(
        sampler.Sampler, "chunk", lambda self, setting, n: (drawn.append((setting, n)), chunk(self, setting, n))[1]
    )
    sample_sets.sample(study, root, "mar-diff", 0, "same")
    assert "same has the values of diff: 3 chunks are those drawn for it" in capsys.readouterr().out
    assert drawn == [("same", 1)] and chunks(root, setting="same")[0] == before
    assert json.loads((folder.with_name("same") / "manifest.json").read_text())["setting"] == "same"


def test_bf16_draws_nearly_the_same_images(trained, tmp_path, monkeypatch):
    root, latents, decode = copy(trained, tmp_path), [], tiny.Decoder.decode_latents
    monkeypatch.setattr(
        tiny.Decoder,
        "decode_latents",
        lambda self, x, noise=None: (latents.append(x), decode(self, x))[1],
    )
    half = {**tiny.STUDY["sampling"], "diff": {**tiny.STUDY["sampling"]["diff"], "dtype": "bf16"}}
    images = [
        sampler.Sampler(tiny.study(sampling=s), root, "mar-diff", 0).chunk("diff", 0)[0].astype(float)
        for s in (tiny.STUDY["sampling"], half)
    ]
    assert not torch.equal(*latents)  # what is drawn is in another precision, although few bytes may show it
    assert np.abs(images[0] - images[1]).mean() < 8  # of 255; another seed differs by far more
    other = sampler.Sampler(tiny.study(), root, "mar-diff", 0).chunk("diff", 1)[0].astype(float)
    assert np.abs(images[0] - other).mean() > 16


def tokens_drawn(study, root, variant, setting, monkeypatch):
    """What chunk 0 decodes, and its images."""
    seen = []
    for name in ("decode_latents", "decode_ids"):
        decode = getattr(tiny.Decoder, name)
        monkeypatch.setattr(tiny.Decoder, name, lambda self, x, *rest, d=decode: (seen.append(x), d(self, x, *rest))[1])
    images, _ = sampler.Sampler(study, root, variant, 0).chunk(setting, 0)
    return seen[0], images


@pytest.mark.parametrize(("variant", "setting"), [("mar-diff", "diff"), ("ar-ce", "ce"), ("var", "var")])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_fewer_images_at_once_give_the_same_images(trained, variant, setting, size, monkeypatch):
    """Vectors up to the rounding of products of other shapes, ids and random numbers exactly."""
    whole, images = tokens_drawn(tiny.study(), trained, variant, setting, monkeypatch)
    sizes, run = [], sampler.generate
    monkeypatch.setattr(
        sampler, "generate", lambda m, labels, *rest: (sizes.append(len(labels)), run(m, labels, *rest))[1]
    )
    parts, again = tokens_drawn(tiny.study(memory={"sampling": size}), trained, variant, setting, monkeypatch)
    assert max(sizes) == size if size < 4 else max(sizes) == 3  # six in equal groups
    assert sum(sizes) == 6
    if whole.dtype == torch.long:
        assert torch.equal(parts, whole) and np.array_equal(again, images)
    else:
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    assert len(whole.flatten(1).unique(dim=0)) == 6  # so that images cannot have changed places


def test_a_set_keeps_the_number_that_it_is_begun_with(trained, tmp_path, capsys):
    all_at_once, in_twos = tiny.study(), tiny.study(memory={"sampling": 2})
    begun, twos = copy(trained, tmp_path / "begun"), copy(trained, tmp_path / "twos")
    sample_sets.sample(in_twos, twos, "mar-diff", 0, "diff")
    sample_sets.sample(in_twos, begun, "mar-diff", 0, "diff", (0, 4))  # one chunk of four
    assert "goes on so" not in capsys.readouterr().out
    sample_sets.sample(all_at_once, begun, "mar-diff", 0, "diff")
    assert (
        "begun with drawn at once: 2, and goes on so; the study now says drawn at once: all" in capsys.readouterr().out
    )
    assert chunks(begun)[0] == chunks(twos)[0]
    for root in (begun, twos):
        manifest = json.loads((chunks(root)[1] / "manifest.json").read_text())
        assert (manifest["drawn_at_once"], manifest["decoded_at_once"]) == (2, 6)
        assert json.loads((chunks(root)[1] / "recipe.json").read_text())["drawn at once"] == 2
    assert not list(chunks(begun)[1].parent.glob("*.old-*"))
    whole = copy(trained, tmp_path / "whole")
    sample_sets.sample(all_at_once, whole, "mar-diff", 0, "diff")
    assert "drawn at once" not in json.loads((chunks(whole)[1] / "recipe.json").read_text())
    sample_sets.sample(in_twos, whole, "mar-diff", 0, "diff")  # finished, and stays
    assert json.loads((chunks(whole)[1] / "manifest.json").read_text())["drawn_at_once"] == 6


def test_a_set_without_a_chunk_takes_the_number_that_the_study_says_now(trained, tmp_path, monkeypatch):
    """As after an end without memory."""
    root = copy(trained, tmp_path)

    def fail(*_):
        raise torch.OutOfMemoryError("too much")

    with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
        patched.setattr(sampler, "generate", fail)
        sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")
    sample_sets.sample(tiny.study(memory={"sampling": 3}), root, "mar-diff", 0, "diff")
    assert json.loads((chunks(root)[1] / "manifest.json").read_text())["drawn_at_once"] == 3


def test_another_tokenizer_than_that_of_the_tokens_is_refused_before_images_are_drawn(trained, tmp_path):
    root = copy(trained, tmp_path)
    weights = root / "tokenizers/kl/model.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(b"of a later training")
    with pytest.raises(ValueError, match=r"model\.safetensors: not the weights that encoded .*kl/train/manifest\.json"):
        sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")


def test_untrained_checkpoint_is_refused(tmp_path):
    root = tiny.make_root(tmp_path)
    with pytest.raises(ValueError, match=r"runs/mar-diff/seed0/run\.json: missing"):
        sample_sets.sample(tiny.study(), root, "mar-diff", 0, "diff")


@pytest.mark.parametrize("how", ["sample", "mixture"])
def test_what_the_head_draws_is_timed_whatever_it_is(how):
    """A head draws tokens, or the mixtures of VAR's `more_smooth`."""

    class Head:
        def sample(self):
            time.sleep(0.01)
            return torch.zeros(2, 3, 8, 8)

        mixture = sample

    head = Head()
    one = SimpleNamespace(
        model=SimpleNamespace(head=head), device=torch.device("cpu"), draw=lambda *_: getattr(head, how)()
    )
    elapsed, share = speed.timed(one, tiny.study().sampling["var"], torch.arange(2), ("speed", 0))
    assert 0.01 <= share <= elapsed and not vars(head)


def test_speed_protocol(trained, tmp_path):
    root = copy(trained, tmp_path)
    speed.measure(tiny.study(), root, "mar-diff")
    found = json.loads((root / "speed" / "mar-diff.json").read_text())
    point = found["points"]["diff"]
    assert point["steps"] == 4 and 0 < point["low"] <= point["seconds_per_image"] <= point["high"]
    assert 0 < point["head_share"]["low"] <= point["head_share"]["value"] <= point["head_share"]["high"] < 1
    assert found["protocol"]["decode"] is True and found["protocol"]["batch"] == 4
    stamp = (root / "speed/mar-diff.json").stat().st_mtime_ns
    speed.measure(tiny.study(), root, "mar-diff")  # complete: not measured again
    assert (root / "speed/mar-diff.json").stat().st_mtime_ns == stamp
    assert found["checkpoint"] == json.loads((root / "runs/mar-diff/seed0/run.json").read_text())["checkpoint"]


@pytest.mark.parametrize(("length", "steps"), [(16, 1), (16, 2), (16, 5), (16, 16), (256, 64)])
def test_schedule_predicts_every_token_once(length, steps):
    ranges = list(schedule(length, steps))
    assert len(ranges) == steps and ranges[0][0] == 0 and ranges[-1][1] == length
    assert all(stop > start for start, stop in ranges)
    assert [start for start, _ in ranges[1:]] == [stop for _, stop in ranges[:-1]]
    if steps == length:
        assert all(stop - start == 1 for start, stop in ranges)


def test_guidance_ramp():
    ramp = [guidance_at(3.0, "linear", stop, 16) for _, stop in schedule(16, 16)]
    assert ramp[0] == 1 + 2 / 16 and ramp[-1] == ramp[-2] == 1 + 2 * 15 / 16
    assert ramp == sorted(ramp)
    assert {guidance_at(3.0, "constant", stop, 16) for _, stop in schedule(16, 4)} == {3.0}


def test_orders():
    assert draw_order("raster", 2, 5, Noise("a")).tolist() == [[0, 1, 2, 3, 4]] * 2
    drawn = draw_order("random", 200, 6, Noise("a"))
    assert (drawn.sort(1).values == torch.arange(6)).all()
    assert torch.equal(drawn, draw_order("random", 200, 6, Noise("a")))
    assert not torch.equal(drawn, draw_order("random", 200, 6, Noise("b")))
    first = torch.bincount(drawn[:, 0], minlength=6)
    assert (first - 200 / 6).abs().max() < 4 * (200 / 6) ** 0.5
