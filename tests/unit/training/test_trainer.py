"""The training loop: exact resume after kill -9, guarded folders, published groups and schedule."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import tiny
import torch
from safetensors.torch import load_file

from mar.data.tokens import TokenSet
from mar.models.model import build_model
from mar.models.order import mask_ratio
from mar.runtime import checkpoint, runlog
from mar.runtime.files import read_json, sha256
from mar.training.schedule import learning_rate
from mar.training.trained import load_trained
from mar.training.trainer import Trainer, parameter_groups, train


def trainer(root, variant="mar-diff", study=None):
    study = study or tiny.study()
    tokens = TokenSet.open(root / "tokens" / study.variants[variant].tokenizer / "train")
    return Trainer(study, variant, 0, tokens, root / "runs" / variant / "seed0")


@pytest.mark.parametrize("variant", ["ar-ce", "mar-diff", "var"])
def test_kill_and_resume_is_bitwise_equal(tmp_path, variant):
    """N steps = k steps + kill -9 + the same command again, to the bit, in weights and in the log."""
    whole, killed = (tiny.make_root(tmp_path / name) for name in ("whole", "killed"))
    train(tiny.study(), whole, variant, 0)
    # The process kills itself between two checkpoints, in the middle of the work.
    script = (
        "import os, signal, sys, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "import torch, tiny; from mar.training import trainer\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "step = trainer.Trainer.step\n"
        "def dying(self, rate):\n"
        "    if self.images == 56: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, rate)\n"
        "trainer.Trainer.step = dying\n"
        f"trainer.train(tiny.study(), pathlib.Path(sys.argv[1]), '{variant}', 0)\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(killed), os.path.dirname(tiny.__file__)], check=False)
    assert died.returncode == -signal.SIGKILL
    folder = killed / "runs" / variant / "seed0"
    assert not (folder / "run.json").exists() and not (folder / "ema.safetensors").exists()
    train(tiny.study(), killed, variant, 0)
    ours, theirs = (root / "runs" / variant / "seed0" for root in (killed, whole))
    assert sha256(ours / "ema.safetensors") == sha256(theirs / "ema.safetensors")
    with checkpoint.latest(ours / "checkpoints") as a, checkpoint.latest(theirs / "checkpoints") as b:
        assert all(torch.equal(a["model"][k], b["model"][k]) for k in b["model"])
    drop = ("time", "seconds", "images_per_second", "data_wait", "peak_memory")
    lines = [
        [{k: v for k, v in line.items() if k not in drop} for line in runlog.read(f / "metrics.jsonl")]
        for f in (ours, theirs)
    ]
    assert lines[0] == lines[1] and lines[0][-1]["images"] == 96
    record = json.loads((ours / "run.json").read_text())
    head = [w.numel() for name, w in load_file(ours / "ema.safetensors").items() if name.startswith("head.")]
    assert record["restarts"] == 1 and record["head_parameters"] == sum(head) > 0


def test_the_next_micro_batch_is_prepared_beside(tmp_path, monkeypatch):
    """By a thread, but for the first one; across the end of a step, not beyond the end of the training."""
    prepare, seen = Trainer.prepare, []

    def watched(self, first, count, mask=0):
        seen.append((first, threading.current_thread() is threading.main_thread()))
        return prepare(self, first, count, mask)

    monkeypatch.setattr(Trainer, "prepare", watched)
    run = trainer(tiny.make_root(tmp_path))
    run.run()
    assert sorted(seen) == [(first, first == 0) for first in range(0, 96, 4)] and not run.ahead


def test_an_error_of_the_thread_ends_the_training(tmp_path, monkeypatch):
    prepare = Trainer.prepare

    def failing(self, first, count, mask=0):
        if first == 20:
            raise OSError(5, "Input/output error", "shard-00000.npy")
        return prepare(self, first, count, mask)

    monkeypatch.setattr(Trainer, "prepare", failing)
    run = trainer(tiny.make_root(tmp_path))
    with pytest.raises(OSError, match=r"shard-00000\.npy"):
        run.run()
    assert run.images == 16


def test_training_learns_and_average_lags(tmp_path):
    root = tiny.make_root(tmp_path)
    run = trainer(root, "ar-ce")
    before = {k: v.clone() for k, v in run.ema.items()}
    run.run()
    losses = [line["loss"] for line in runlog.read(run.folder / "metrics.jsonl")]
    assert losses[-1] < losses[0]
    weights = load_file(run.folder / "ema.safetensors")
    name = "head.logits.weight"
    assert not torch.equal(weights[name], before[name])
    assert not torch.equal(weights[name], run.model.state_dict()[name])


def test_average_is_published(tmp_path):
    """EMA from step 0, no warm-up: after one step it is 0.9 of the start and 0.1 of the new weights."""
    run = trainer(tiny.make_root(tmp_path))
    start = {k: v.clone() for k, v in run.ema.items()}
    run.step(1e-2)
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(run.ema[name], 0.9 * start[name] + 0.1 * parameter.detach())


def test_micro_batches_do_not_depend_on_the_batch(tmp_path):
    """A micro-batch is the same whatever batch it is part of: its randomness is named by its first image."""
    root = tiny.make_root(tmp_path)
    run = trainer(root)
    run.model.train()
    losses = [run.micro_batch_loss(first, 4).item() for first in (8, 12)]
    run.images = 8
    total, _ = run.step(0.0)
    assert total == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_data_order_covers_every_image_once_an_epoch(tmp_path):
    run = trainer(tiny.make_root(tmp_path))
    first, second = run.data_order(0, 20), run.data_order(20, 20)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(20))
    assert first.tolist() != second.tolist()
    assert torch.equal(run.data_order(16, 8), torch.cat([first[16:], second[:4]]))


def test_data_order_goes_on_wherever_a_run_was_stopped(tmp_path):
    root = tiny.make_root(tmp_path)
    whole = trainer(root).data_order(0, 50)
    for stopped in range(50):
        assert torch.equal(trainer(root).data_order(stopped, 50 - stopped), whole[stopped:])


def test_changed_recipe_never_resumes(tmp_path):
    root = tiny.make_root(tmp_path)
    train(tiny.study(), root, "ar-ce", 0)
    folder = root / "runs" / "ar-ce" / "seed0"
    old = sha256(folder / "ema.safetensors")
    recipe = {"short": {**tiny.STUDY["recipes"]["short"], "base_learning_rate": 0.01}}
    train(tiny.study(recipes=recipe), root, "ar-ce", 0)
    assert sha256(folder / "ema.safetensors") != old
    aside = list(folder.parent.glob("seed0.old-*"))
    assert len(aside) == 1 and sha256(aside[0] / "ema.safetensors") == old
    assert json.loads((folder / "run.json").read_text())["restarts"] == 0
    assert [line["images"] for line in runlog.read(folder / "metrics.jsonl")] == list(range(16, 97, 16))


def test_finished_run_is_not_repeated(tmp_path, capsys):
    root = tiny.make_root(tmp_path)
    train(tiny.study(), root, "ar-ce", 0)
    stamp = (root / "runs/ar-ce/seed0/ema.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    train(tiny.study(), root, "ar-ce", 0)
    assert "trained already" in capsys.readouterr().out
    assert (root / "runs/ar-ce/seed0/ema.safetensors").stat().st_mtime_ns == stamp


def test_lost_outputs_come_back_from_the_last_checkpoint(tmp_path):
    """Snakemake deletes declared outputs of an interrupted job; the checkpoint is not one of them."""
    root = tiny.make_root(tmp_path)
    train(tiny.study(), root, "ar-ce", 0)
    folder = root / "runs/ar-ce/seed0"
    weights = sha256(folder / "ema.safetensors")
    (folder / "run.json").unlink()
    (folder / "ema.safetensors").unlink()
    train(tiny.study(), root, "ar-ce", 0)
    assert sha256(folder / "ema.safetensors") == weights


def test_corrupt_checkpoint_is_named_and_passed_over(tmp_path, capsys):
    root = tiny.make_root(tmp_path)
    run = trainer(root)
    for images in (8, 16):
        run.step(1e-3)
        run.images = images
        checkpoint.save(run.folder / "checkpoints", images, run.state())
    newest = run.folder / "checkpoints" / "0000000016.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert trainer(root).images == 8
    assert f"{newest}: corrupt" in capsys.readouterr().out
    (run.folder / "checkpoints" / "0000000008.pt").unlink()
    with pytest.raises(ValueError, match="none of its 2 checkpoints is intact"):
        trainer(root)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (lambda state: state["model"], "head.net.final_layer.linear.bias"),
        (lambda state: state["ema"], "head.net.final_layer.linear.bias"),
        (lambda state: state["optimizer"]["state"][0], "exp_avg"),
    ],
)
def test_a_checkpoint_that_is_not_finite_is_no_start(tmp_path, part, name):
    root = tiny.make_root(tmp_path)
    run = trainer(root)
    run.step(1e-3)
    run.images = 8
    state = run.state()
    part(state)[name].view(-1)[0] = float("inf")
    checkpoint.save(run.folder / "checkpoints", 8, state)
    with pytest.raises(ValueError, match=r"0{9}8\.pt: .*found numbers in .* that are not finite; accepted"):
        trainer(root)


def test_old_checkpoints_go(tmp_path):
    for images in (1, 2, 3, 4):
        checkpoint.save(tmp_path, images, {"images": images})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000000003.pt", "0000000004.pt", "index.json"]
    with checkpoint.latest(tmp_path) as state:
        assert state["images"] == 4


def test_nan_loss_stops_and_keeps_the_checkpoint(tmp_path):
    root = tiny.make_root(tmp_path)
    run = trainer(root)
    run.images = 16
    checkpoint.save(run.folder / "checkpoints", 16, run.state())
    with torch.no_grad():
        run.model.head.net.final_layer.linear.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"loss nan.* after 16 images.*good checkpoint: checkpoints/0{8}16\.pt\. To"):
        run.run()
    assert not (run.folder / "run.json").exists()
    with checkpoint.latest(run.folder / "checkpoints") as state:
        assert state["images"] == 16 and all(v.isfinite().all() for v in state["model"].values())


@pytest.mark.parametrize("own", ["", "mine.py:Head"])
def test_a_loss_that_is_not_finite_is_told_with_the_code_of_the_user(tmp_path, own, monkeypatch):
    run = trainer(tiny.make_root(tmp_path))
    run.own = own
    monkeypatch.setattr(run, "micro_batch_loss", lambda *_: sum(p.sum() for p in run.parameters.values()) * math.nan)
    with pytest.raises(ValueError, match=r"The same recipe and code come to the same step again\.") as caught:
        run.run()
    assert (", bf16, code of yours (mine.py:Head). A changed recipe" in str(caught.value)) == bool(own)


def test_code_of_the_user_whose_loss_does_not_repeat_is_refused(tmp_path, monkeypatch):
    """Before the first step; code that does leaves the training as it would be without being asked."""
    digests, root = [], tiny.make_root(tmp_path)
    for own in ("", "mine.py:Head"):
        run = trainer(root)
        run.own = own
        run.model.register_buffer("calls", torch.zeros(1))
        loss = run.model.loss

        def counted(*given, model=run.model, loss=loss):
            model.calls += 1
            return loss(*given)

        monkeypatch.setattr(run.model, "loss", counted)
        run.run()
        digests.append(sha256(run.folder / "ema.safetensors"))
        assert run.model.calls == 96 / run.micro
        shutil.rmtree(run.folder)
    assert digests[0] == digests[1]
    run = trainer(root)
    run.own = "mine.py:Head"
    loss = run.model.loss
    monkeypatch.setattr(run.model, "loss", lambda *given: loss(*given) * (1 + random.random()))
    with pytest.raises(ValueError, match=r"random numbers; .* from `noise` alone \(mine\.py:Head\)"):
        run.run()
    assert not (run.folder / "metrics.jsonl").exists()


def test_after_nan_another_recipe_starts_anew_and_the_checkpoint_stays_where_the_message_says(tmp_path, monkeypatch):
    root = tiny.make_root(tmp_path)
    folder = root / "runs" / "mar-diff" / "seed0"
    healthy = Trainer.micro_batch_loss

    def diverges(self, first, count, mask):
        loss = healthy(self, first, count, mask)
        return loss * math.nan if first >= 32 and self.recipe.ema == 0.9 else loss

    monkeypatch.setattr(Trainer, "micro_batch_loss", diverges)
    for _ in range(2):  # the same recipe comes to the same step
        with pytest.raises(ValueError, match=r"after 32 images.*starts at image 0, and this folder is then") as said:
            train(tiny.study(), root, "mar-diff", 0)
    named = str(said.value).partition("checkpoints/")[2].partition(".pt")[0] + ".pt"
    assert f"mv {folder} {folder}.before, change the recipe, and mar train --study {root}/study.json" in str(said.value)
    train(tiny.study(recipes={"short": {**tiny.STUDY["recipes"]["short"], "ema": 0.8}}), root, "mar-diff", 0)
    (aside,) = folder.parent.glob("seed0.old-*")
    assert (aside / "checkpoints" / named).exists()
    run = read_json(folder / "run.json")
    assert (run["images"], run["restarts"]) == (96, 0)


def test_nan_before_the_first_checkpoint(tmp_path):
    run = trainer(tiny.make_root(tmp_path))
    with torch.no_grad():
        run.model.head.net.final_layer.linear.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"after 0 images.*no checkpoint: none was due yet$"):
        run.run()


def test_learning_rate_law():
    recipe = tiny.study().recipes["short"]
    peak = 0.05 * 8 / 256
    assert recipe.learning_rate == pytest.approx(peak)
    assert learning_rate(recipe, 0) == 0.0
    assert learning_rate(recipe, 8) == pytest.approx(peak / 2)
    assert learning_rate(recipe, 16) == learning_rate(recipe, 88) == pytest.approx(peak)
    cosine = recipe.model_copy(update={"schedule": "cosine"})
    assert learning_rate(cosine, 56) == pytest.approx(peak / 2)
    assert learning_rate(cosine, 96) == pytest.approx(0.0, abs=1e-12)


def test_weight_decay_groups(tmp_path):
    """As published: positions and embeddings are decayed, norms, biases and the whole of Diffusion Loss are not."""
    run = trainer(tiny.make_root(tmp_path))
    names = {id(p): n for n, p in run.model.named_parameters()}
    decayed, plain = ([names[id(p)] for p in g["params"]] for g in parameter_groups(run.model, 0.02))
    assert len(decayed) + len(plain) == len(names)
    assert "backbone.encoder_pos_embed_learned" in decayed and "backbone.fake_latent" in decayed
    assert not any(n.startswith("head.") for n in decayed)
    assert all(n.startswith("head.") or n.endswith(".bias") or "norm" in n or "_ln" in n for n in plain)


def test_mask_ratio_stays_in_range():
    ratios = [mask_ratio(u / 100, 0.7) for u in range(100)]
    assert ratios == sorted(ratios) and ratios[0] == pytest.approx(0.7) and ratios[-1] < 1.0


def test_bf16_stays_close_to_fp32(tmp_path):
    root = tiny.make_root(tmp_path)
    half = {"short": {**tiny.STUDY["recipes"]["short"], "dtype": "bf16"}}
    a, b = (trainer(root, "ar-ce", tiny.study(**over)).step(1e-3)[0] for over in ({}, {"recipes": half}))
    assert a != b and a == pytest.approx(b, rel=0.02)


def test_two_trainings_of_one_folder_wait_for_each_other(tmp_path):
    root = tiny.make_root(tmp_path)
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2]); import tiny; from mar.training.trainer import train\n"
    )
    script += "train(tiny.study(), pathlib.Path(sys.argv[1]), 'ar-ce', 0)"
    command = [sys.executable, "-c", script, str(root), os.path.dirname(tiny.__file__)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=120)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0]
    assert sum("trained already" in text for text in said) == 1


def test_load_trained_refuses_other_weights(tmp_path):
    root = tiny.make_root(tmp_path)
    study = tiny.study()
    with pytest.raises(ValueError, match=r"run\.json: missing"):
        load_trained(study, root, "ar-ce", 0, TokenSet.open(root / "tokens" / "vq" / "train").manifest)
    train(study, root, "ar-ce", 0)
    manifest = TokenSet.open(root / "tokens" / "vq" / "train").manifest
    model, digest = load_trained(study, root, "ar-ce", 0, manifest)
    assert not model.training and digest == sha256(root / "runs/ar-ce/seed0/ema.safetensors")
    other = {"short": {**tiny.STUDY["recipes"]["short"], "ema": 0.5}}
    with pytest.raises(ValueError, match="trained by another recipe"):
        load_trained(tiny.study(recipes=other), root, "ar-ce", 0, manifest)
    with open(root / "runs/ar-ce/seed0/ema.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="not the weights that"):
        load_trained(study, root, "ar-ce", 0, manifest)
    assert build_model(study, "ar-ce", manifest).head.logits.out_features == 12
