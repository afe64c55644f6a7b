"""The averages that a training keeps on its way: which, to the bit, through a restart, and what is refused."""

import os
import signal
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file

from mar.data.tokens import TokenSet
from mar.models.order import draw_order
from mar.runtime.files import read, sha256
from mar.runtime.noise import Noise
from mar.study import layout
from mar.study.parts import Recipe
from mar.study.records import RunRecord
from mar.study.stage_keys import train_key
from mar.training.held_out import by_scale, losses
from mar.training.trained import load_trained
from mar.training.trainer import train

SHORT = tiny.STUDY["recipes"]["short"]
AT = [0.25, 0.5, 1.0]  # of 96 images in batches of 8


def study(**recipe):
    return tiny.study(recipes={"short": SHORT | recipe})


def test_points_are_whole_batches_and_the_end():
    base = {key: SHORT[key] for key in ("images", "batch", "checkpoint_images", "log_images")}
    assert Recipe(**base).points == ()
    assert Recipe(**base, evaluate_at=[0.3, 0.5]).points == (32, 48, 96)
    assert Recipe(**base, evaluate_at=[0.001, 1.0]).points == (8, 96)
    for wrong in ([0.5, 0.25], [0.5, 0.5], [0.5, 0.52]):
        with pytest.raises(ValueError, match=r"evaluate_at .* of 96 images in batches of 8; accepted: ascending"):
            Recipe(**base, evaluate_at=wrong)


def test_without_it_the_key_is_as_before():
    assert train_key(study(evaluate_at=[]), "ar-ce", 0) == train_key(study(), "ar-ce", 0)
    assert train_key(study(evaluate_at=AT), "ar-ce", 0) != train_key(study(), "ar-ce", 0)


def test_averages_are_those_of_shorter_trainings_also_after_a_restart(tmp_path):
    """To the bit: with a constant rate the average half way is that of a training of half the length."""
    root, half = tiny.make_root(tmp_path / "killed"), tiny.make_root(tmp_path / "half")
    script = (
        "import os, signal, sys, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "import torch, tiny; from mar.training import trainer\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "step = trainer.Trainer.step\n"
        "def dying(self, rate):\n"
        "    if self.images == 40: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, rate)\n"
        "trainer.Trainer.step = dying\n"
        f"study = tiny.study(recipes={{'short': tiny.STUDY['recipes']['short'] | {{'evaluate_at': {AT}}}}})\n"
        "trainer.train(study, pathlib.Path(sys.argv[1]), 'mar-diff', 0)\n"
    )
    died = subprocess.run([sys.executable, "-c", script, str(root), os.path.dirname(tiny.__file__)], check=False)
    folder = layout.run(root, "mar-diff", 0)
    kept = layout.kept_average(folder, 24), layout.kept_average(folder, 48)
    assert died.returncode == -signal.SIGKILL and kept[0].exists() and not kept[1].exists()
    train(study(evaluate_at=AT), root, "mar-diff", 0)
    train(study(images=48), half, "mar-diff", 0)
    run = read(folder / layout.RECORD, RunRecord)
    assert run.averages == {"24": sha256(kept[0]), "48": sha256(kept[1])}
    assert sha256(kept[1]) == sha256(layout.run(half, "mar-diff", 0) / layout.AVERAGE)
    manifest = TokenSet.open(layout.tokens(root, "kl")).manifest
    model, checkpoint = load_trained(study(evaluate_at=AT), root, "mar-diff", 0, manifest, images=48)
    assert checkpoint == sha256(kept[1])
    assert torch.equal(model.head.net.input_proj.weight, load_file(kept[1])["head.net.input_proj.weight"])
    assert load_trained(study(evaluate_at=AT), root, "mar-diff", 0, manifest, images=96)[1] == run.checkpoint


def test_a_lost_or_damaged_average_is_refused(tmp_path):
    """Training is past it, so it cannot come back; the finished weights are not recorded without it."""
    root, chosen = tiny.make_root(tmp_path), study(evaluate_at=AT)
    train(chosen, root, "ar-ce", 0)
    folder = layout.run(root, "ar-ce", 0)
    train(chosen, root, "ar-ce", 0)  # complete
    layout.kept_average(folder, 48).write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"ema-0000000048.safetensors: missing, and training is past it; move"):
        train(chosen, root, "ar-ce", 0)


