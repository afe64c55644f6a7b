"""A training that begins with the checkpoint of another recipe: what is taken, what is recorded, what is refused."""

import shutil

import pytest
import tiny
import torch

from mar.data.tokens import TokenSet
from mar.runtime import checkpoint
from mar.runtime.files import read_json, sha256, write_json
from mar.study.stage_keys import train_key
from mar.training.trainer import Trainer, train


def calmer(**over):
    """The tiny study with a lower learning rate, and more keys of its recipe replaced."""
    return tiny.study(recipes={"short": {**tiny.STUDY["recipes"]["short"], "base_learning_rate": 0.01, **over}})


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A training of the tiny study that came to no finite loss after 32 images, moved away as the message says."""
    root = tiny.make_root(tmp_path)
    step = Trainer.step

    def diverges(self, rate):
        if self.images >= 32 and self.recipe.base_learning_rate == 0.05:
            self.writer.wait()  # as a loss that is not finite does
            raise ValueError("loss nan")
        return step(self, rate)

    monkeypatch.setattr(Trainer, "step", diverges)
    with pytest.raises(ValueError, match="loss nan"):
        train(tiny.study(), root, "mar-diff", 0)
    folder = root / "runs/mar-diff/seed0"
    return folder.rename(folder.with_name("seed0.before"))


def test_it_goes_on_where_the_other_recipe_was_and_says_so(stopped):
    root, folder = stopped.parents[2], stopped.with_name("seed0")
    train(calmer(), root, "mar-diff", 0, start=stopped)
    run, recipe = read_json(folder / "run.json"), read_json(folder / "recipe.json")
    assert (run["images"], run["restarts"]) == (96, 1)
    assert recipe["train"] == train_key(calmer(), "mar-diff", 0)
    assert recipe["from"] == sha256(stopped / "checkpoints/0000000032.pt") and recipe["from_images"] == 32
    assert recipe["from_train"] == read_json(stopped / "recipe.json")["train"] != recipe["train"]
    before = sha256(folder / "ema.safetensors")
    train(calmer(), root, "mar-diff", 0)  # as the workflow calls it: the same training, not another one
    assert sha256(folder / "ema.safetensors") == before and not list(folder.parent.glob("seed0.old-*"))


def test_its_first_step_starts_from_the_weights_and_moments_of_the_other(stopped):
    root, folder = stopped.parents[2], stopped.with_name("seed0")
    train_until = calmer(images=40, checkpoint_images=40, log_images=40)
    train(train_until, root, "mar-diff", 0, start=stopped)
    by_hand = stopped.with_name("by-hand")
    shutil.copytree(stopped / "checkpoints", by_hand / "checkpoints")
    tokens = TokenSet.open(root / "tokens/kl/train")
    Trainer(train_until, "mar-diff", 0, tokens, by_hand).run()
    with checkpoint.latest(folder / "checkpoints") as ours, checkpoint.latest(by_hand / "checkpoints") as theirs:
        assert all(torch.equal(ours["model"][name], theirs["model"][name]) for name in theirs["model"])


def test_a_kill_between_the_claim_and_the_checkpoint_is_mended_by_the_same_command(stopped, monkeypatch):
    root, folder = stopped.parents[2], stopped.with_name("seed0")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr("mar.training.warm_start.link", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        train(calmer(), root, "mar-diff", 0, start=stopped)
    assert (folder / "recipe.json").exists() and not checkpoint.checkpoints(folder / "checkpoints")
    train(calmer(), root, "mar-diff", 0, start=stopped)
    assert read_json(folder / "run.json")["restarts"] == 1


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (calmer(betas=[0.8, 0.9]), "betas was .*accepted: the same betas, weight_decay, batch"),
        (calmer(weight_decay=0.5), "weight_decay was 0.02, now 0.5"),
        (calmer(batch=16, warmup_images=16), "batch was 8, now 16"),
        (calmer(images=32), "has seen 32 images; accepted: fewer than the recipe's 32"),
        (tiny.study(heads={**tiny.STUDY["heads"], "diffloss": {**tiny.STUDY["heads"]["diffloss"], "width": 32}}),
         "of another order, backbone or head"),
    ],
)  # fmt: skip
def test_what_cannot_be_changed_on_the_way_is_refused(stopped, study, message):
    with pytest.raises(ValueError, match=message):
        train(study, stopped.parents[2], "mar-diff", 0, start=stopped)
    assert not (stopped.with_name("seed0") / "recipe.json").exists()


def test_other_tokens_no_checkpoint_and_itself_are_refused(stopped):
    root = stopped.parents[2]
    with pytest.raises(ValueError, match=r"is this training; accepted: another folder, as after mv .*seed0\.before"):
        train(calmer(), root, "mar-diff", 0, start=stopped.rename(stopped.with_name("seed0")))
    stopped.with_name("seed0").rename(stopped)
    with pytest.raises(ValueError, match="holds no checkpoint; accepted: the folder of a training"):
        train(calmer(), root, "mar-diff", 0, start=root)
    recipe = read_json(stopped / "recipe.json")
    write_json(stopped / "recipe.json", recipe | {"tokens": "0" * 64})
    with pytest.raises(ValueError, match="was trained on other tokens"):
        train(calmer(), root, "mar-diff", 0, start=stopped)
