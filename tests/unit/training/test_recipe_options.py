"""Options of a recipe against the plain fp32 training, and the weight average outside main memory."""

import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file

from mar.data.tokens import TokenSet
from mar.runtime import checkpoint
from mar.study.canonical import canonical
from mar.study.parts import Recipe
from mar.training.trainer import Trainer

VARIANTS = ["ar-ce", "mar-diff", "dit", "var"]


def study(**recipe):
    dropout = {name: {**b, "dropout": 0.1} for name, b in tiny.STUDY["backbones"].items()}
    recipes = {"short": {**tiny.STUDY["recipes"]["short"], **recipe}}
    variants = {name: v for name, v in tiny.STUDY["variants"].items() if name != "dit" or "head_dtype" not in recipe}
    return tiny.study(recipes=recipes, backbones=dropout, variants=variants)


def trainer(root, variant, ema_folder=None, **recipe):
    chosen = study(**recipe)
    tokens = TokenSet.open(root / "tokens" / chosen.variants[variant].tokenizer / "train")
    return Trainer(chosen, variant, 0, tokens, root / "runs" / variant / "seed0", ema_folder)


def gradients(run):
    """Loss and all gradients, as one vector, of the first micro-batch after adaLN-zero has gone."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    loss = run.micro_batch_loss(0, 4)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in run.model.parameters()])


def rel(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_checkpointing_changes_nothing(tmp_path, variant):
    """To the bit, with dropout: blocks are computed again with the same random numbers."""
    root = tiny.make_root(tmp_path)
    plain, saving = trainer(root, variant), trainer(root, variant, gradient_checkpointing=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        whole, want = gradients(plain)
        before, kept[:] = sum(kept), []
        got_loss, got = gradients(saving)
    assert got_loss == whole and torch.equal(got, want)
    assert sum(kept) < before
    for run in (plain, saving):
        run.optimizer.zero_grad()
        run.step(1e-3)
    assert all(torch.equal(a, b) for a, b in zip(plain.ema.values(), saving.ema.values(), strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_is_close_to_fp32(tmp_path, variant):
    """Bounds: 0.1% of the loss and 1% of the gradient (measured: at most 0.04% and 0.6%); what is kept is fp32."""
    root = tiny.make_root(tmp_path)
    (loss, want), (half_loss, got) = (gradients(trainer(root, variant, dtype=d)) for d in ("fp32", "bf16"))
    assert got.dtype == torch.float32 and half_loss != loss
    assert half_loss == pytest.approx(loss, rel=1e-3)
    assert rel(got, want) < 1e-2


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "dit"])
def test_the_head_and_its_loss_in_fp32(tmp_path, variant, monkeypatch):
    """With the backbone in bf16: what each computes in, and a loss as near to that of fp32 as all in bf16."""
    root = tiny.make_root(tmp_path)
    loss, want = gradients(trainer(root, variant))
    run = trainer(root, variant, dtype="bf16", head_dtype="fp32")
    seen, inner = {}, run.model.head.loss
    run.model.blocks()[0].register_forward_pre_hook(lambda *_: seen.update(backbone=torch.is_autocast_enabled("cpu")))

    def watched(z, target, noise):
        seen.update(head=torch.is_autocast_enabled("cpu"), z=z.dtype)
        found = inner(z, target, noise)
        return seen.update(loss=found.dtype) or found

    monkeypatch.setattr(run.model.head, "loss", watched)
    half_loss, got = gradients(run)
    assert seen == {"backbone": True, "head": False, "z": torch.float32, "loss": torch.float32}
    assert got.dtype == torch.float32 and half_loss != loss
    assert half_loss == pytest.approx(loss, rel=1e-3)
    assert rel(got, want) < 1e-2


def test_a_precision_of_the_head_that_would_have_no_effect():
    plain = {"images": 8, "batch": 8, "checkpoint_images": 8, "log_images": 8, "head_dtype": "fp32"}
    with pytest.raises(ValueError, match="head_dtype fp32 with dtype fp32: belongs to bf16; accepted: none"):
        Recipe.model_validate(plain)
    assert canonical(Recipe(**plain, dtype="bf16")).count("head_dtype") == 1
    recipes = {"short": {**tiny.STUDY["recipes"]["short"], "dtype": "bf16", "head_dtype": "fp32"}}
    variants = {"dit": tiny.STUDY["variants"]["dit"]}
    with pytest.raises(
        ValueError, match=r"recipes\.short\.head_dtype fp32 with DiT, which is one network; accepted: none"
    ):
        tiny.study(recipes=recipes, variants=variants, tradeoff=[])


def test_without_clipping(tmp_path):
    """clip: null leaves gradients as they are, and the norm is still reported."""
    root = tiny.make_root(tmp_path)
    runs = [trainer(root, "ar-ce", clip=clip) for clip in (None, 1e6, 1e-6)]
    (_, free), (_, high), (_, low) = (run.step(1e-2) for run in runs)
    assert free == high == low > 1e-3
    free, high, low = (torch.cat([v.flatten() for v in run.ema.values()]) for run in runs)
    assert torch.equal(free, high) and not torch.equal(free, low)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler: no g++ here")
@pytest.mark.parametrize("variant", ["ar-ce", "var"])
def test_compile_agrees(tmp_path, monkeypatch, variant):
    """Loss and gradients to 1e-5, parameters under their names. Without dropout: compiled code draws other numbers."""
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    root = tiny.make_root(tmp_path)
    for backbone in ("causal", "scales"):
        monkeypatch.setitem(tiny.STUDY["backbones"][backbone], "dropout", 0.0)
    runs = []
    for recipe in ({}, {"compile": True}):
        chosen = tiny.study(recipes={"short": {**tiny.STUDY["recipes"]["short"], **recipe}})
        tokens = TokenSet.open(root / "tokens" / chosen.variants[variant].tokenizer / "train")
        runs.append(Trainer(chosen, variant, 0, tokens, root / "runs" / variant / "seed0"))
    (loss, want), (fast_loss, fast) = (gradients(run) for run in runs)
    assert fast_loss == pytest.approx(loss, rel=1e-5)
    assert rel(fast, want) < 1e-5
    assert list(runs[1].model.state_dict()) == list(runs[0].model.state_dict()) == list(runs[1].ema)


def test_compile_without_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ValueError, match=r"compile: true .* no C\+\+ compiler 'no-such-compiler'.* accepted: compile: false"
    ):
        trainer(tiny.make_root(tmp_path), "ar-ce", compile=True)


def test_average_in_a_file(tmp_path):
    """Equal numbers with the average mapped from a file, through checkpoint, resume and the written weights."""
    root, other = tiny.make_root(tmp_path / "memory"), tiny.make_root(tmp_path / "file")
    plain, mapped = trainer(root, "mar-diff"), trainer(other, "mar-diff", ema_folder=tmp_path / "ema")
    count = sum(p.numel() for p in mapped.model.parameters())
    assert (tmp_path / "ema" / "ema.float32").stat().st_size == 4 * count
    for run in (plain, mapped):
        run.step(1e-3)
        run.images = 16
        checkpoint.save(run.folder / "checkpoints", 16, run.state())
        run.step(1e-3)  # lost with the process
    assert all(torch.equal(mapped.ema[k], v) for k, v in plain.ema.items())
    trainer(root, "mar-diff").run()
    resumed = trainer(other, "mar-diff", ema_folder=tmp_path / "ema")
    assert resumed.images == 16
    resumed.run()
    want, got = (load_file(r / "runs/mar-diff/seed0/ema.safetensors") for r in (root, other))
    assert all(torch.equal(got[k], v) for k, v in want.items())
    on_disk = torch.from_file(str(tmp_path / "ema" / "ema.float32"), size=count)
    assert torch.equal(on_disk, torch.cat([v.flatten() for v in resumed.ema.values()]))


def test_resume_leaves_nothing_in_the_checkpoint_file(tmp_path):
    """A checkpoint is mapped while it is read: what goes on from it is in memory of its own."""
    root = tiny.make_root(tmp_path)
    run = trainer(root, "ar-ce")
    run.step(1e-3)
    run.images = 16
    checkpoint.save(run.folder / "checkpoints", 16, run.state())
    again = trainer(root, "ar-ce")
    (file,) = (run.folder / "checkpoints").glob("*.pt")
    with open(file, "r+b") as broken:  # same file, other bytes
        broken.write(b"\0" * file.stat().st_size)
    assert all(torch.equal(a, b) for a, b in zip(run.ema.values(), again.ema.values(), strict=True))
    for a, b in zip(run.optimizer.state.values(), again.optimizer.state.values(), strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)
