"""The baseline of `make bench` against tensors recorded from the published implementation, and ours against it.

A ratio is fair if both sides do the same: here that is tested, there it is timed.
"""

import pytest
import torch
from test_mar import TRAJECTORIES, Given, Recorded, inputs, labels_of, official, rel, settings
from test_mar import golden as golden
from test_mar import model as model

from benchmarks import baseline
from benchmarks.models import TOKEN_DIM, TOKENS, build
from benchmarks.models import inputs as benchmark_inputs
from mar.data.latents import unpatchify
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Sampling


@pytest.mark.parametrize("key", list(TRAJECTORIES))
def test_trajectory(golden, model, key):
    trajectory, noise = TRAJECTORIES[key], Recorded(golden, key, torch.float64)
    order, blank = golden["in.orders"].long().flip(1), torch.zeros(64, 4, dtype=torch.float64)
    arguments = (model.double(), labels_of(golden, trajectory), order, blank, settings(trajectory))
    tokens = baseline.generate(*arguments, noise)
    assert not noise.rows
    assert rel(unpatchify(tokens, 1, 4), golden[f"{key}.out_f64"]) < 1e-7


def test_loss_and_gradients(golden, model):
    tokens, labels, order, known = inputs(golden)
    loss = baseline.loss(model, tokens, labels, order, known, Given(golden))
    assert abs(float(loss.detach() / golden["out.loss"]) - 1) < 1e-5
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for key in [k for k in golden if k.startswith("grad.")]:
        assert rel(gradients[official(key[5:])], golden[key]) < 1e-4, key


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_same_tokens_at_benchmark_size(guidance):
    model, (_, labels, order) = build("masked").eval(), benchmark_inputs(2)
    options = Sampling(steps=4, diffusion_steps=5, guidance=guidance, temperature=0.9)
    drawn = [
        draw(model, labels, order, torch.zeros(TOKENS, TOKEN_DIM), options, Noise("draw"))
        for draw in (baseline.generate, generate)
    ]
    assert rel(drawn[1], drawn[0]) < 1e-5


def test_same_gradients_at_benchmark_size():
    model, (tokens, labels, order) = build("masked").train(), benchmark_inputs(2)
    labels[0] = -1
    gradients = []
    for loss in (baseline.loss, type(model).loss):
        model.zero_grad()
        loss(model, tokens, labels, order, 40, Noise("loss")).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert rel(gradients[1][name], gradient) < 1e-5, name
