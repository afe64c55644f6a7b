"""DiT as a variant: training from scratch, shared parameters in files, guidance, and the commands around it."""

import pytest
import tiny
import torch
from safetensors.torch import load_file

from mar.data.tokens import TokenSet
from mar.models.dit import DiT
from mar.models.model import build_model
from mar.runtime import checkpoint
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Backbone, Sampling
from mar.training.schedule import learning_rate
from mar.training.trained import load_trained
from mar.training.trainer import Trainer, train

SIDE, CHANNELS, CLASSES = 4, 3, 5


def build(initial=False):
    torch.manual_seed(0)
    model = DiT(Backbone.of(kind="dit", width=16, depth=2, heads=2, patch=2), SIDE, CHANNELS, CLASSES)
    for parameter in [] if initial else model.parameters():  # adaLN-zero would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def settings(**more):
    return Sampling(**{"steps": 1, "diffusion_steps": 4, "guidance_schedule": "constant", **more})


def draw(model, labels, given):
    order, blank = torch.arange(SIDE**2).expand(len(labels), -1), torch.zeros(SIDE**2, CHANNELS)
    return generate(model, torch.as_tensor(labels), order, blank, given, Noise("draw"))


def test_untrained_is_adaln_zero():
    """Output zero, blocks the identity; attention is initialised as the one matrix for q, k and v that it was."""
    model = build(initial=True)
    x = Noise("x").normal(2, CHANNELS, SIDE, SIDE)
    assert not model(x, torch.tensor([3, 900]), torch.tensor([1, -1])).any()
    hidden = Noise("h").normal(2, 4, 16)
    condition = Noise("c").normal(2, 16)
    assert torch.equal(model.net.transformer_blocks[0](hidden, timestep=condition), hidden)
    query = model.net.transformer_blocks[0].attn1.to_q.weight
    assert 0.9 * (6 / 64) ** 0.5 < query.abs().max() <= (6 / 64) ** 0.5
    assert model.embed.class_embedder.embedding_table.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_every_parameter_learns():
    model = build()
    tokens = Noise("tokens").normal(6, SIDE**2, CHANNELS)
    model.loss(tokens, torch.tensor([0, 1, 2, 3, 4, -1]), None, 0, Noise("loss")).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_dropped_label_is_the_null_class():
    """Nothing but -1 drops a label, in training mode too: no random numbers but the named ones."""
    model = build().train()
    x, t = Noise("x").normal(1, CHANNELS, SIDE, SIDE), torch.tensor([10])
    assert torch.equal(model(x, t, torch.tensor([-1])), model(x, t, torch.tensor([CLASSES])))
    many = model(x.expand(64, -1, -1, -1), t.expand(64), torch.full((64,), 2))
    torch.testing.assert_close(many, many[:1].expand_as(many))


@torch.no_grad()
def test_guidance_of_some_channels():
    model, label = build(), torch.tensor([1, 3])
    x = Noise("x").normal(2, CHANNELS, SIDE, SIDE)
    process = model.train_process.respaced(4)
    plain, null = (model.guided(process, x, 2, at, settings()) for at in (label, torch.tensor([-1, -1])))
    two = model.guided(process, x, 2, label, settings(guidance=3.0, guidance_channels=2))
    torch.testing.assert_close(two[:, :2], null[:, :2] + 3 * (plain[:, :2] - null[:, :2]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(two[:, 2:], plain[:, 2:], rtol=1e-4, atol=1e-4)
    every = model.guided(process, x, 2, label, settings(guidance=3.0))
    torch.testing.assert_close(every[:, :2], two[:, :2])
    torch.testing.assert_close(every[:, 2], null[:, 2] + 3 * (plain[:, 2] - null[:, 2]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(every[:, 3:], plain[:, 3:], rtol=1e-4, atol=1e-4)  # variances are never guided


def test_an_image_does_not_depend_on_its_neighbours():
    model = build()
    a, b = draw(model, [1, 2, 3], settings(guidance=2.0)), draw(model, [1, 4, 0], settings(guidance=2.0))
    assert a.shape == (3, SIDE**2, CHANNELS)
    torch.testing.assert_close(a[0], b[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(a[1], b[1], rtol=1e-2)


def test_refusals():
    with pytest.raises(ValueError, match="guidance_channels 9; accepted: 1 to 3"):
        draw(build(), [0], settings(guidance=2.0, guidance_channels=9))
    with pytest.raises(ValueError, match=r"mlp_ratio 2\.0 with a dit backbone; accepted: 4\.0"):
        DiT(Backbone.of(kind="dit", width=16, depth=1, heads=2, patch=2, mlp_ratio=2.0), 4, 3, 5)
    with pytest.raises(ValueError, match="patch 3 with 4 x 4 latents"):
        DiT(Backbone.of(kind="dit", width=16, depth=1, heads=2, patch=3), 4, 3, 5)


def test_train_resume_and_load(tmp_path):
    """Through the commands: every shared parameter is once in the file, and the meta-built model draws the same."""
    study = tiny.study()
    root, again = tiny.make_root(tmp_path / "a"), tiny.make_root(tmp_path / "b")
    train(study, root, "dit", 0)
    tokens = TokenSet.open(root / "tokens" / "kl" / "train")
    weights = load_file(root / "runs/dit/seed0/ema.safetensors")
    assert set(weights) == set(build_model(study, "dit", tokens.manifest).state_dict())
    model, _ = load_trained(study, root, "dit", 0, tokens.manifest)
    built = build_model(study, "dit", tokens.manifest).eval()
    built.load_state_dict(weights)
    args = torch.arange(4) % 10, torch.arange(16).expand(4, 16), torch.zeros(16, 2), study.sampling["dit"]
    assert torch.equal(generate(model, *args, Noise("s")), generate(built, *args, Noise("s")))
    run = Trainer(study, "dit", 0, TokenSet.open(again / "tokens/kl/train"), again / "runs/dit/seed0")
    for images in (8, 16):  # a run that ended after its first checkpoint goes on to the same weights
        run.step(learning_rate(run.recipe, images - 8))
        run.images = images
    checkpoint.save(run.folder / "checkpoints", 16, run.state())
    Trainer(study, "dit", 0, run.tokens, run.folder).run()
    resumed = load_file(again / "runs/dit/seed0/ema.safetensors")
    assert all(torch.equal(resumed[name], weights[name]) for name in weights)
