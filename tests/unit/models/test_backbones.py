"""Laws of the backbones: what may influence what, and cache against no cache."""

import pytest
import torch
from tiny_models import HEADS, B, L, V, batch, blank, build, settings

from mar.models.order import schedule
from mar.runtime.noise import Noise
from mar.sampling.generate import generate


def changed(tokens):
    return (tokens + 1) % V if tokens.ndim == 2 else tokens + 1.0


@pytest.mark.parametrize("order", ["raster", "random"])
@pytest.mark.parametrize("head", ["categorical", "diffusion"])
@torch.no_grad()
def test_causal_token_never_reaches_its_past(order, head):
    model = build("causal", head)
    tokens, labels, where = batch(head, order)
    z, of = model.backbone(tokens, labels, where, 0)
    assert torch.equal(of, where)
    for i in range(L):
        other = tokens.clone()
        rows = torch.arange(B)
        other[rows, where[:, i]] = changed(tokens)[rows, where[:, i]]
        z_other, _ = model.backbone(other, labels, where, 0)
        same = (z == z_other).all(-1)
        assert same[:, : i + 1].all()
        assert not same[:, i + 1 :].any()  # and it does reach its whole future


@torch.no_grad()
def test_masked_sees_known_tokens_only():
    model = build("masked", "diffusion")
    tokens, labels, order = batch("diffusion", "random")
    z, where = model.backbone(tokens, labels, order, 4)
    mask = torch.zeros(B, L, dtype=torch.bool).scatter(1, where, True)
    assert where.shape == (B, L - 4) and mask.gather(1, order)[:, 4:].all()
    assert (where.diff(dim=1) > 0).all()
    hidden, visible = tokens.clone(), tokens.clone()
    hidden[mask] += 1.0
    visible[~mask] += 1.0
    assert torch.equal(model.backbone(hidden, labels, order, 4)[0], z)
    assert not torch.allclose(model.backbone(visible, labels, order, 4)[0], z)


@pytest.mark.parametrize(("kind", "known"), [("causal", 0), ("masked", 4)])
@pytest.mark.parametrize("head", ["categorical", "mse"])
@torch.no_grad()
def test_loss_pairs_each_predicted_token_with_its_condition(kind, known, head):
    model = build(kind, head)
    tokens, labels, order = batch(head, "random")
    z, where = model.backbone(tokens, labels, order, known)
    each = [model.head.loss(z[b, i][None], tokens[b, where[b, i]][None]) for b in range(B) for i in range(L - known)]
    loss = model.loss(tokens, labels, order, known, Noise("loss"))
    torch.testing.assert_close(loss, torch.stack(each).mean())


@pytest.mark.parametrize("kind", ["causal", "masked"])
@torch.no_grad()
def test_predict_equals_forward(kind):
    model = build(kind, "diffusion")
    tokens, labels, order = batch("diffusion", "random")
    for start, stop in schedule(L, L if kind == "causal" else 3):
        z, where = model.backbone(tokens, labels, order, start)
        row = [{int(p): z[b, i] for i, p in enumerate(where[b])} for b in range(B)]
        want = torch.stack([torch.stack([row[b][int(p)] for p in order[b, start:stop]]) for b in range(B)])
        got = model.backbone.predict(tokens, labels, order, start, stop)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ["raster", "random"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_kv_cache_equals_no_cache(order, head, guidance):
    model = build("causal", head)
    _, labels, where = batch(head, order)
    drawn = [
        generate(model, labels, where, blank(head), settings(head, kv_cache=cached, guidance=guidance), Noise("draw"))
        for cached in (True, False)
    ]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("head", ["categorical", "diffusion"])
@torch.no_grad()
def test_null_condition_and_classes_matter(kind, head):
    model = build(kind, head)
    tokens, _, order = batch(head, "random")
    outputs = [model.backbone(tokens, torch.full((B,), label), order, 2)[0] for label in (-1, 0, 1)]
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[1], outputs[2])


@pytest.mark.parametrize("kind", ["causal", "masked"])
@pytest.mark.parametrize("head", HEADS)
def test_loss_reaches_every_parameter(kind, head):
    model = build(kind, head)
    tokens, labels, order = batch(head, "random")
    labels[0] = -1
    model.loss(tokens, labels, order, 2, Noise("loss")).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_causal_refuses_many_tokens():
    model = build("causal", "categorical")
    with pytest.raises(ValueError, match="one token a step; asked for 2"):
        model.backbone.predict(*batch("categorical", "raster"), 0, 2)
