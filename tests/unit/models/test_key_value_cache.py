"""Keys and values are kept in the type in which attention computes."""

import pytest
import torch
from tiny_models import L, batch, blank, build, settings

from mar.models.blocks import KVCache
from mar.runtime.noise import Noise
from mar.runtime.precision import HALF, autocast
from mar.sampling.generate import generate

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("device", [CPU, torch.device("meta")], ids=str)
def test_the_cache_has_the_type_of_the_products(dtype, device):
    model = build("causal", "mse").to(device)
    with autocast(device, dtype):
        cache = model.backbone.start(2)
        with autocast(device, "fp32"):
            assert model.backbone.start(2).keys.dtype == torch.float32
    assert {cache.keys.dtype, cache.values.dtype} == {HALF.get(dtype, torch.float32)}
    assert model.backbone.start(2).keys.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_what_is_drawn_is_what_a_cache_in_float32_gave(dtype, monkeypatch):
    """Attention rounds its keys and values anyway: to the bit."""
    model, (_, labels, order) = build("causal", "categorical"), batch("categorical", "random")
    how = settings("categorical", kv_cache=True, guidance=2.0, dtype=dtype)

    def draw():
        types.clear()
        with autocast(CPU, dtype):
            return generate(model, labels, order, blank("categorical"), how, Noise("draw"))

    types, append = set(), KVCache.append

    def kept(self, block, k, v):
        types.add(self.keys.dtype)
        return append(self, block, k, v)

    monkeypatch.setattr(KVCache, "append", kept)
    drawn = draw()
    assert types == {HALF.get(dtype, torch.float32)} and drawn.shape == (len(labels), L)
    monkeypatch.setattr("mar.models.blocks.computed", lambda like: torch.float32)
    assert torch.equal(draw(), drawn) and types == {torch.float32}