def test_held_out_losses_are_the_models_own_at_fixed_noise(tmp_path):
    """Groups of ten images, each with the orders and the noise that are named by the study's seed and its place."""
    root = tiny.make_root(tmp_path)
    train(study(), root, "mar-diff", 0)
    tokens = TokenSet.open(layout.tokens(root, "kl"))
    model, _ = load_trained(study(), root, "mar-diff", 0, tokens.manifest)
    found = losses(model, tokens, "random", True, 0)
    assert list(found) == ["0.25", "0.5", "0.75", "1"] and all(len(groups) == 2 for groups in found.values())
    assert losses(model, tokens, "random", True, 0)["0.5"].tolist() == found["0.5"].tolist()
    index = Noise("learning", 0).permutations(1, 20)[0][10:]
    noise = Noise("learning", 0, 1)
    moments = tokens.batch(index, torch.zeros_like(index))
    mean, log_variance = moments.chunk(2, dim=1)
    x = (mean + torch.exp(0.5 * log_variance) * noise.normal(10, 2, 4, 4)) * 1.3
    x = x.flatten(2).transpose(1, 2)
    with torch.no_grad():
        want = model.loss(x, tokens.labels[index], noise.permutations(10, 16), 8, noise)
    assert found["0.5"][1] == pytest.approx(float(want), rel=1e-6)


def test_cross_entropy_is_in_nats_a_token(tmp_path):
    root = tiny.make_root(tmp_path)
    train(study(), root, "ar-ce", 0)
    tokens = TokenSet.open(layout.tokens(root, "vq"))
    model, _ = load_trained(study(), root, "ar-ce", 0, tokens.manifest)
    found = losses(model, tokens, "raster", False, 0)
    index = Noise("learning", 0).permutations(1, 20)[0][:10]
    ids, order = tokens.batch(index, torch.zeros_like(index)), draw_order("raster", 10, 16, Noise("o"))
    with torch.no_grad():
        z, _ = model.backbone(ids, tokens.labels[index], order, 0)
        log_p = model.head.logits(z).log_softmax(2).gather(2, ids[:, :, None])
    assert list(found) == ["all"] and found["all"][0] == pytest.approx(-float(log_p.mean()), rel=1e-5)


def test_loss_and_error_of_the_last_scale_and_of_all(tmp_path):
    """The ids of a scale are drawn together: those of the last one are the last 2 x 2 of 5."""
    root = tiny.make_root(tmp_path)
    train(study(), root, "var", 0)
    tokens = TokenSet.open(layout.tokens(root, "msvq"))
    sides = tokens.manifest.scales
    model, _ = load_trained(study(), root, "var", 0, tokens.manifest)
    found = by_scale(model, tokens, 0)
    index = Noise("learning", 0).permutations(1, 20)[0][:10]
    ids, order = (
        tokens.batch(index, torch.zeros_like(index)),
        draw_order("scales", 10, tokens.manifest.tokens, Noise("o")),
    )
    with torch.no_grad():
        z, _ = model.backbone(ids, tokens.labels[index], order, 0)
        log_p = model.head.logits(z).log_softmax(2)
    nats, wrong = -log_p.gather(2, ids[:, :, None])[..., 0], (log_p.argmax(2) != ids).float()
    first = tokens.manifest.tokens - sides[-1] ** 2  # tokens of the scales before the last
    assert 0 < first < tokens.manifest.tokens
    for what, values in (("loss", nats), ("error", wrong)):
        assert found[f"{what} last"][0] == pytest.approx(float(values[:, first:].mean()), rel=1e-5)
        assert found[f"{what} all"][0] == pytest.approx(float(values.mean()), rel=1e-5)
    assert found["loss all"].tolist() == pytest.approx(losses(model, tokens, "scales", False, 0)["all"].tolist())
