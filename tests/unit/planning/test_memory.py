"""Peak memory on the meta device, against counts by hand."""

import pytest
import torch
from tiny import study
from torch import nn

from mar.planning import costs, memory
from mar.planning.memory import BLOCK
from mar.runtime.precision import autocast
from mar.study.parts import Backbone, Head, Recipe, Sampling

META = torch.device("meta")
TOKENS = costs.Tokens("latents", tokens=16, token_dim=8, grid=4, classes=10)
MASKED = Backbone.of(kind="masked", width=64, depth=5, heads=4, buffer=4)
CAUSAL = Backbone.of(kind="causal", width=64, depth=2, heads=4)
MSE = Head.of(kind="mse")
RECIPE = Recipe(images=64, batch=64, micro_batch=32, checkpoint_images=64, log_images=64)


def test_a_layer_by_hand():
    """Weights, the input, a hidden layer before and after its activation, of which the first goes; then the output."""
    net = nn.Sequential(nn.Linear(128, 256, bias=False), nn.ReLU(), nn.Linear(256, 128, bias=False)).to(META)
    net.requires_grad_(False)

    def prepare(n):
        x = torch.empty(n, 128, device=META)
        return lambda: net(x)

    found = memory.peak(1024, net, prepare)
    weights, image = 4 * 2 * 128 * 256, 4 * (128 + 256 + 256)
    assert found.bytes == weights + 1024 * image and found.image == image
    assert found.at(10) == weights + 10 * image
    with autocast(META, "bf16"):
        half = memory.peak(1024, net, prepare)
    image = 4 * 128 + 2 * (256 + 256)  # the input as it came, and both of the hidden layer in half precision
    assert half.bytes == weights + 1024 * image and half.image == image


def test_storages_count_once_and_go_when_they_are_freed():
    with memory.Live() as live:
        x = torch.empty(BLOCK, device=META, dtype=torch.uint8)
        views = x.view(2, -1), x[3:], x.detach()
        assert live.bytes == BLOCK
        y = torch.empty(1, device=META)  # rounded up
        assert live.bytes == 2 * BLOCK == live.peak
        del x, y
        assert live.bytes == BLOCK  # the views hold it
        del views
    assert (live.bytes, live.peak) == (0, 2 * BLOCK)


def test_a_training_by_hand():
    """Weights, their average, two moments and the gradients are 20 bytes a parameter, whatever the batch."""
    recipe = RECIPE.model_copy(update={"dtype": "bf16"})
    found, half = (memory.training(MASKED, MSE, TOKENS, r) for r in (RECIPE, recipe))
    parameters = costs.count_parameters(costs.model_of(MASKED, MSE, TOKENS))
    assert 20 * parameters <= found.at(0) < 22.5 * parameters
    assert found.at(0) < half.at(0) < 26 * parameters  # weights in half precision are kept for the backward pass
    assert 0 < half.image < found.image
    lean = memory.training(MASKED, MSE, TOKENS, RECIPE.model_copy(update={"gradient_checkpointing": True}))
    assert lean.image < 0.5 * found.image and 20 * parameters <= lean.at(0)


def test_blocks_after_the_third_add_what_the_third_adds(monkeypatch):
    def both(call):
        memory._drawing.cache_clear()
        memory.training.cache_clear()
        return call()

    settings = Sampling(steps=4, guidance=2.0, dtype="bf16")
    for call in (
        lambda: memory.training(MASKED, MSE, TOKENS, RECIPE),
        lambda: memory.drawing(MASKED, MSE, TOKENS, settings, 16),
    ):
        short = both(call)
        with monkeypatch.context() as patched:
            patched.setattr(memory, "deep", lambda images, depth, make: memory.peak(images, *make(depth)))
            whole = both(call)
        assert short.bytes == pytest.approx(whole.bytes, rel=0.01)
        assert short.image == pytest.approx(whole.image, rel=0.02)


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 4), ("bf16", 2)])
def test_keys_and_values_by_hand(dtype, size):
    settings = Sampling(steps=16, kv_cache=True, guidance=2.0, dtype=dtype)
    two, three = (
        memory.drawing(CAUSAL.model_copy(update={"depth": depth}), MSE, TOKENS, settings, 64) for depth in (2, 3)
    )
    # keys and values of two more blocks, of both branches
    assert three.image - two.image == pytest.approx(2 * 2 * 2 * 16 * 64 * size, rel=0.02)


def test_every_part_of_a_study_is_counted():
    of = study()
    found = memory.count(of, 10)
    assert set(found.trainings) == set(of.variants) and set(found.tokenizers) == {"kl", "vq", "msvq"}
    assert {name: set(peaks) for name, peaks in found.drawing.items()} == {
        name: set(variant.sampling) for name, variant in of.variants.items()
    }
    assert found.classifier is not None and set(found.judges) == {"classifier"}
    assert all("fp32" in peaks for peaks in found.decoding.values())
