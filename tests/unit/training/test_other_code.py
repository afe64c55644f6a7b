"""An edit in the middle of a training, a tokenizer or a sample set: it stops, names the module, and says what helps."""

import itertools
import json
import time

import pipeline
import pytest
import tiny
from click.testing import CliRunner

from mar.analysis import code_changes
from mar.cli.__main__ import main
from mar.data.prepare import prepare
from mar.runtime import code_digest
from mar.runtime.files import sha256
from mar.sampling import sample_sets, sampler
from mar.tokenizers import train as tokenizers
from mar.training.trainer import Trainer, train

HEAD = "mar.models.heads.diffusion_loss"


@pytest.fixture
def edit(monkeypatch):
    """A function after whose call one module is another one."""
    real = code_digest.today

    def edited(module):
        monkeypatch.setattr(code_digest, "today", lambda own: real(own) | {module: "0" * 64})

    return edited


def stop_after(monkeypatch, images):
    step = Trainer.step

    def stopping(self, rate):
        if self.images == images:
            self.writer.wait()
            raise KeyboardInterrupt
        return step(self, rate)

    monkeypatch.setattr(Trainer, "step", stopping)


def test_a_training_stops_under_an_edited_head_goes_on_when_accepted_and_begins_anew(tmp_path, monkeypatch, edit):
    whole, root = (tiny.make_root(tmp_path / name) for name in ("whole", "root"))
    train(tiny.study(), whole, "mar-diff", 0)
    folder = root / "runs" / "mar-diff" / "seed0"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 48)
        train(tiny.study(), root, "mar-diff", 0)
    assert not (folder / "run.json").exists()
    edit("mar.models.unheard")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 64)
        train(tiny.study(), root, "mar-diff", 0)  # a module that it did not import
    edit(HEAD)
    with pytest.raises(ValueError, match=f"half done by other code than today's: {HEAD}; accepted: the code that"):
        train(tiny.study(), root, "mar-diff", 0)
    assert code_changes.lines(tiny.study(), root) == [f"runs/mar-diff/seed0: made by other code than today's {HEAD}"]
    said = CliRunner().invoke(main, ["accept-code", str(folder)])
    assert said.exit_code == 0 and f"goes on after 64 images with today's {HEAD}" in said.output
    train(tiny.study(), root, "mar-diff", 0)
    states = json.loads((folder / "code.json").read_text())["states"]
    assert [state.get("images") for state in states] == [None, 64]
    assert [state["modules"][HEAD] == "0" * 64 for state in states] == [False, True]
    assert sha256(folder / "ema.safetensors") == sha256(whole / "runs/mar-diff/seed0/ema.safetensors")
    (line,) = code_changes.lines(tiny.study(), root)
    assert "made by several codes, as accepted: " in line and "after 64 images" in line
    edit("mar.models.blocks")
    train(tiny.study(), root, "mar-diff", 0)  # it is finished: an edit makes nothing anew by itself
    said = CliRunner().invoke(main, ["restart", str(folder)])
    assert said.exit_code == 0 and "moved to" in said.output and not (folder / "run.json").exists()
    (aside,) = folder.parent.glob("seed0.old-*")
    assert (aside / "run.json").exists() and (aside / "code.json").exists()


def test_what_has_just_begun_is_not_said_to_be_of_an_older_version(tmp_path):
    root = tiny.make_root(tmp_path)
    before = code_changes.lines(tiny.study(), root)
    folder = root / "runs" / "mar-diff" / "seed0"
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{}")
    assert code_changes.lines(tiny.study(), root) == before == []
    (folder / "ema.safetensors").touch()
    assert code_changes.lines(tiny.study(), root) == [
        "of 1 results nobody recorded the code: they are of an older version"
    ]


def test_a_sample_set_stops_and_takes_no_chunks_that_other_code_drew(tmp_path, monkeypatch, edit, capsys):
    values = tiny.STUDY["variants"]["mar-diff"] | {"sampling": ["diff", "same"]}
    sampling = tiny.STUDY["sampling"] | {"same": tiny.STUDY["sampling"]["diff"]}
    study = tiny.study(variants=tiny.STUDY["variants"] | {"mar-diff": values}, sampling=sampling)
    monkeypatch.setattr(sampler.autoencoder, "load", lambda root, name, study: Decoder())
    root = tiny.make_root(tmp_path)
    train(study, root, "mar-diff", 0)
    sample_sets.sample(study, root, "mar-diff", 0, "diff")
    folder = root / "samples" / "mar-diff" / "seed0" / "diff"
    assert HEAD in json.loads((folder / "code.json").read_text())["states"][0]["modules"]
    edit(HEAD)
    sample_sets.sample(study, root, "mar-diff", 0, "diff")  # finished: nothing is drawn
    sample_sets.sample(study, root, "mar-diff", 0, "same")
    assert "are those drawn for it" not in capsys.readouterr().out
    (folder / "chunk-00002.npy").unlink()
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=f"seed0/diff: is half done by other code than today's: {HEAD}"):
        sample_sets.sample(study, root, "mar-diff", 0, "diff")
    assert not (folder / "chunk-00002.npy").exists()


class Decoder:
    """A decoder that is fabricated: what is under test is who draws."""

    def to(self, device):
        return self

    def eval(self):
        return self

    def decode_latents(self, x, noise=None):
        return x[:, :1].expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3).tanh()


def test_a_tokenizer_stops_under_an_edited_autoencoder(tmp_path, monkeypatch, edit):
    study = pipeline.study()
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    monkeypatch.setattr(tokenizers, "CHECKPOINT_IMAGES", 32)
    finite, steps, written = tokenizers.torch.isfinite, itertools.count(), root / "tokenizers/vq/checkpoints/index.json"

    def failing(values):
        """The second loss is not finite, once the thread that writes checkpoints has written one."""
        if next(steps) < 1:
            return finite(values)
        deadline = time.monotonic() + 60
        while not written.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return ~finite(values)

    with monkeypatch.context() as patch, pytest.raises(ValueError, match="a lower learning_rate"):
        patch.setattr(tokenizers.torch, "isfinite", failing)
        tokenizers.train(study, root, "vq")
    edit("mar.tokenizers.autoencoder")
    with pytest.raises(ValueError, match=r"tokenizers/vq: is half done by other code.*: mar.tokenizers.autoencoder"):
        tokenizers.train(study, root, "vq")


@pytest.mark.parametrize("command", ["accept-code", "restart"])
def test_other_folders_are_refused(tmp_path, command):
    said = CliRunner().invoke(main, [command, str(tmp_path)])
    assert said.exit_code == 1 and f"Error: {tmp_path}: " in said.output and "accepted: " in said.output
