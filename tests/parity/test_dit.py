"""DiT against tensors recorded from the published implementation."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mar.data.latents import patchify, unpatchify
from mar.models.dit import DiT, from_official
from mar.sampling.generate import generate
from mar.study.parts import Backbone, Sampling

GOLDEN = Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "dit_tiny.json").read_text())
TRAJECTORIES = {t["key"]: t for t in INDEX["trajectories"]}


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "dit_tiny.safetensors")


@pytest.fixture(scope="module")
def model(golden):
    model = DiT(Backbone.of(kind="dit", width=48, depth=2, heads=4, patch=2), side=8, channels=4, classes=10)
    official = {k.removeprefix("sd."): v for k, v in golden.items() if k.startswith("sd.")}
    model.load_state_dict(from_official(official), strict=True)
    return model.eval()


def rel(got, want):
    return float(torch.linalg.vector_norm(got - want) / torch.linalg.vector_norm(want))


class Replay:
    """Noise that hands out recorded tensors, one after the other."""

    def __init__(self, *recorded):
        self.recorded = list(recorded)

    def normal(self, *shape):
        out = self.recorded.pop(0)
        assert out.shape == shape
        return out


def ours(labels):
    return torch.where(labels == 10, -1, labels).long()  # the null class is -1 everywhere in this project


@torch.no_grad()
def test_forward(golden, model):
    got = model(golden["in.x"], golden["in.t"].long(), ours(golden["in.y"]))
    assert rel(got, golden["out.forward"]) <= 1e-5


def test_position_table(golden, model):
    torch.testing.assert_close(model.net.pos_embed.pos_embed, golden["sd.pos_embed"], rtol=0, atol=1e-6)


@torch.no_grad()
def test_loss(golden, model):
    tokens = patchify(golden["in.x0"], 1)
    mse, vb = model.terms(tokens, ours(golden["in.y"]), golden["in.t"].long(), golden["in.noise"])
    assert rel(mse, golden["out.loss_mse"]) <= 1e-5
    assert rel(vb, golden["out.loss_vb"]) <= 1e-5
    assert rel(mse + vb, golden["out.loss_loss"]) <= 1e-5


@torch.no_grad()
def test_guidance_on_three_channels(golden, model):
    # One step of a process that visits every timestep is the network at that timestep.
    settings = Sampling(steps=1, guidance=4.0, guidance_schedule="constant", guidance_channels=3, diffusion_steps=1000)
    want = golden["out.forward_with_cfg4"][:4]  # the conditional half
    for row in range(4):
        step, label = int(golden["in.t"][row]), ours(golden["in.y"])[row : row + 1]
        got = model.guided(model.train_process, golden["in.x"][row : row + 1], step, label, settings)
        assert rel(got, want[row : row + 1]) <= 1e-5


@pytest.mark.parametrize("key", list(TRAJECTORIES))
def test_trajectory(golden, model, key):
    t = TRAJECTORIES[key]
    settings = Sampling(
        steps=1, guidance=t["cfg_scale"], guidance_schedule="constant", guidance_channels=3, diffusion_steps=t["steps"]
    )
    noise = Replay(golden[f"{key}.x_T"], *golden[f"{key}.noise"])
    labels = golden[f"{key}.y"].long()
    got = generate(model, labels, torch.arange(64).expand(4, 64), torch.zeros(64, 4), settings, noise)
    assert not noise.recorded
    assert rel(unpatchify(got, 1, 4), golden[f"{key}.out"]) <= 1e-3


def test_parameters_of_xl_2():
    """675M as published: one timestep and one label embedder (as diffusers ships it: 749.8M)."""
    with torch.device("meta"):
        model = DiT(Backbone.of(kind="dit", width=1152, depth=28, heads=16, patch=2), side=32, channels=4, classes=1000)
    w = 1152
    block = (w + 1) * 6 * w + (w + 1) * 3 * w + (w + 1) * w + (w + 1) * 4 * w + (4 * w + 1) * w  # adaLN, attention, MLP
    embedders = (256 + 1) * w + (w + 1) * w + 1001 * w + (4 * 2 * 2 + 1) * w  # timestep, label and null, patches
    final = (w + 1) * 2 * w + (w + 1) * 8 * 2 * 2  # adaLN, epsilon and variance of a patch
    assert 28 * block + embedders + final == 674_834_720
    assert sum(p.numel() for p in model.parameters()) == 674_834_720
    assert sum(v.numel() for v in model.state_dict().values()) == 674_834_720  # nothing twice
    assert not model.net.pos_embed.pos_embed.is_meta
