"""The masked model and Diffusion Loss against tensors recorded from the published implementation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mar.data.latents import patchify, unpatchify
from mar.models.diffusion import gaussian
from mar.models.heads.head import build_head
from mar.models.masked import Masked
from mar.models.model import Model
from mar.models.order import guidance_at, schedule
from mar.sampling.generate import generate
from mar.study.parts import Backbone, Head, Sampling

GOLDEN = Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "mar_tiny.json").read_text())
TRAJECTORIES = {t["key"]: t for t in INDEX["trajectories"]}


def build(width, depth, heads, tokens, classes, token_dim, buffer, head_width, head_depth, draws):
    backbone = Backbone.of(kind="masked", width=width, depth=depth, heads=heads, buffer=buffer, dropout=0.0)
    head = Head.of(kind="diffusion", width=head_width, depth=head_depth, noise_draws=draws)
    z_proj = torch.nn.Linear(token_dim, width)
    return Model(Masked(backbone, z_proj, tokens, classes), build_head(head, width, token_dim))


def official(name):
    """Our name of a parameter of the published model."""
    return name.replace("diffloss.", "head.") if name.startswith("diffloss.") else f"backbone.{name}"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "mar_tiny.safetensors")


@pytest.fixture()
def model(golden):
    model = build(32, 2, 4, 64, 10, 4, 8, 32, 2, 2)
    model.load_state_dict({official(k[3:]): v for k, v in golden.items() if k.startswith("sd.")}, strict=True)
    return model.eval()


def rel(got, want):
    return float((torch.linalg.vector_norm(got - want) / torch.linalg.vector_norm(want)).detach())


def inputs(golden):
    tokens = patchify(golden["in.latents"], 1)
    order = golden["in.orders"].long().flip(1)  # ours starts with what is generated first
    known = 64 - int(golden["in.mask"][0].sum())
    return tokens, golden["in.labels"].long(), order, known


class Given:
    """Replays the recorded timesteps and noise of the training head."""

    def __init__(self, golden):
        self.t, self.epsilon = golden["in.t"].long().view(2, 128), golden["in.noise"].view(2, 128, 4)

    def integers(self, high, *shape):
        assert shape == tuple(self.t.shape)
        return self.t

    def normal(self, *shape):
        assert shape == tuple(self.epsilon.shape)
        return self.epsilon


def test_forward(golden, model):
    tokens, labels, order, known = inputs(golden)
    assert torch.equal(tokens, golden["out.patchify"])
    assert torch.equal(unpatchify(tokens, 1, 4), golden["in.latents"])
    assert torch.equal(model.backbone.condition(labels), golden["out.class_embedding"])
    visible, everywhere = order[:, :known].sort(1).values, torch.arange(64).expand(2, 64)
    mask = golden["in.mask"].bool()
    for label, name in ((labels, "out.z"), (torch.full_like(labels, -1), "out.z_uncond")):
        encoded = model.backbone.encode(tokens, label, visible)
        assert name != "out.z" or rel(encoded, golden["out.encoder"]) < 1e-5
        assert rel(model.backbone.decode(encoded, visible, everywhere), golden[name]) < 1e-5
        z, where = model.backbone(tokens, label, order, known)
        assert torch.equal(torch.zeros_like(mask).scatter(1, where, True), mask)
        assert rel(z.flatten(0, 1), golden[name][mask]) < 1e-5


@torch.no_grad()
def test_loss_rows(golden, model):
    tokens, _, _, _ = inputs(golden)
    x0, z = tokens.flatten(0, 1).repeat(2, 1), golden["out.z"].flatten(0, 1).repeat(2, 1)
    t, noise = golden["in.t"].long(), golden["in.noise"]
    x = gaussian.diffuse(model.head.train_process, x0, t, noise)
    assert rel(x[:64], golden["out.x_t_first64"]) < 1e-5
    y = model.head.net.time_embed(t) + model.head.net.cond_embed(z)
    assert rel(model.head.net(x, y)[:64], golden["out.net_first64"]) < 1e-5
    mse, vb = model.head.terms(z, x0, t[None], noise[None])
    assert rel(mse, golden["out.loss_rows_mse"]) < 1e-5
    assert rel(vb, golden["out.loss_rows_vb"]) < 1e-4  # float32 alone moves it by 4e-6
    mask = golden["in.mask"].flatten().repeat(2)
    assert abs(float((mse * mask).sum() / mask.sum() / golden["out.loss_mse_masked"]) - 1) < 1e-5
    assert abs(float((vb * mask).sum() / mask.sum() / golden["out.loss_vb_masked"]) - 1) < 1e-5


def test_loss_and_gradients(golden, model):
    tokens, labels, order, known = inputs(golden)
    loss = model.loss(tokens, labels, order, known, Given(golden))
    assert abs(float(loss.detach() / golden["out.loss"]) - 1) < 1e-5
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, norm in INDEX["grad_norms_of_out.loss"].items():
        got = gradients[official(name)]
        if norm is None:
            assert got is None or not got.any()
        else:
            assert float(got.norm()) == pytest.approx(norm, rel=1e-4), name
    for key in [k for k in golden if k.startswith("grad.")]:
        assert rel(gradients[official(key[5:])], golden[key]) < 1e-4, key


def test_label_drop(golden, model):
    tokens, labels, order, known = inputs(golden)
    dropped = torch.where(golden["in.drop_u"] < 0.1, -1, labels)
    loss = model.loss(tokens, dropped, order, known, Given(golden))
    assert abs(float(loss.detach() / golden["out.loss_train_drop"]) - 1) < 1e-5
    loss.backward()
    assert rel(model.backbone.fake_latent.grad, golden["grad_drop.fake_latent"]) < 1e-4


@pytest.mark.parametrize(
    ("key", "temperature", "scale"), [("t1", 1.0, None), ("t09", 0.9, None), ("cfg2.5_t095", 0.95, 2.5)]
)
@torch.no_grad()
def test_reverse_steps(golden, model, key, temperature, scale):
    process = model.head.train_process.respaced(10)
    z = torch.cat([golden["step.z_cond"], golden["step.z_uncond"]]) if scale else golden["step.z_cond"]
    times, condition = model.head.net.time_embed(process.timesteps), model.head.net.cond_embed(z)
    for s in range(10):
        x = golden["step.x"][s]
        output = model.head.guided(lambda x, s=s: model.head.net(x, times[s] + condition), x, scale)
        got = gaussian.reverse_step(process, output, x, s, golden["step.noise"][s], temperature)
        assert rel(got, golden[f"step.out_{key}"][s]) < 1e-4, s
        if scale is None:
            epsilon, values = output.chunk(2, dim=1)
            t = torch.full((len(x),), s)
            assert rel(gaussian.predict_x0(process, x, t, epsilon), golden["step.pred_x0"][s]) < 1e-4
            assert rel(gaussian.log_variance(process, t, values), golden["step.log_variance"][s]) < 1e-5


class Recorded:
    """Replays the noise of a recorded trajectory in the order in which the loop asks for it."""

    def __init__(self, golden, key, dtype, steps=4):
        self.rows = [row.to(dtype) for k in range(steps) for row in golden[f"{key}.iter{k}.noise"]]

    def normal(self, *shape):
        row = self.rows.pop(0)
        assert tuple(row.shape) == shape
        return row


def settings(trajectory):
    return Sampling(
        steps=trajectory["num_iter"],
        guidance=trajectory["cfg"],
        guidance_schedule=trajectory["cfg_schedule"],
        temperature=trajectory["temperature"],
        diffusion_steps=int(trajectory["num_sampling_steps"]),
    )


def labels_of(golden, trajectory):
    return golden[trajectory["labels"]].long()


@pytest.mark.parametrize("key", list(TRAJECTORIES))
def test_trajectory_float64(golden, model, key):
    trajectory, noise = TRAJECTORIES[key], Recorded(golden, key, torch.float64)
    tokens = generate(
        model.double(),
        labels_of(golden, trajectory),
        golden["in.orders"].long().flip(1),
        torch.zeros(64, 4, dtype=torch.float64),
        settings(trajectory),
        noise,
    )
    assert not noise.rows
    assert rel(unpatchify(tokens, 1, 4), golden[f"{key}.out_f64"]) < 1e-7


@pytest.mark.parametrize("key", list(TRAJECTORIES))
def test_trajectory_float32(golden, model, key):
    trajectory = TRAJECTORIES[key]
    tokens = generate(
        model,
        labels_of(golden, trajectory),
        golden["in.orders"].long().flip(1),
        torch.zeros(64, 4),
        settings(trajectory),
        Recorded(golden, key, torch.float32),
    )
    bound = max(3e-5, 10 * trajectory["float32_vs_float64_rel_l2"])
    assert rel(unpatchify(tokens, 1, 4), golden[f"{key}.out"]) <= bound


@pytest.mark.parametrize("key", list(TRAJECTORIES))
@torch.no_grad()
def test_iterations_teacher_forced(golden, model, key):
    trajectory = TRAJECTORIES[key]
    order, labels = golden["in.orders"].long().flip(1), labels_of(golden, trajectory)
    config = settings(trajectory)
    for k, (start, stop) in enumerate(schedule(64, config.steps)):
        recorded = trajectory["iterations"][k]
        scale = guidance_at(config.guidance, config.guidance_schedule, stop, 64)
        assert scale == pytest.approx(recorded["cfg_iter"], abs=1e-6)
        masked = torch.ones(2, 64).scatter(1, order[:, :start], 0.0)
        assert torch.equal(masked, golden[f"{key}.iter{k}.mask"])
        tokens = golden[f"{key}.iter{k}.tokens_in"]
        where = order.clone()
        where[:, start:stop] = order[:, start:stop].sort(1).values
        z = model.backbone.predict(tokens, labels, where, start, stop).flatten(0, 1)
        assert rel(z, golden[f"{key}.iter{k}.z_cond"]) < 1e-5
        null = None
        if config.guidance != 1.0:
            null = model.backbone.predict(tokens, torch.full_like(labels, -1), where, start, stop).flatten(0, 1)
        noise = Recorded(golden, key, torch.float32)
        noise.rows = list(golden[f"{key}.iter{k}.noise"])
        drawn, _ = model.head.sample(z, null, config, scale, noise)
        assert rel(drawn, golden[f"{key}.iter{k}.latents"]) <= 3e-5


COUNTS = json.loads((GOLDEN / "mar_param_counts.json").read_text())["counts"]
SIZES = {"mar_base": (768, 12, 12), "mar_large": (1024, 16, 16), "mar_huge": (1280, 20, 16)}


@pytest.mark.parametrize("size", list(SIZES))
def test_parameter_counts(size):
    width, depth, heads = SIZES[size]
    for denoiser, counts in COUNTS[size].items():
        head_depth, head_width, *grouped = denoiser.split("_")
        tokens, token_dim = (64, 64) if grouped == ["patch2", "vae16"] else (256, 16)
        with torch.device("meta"):
            model = build(width, depth, heads, tokens, 1000, token_dim, 64, int(head_width[1:]), int(head_depth[1:]), 4)
        assert sum(p.numel() for p in model.parameters()) == counts["total"]
        assert sum(p.numel() for p in model.head.parameters()) == counts["diffloss"]


def test_golden_is_complete():
    assert set(SIZES) <= set(COUNTS)
    assert len(TRAJECTORIES) == 6 and np.isfinite(INDEX["loss"])
