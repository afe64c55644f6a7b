"""Laws of the scales backbone: what may influence what, cache against no cache, depth that is dropped, steps taken."""

import pytest
import torch

from mar.models.heads.categorical import top_k_top_p
from mar.models.heads.head import build_head
from mar.models.model import Model
from mar.models.multiscale import MultiScaleQuantizer
from mar.models.order import by_scale, draw_order, guidance_at_scale
from mar.models.scales import NextScale, PlainBlock, Scales, drop_path
from mar.runtime.noise import Noise
from mar.sampling.generate import Kept, conditions, generate
from mar.study.parts import Backbone, Head, Recipe, Sampling
from mar.training.schedule import learning_rate
from mar.training.trainer import parameter_groups

B, V, C, CLASSES, SIDES = 3, 11, 4, 5, (1, 2, 3)
SIZES, L = [side**2 for side in SIDES], 14


# The backbones: as published, with one layer of modulations, and the rows of VAR's Table 3 without AdaLN or norm.
KINDS = [
    {},
    {"shared_aln": True},
    {"adaln": False, "gate_init": None},
    {"attention_norm": False},
    {"adaln": False, "gate_init": None, "attention_norm": False},
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind) or "published")


def build(dropout=0.0, sides=SIDES, **kind):
    torch.manual_seed(0)
    quantizer = MultiScaleQuantizer(V, C, sides)
    for parameter in quantizer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    values = {"kind": "scales", "width": 16, "depth": 3, "heads": 2, "dropout": dropout, "gate_init": 1.0}
    backbone = Backbone.model_validate(values | kind)
    built = Scales(backbone, NextScale(quantizer.requires_grad_(False), C, 16), sides, CLASSES)
    model = Model(built, build_head(Head.of(kind="categorical"), 16, codebook_size=V))
    for parameter in model.parameters():  # small gates would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch(length=L):
    noise = Noise("test")
    return noise.integers(V, B, length), noise.integers(CLASSES, B), draw_order("scales", B, length, noise)


@every_kind
@torch.no_grad()
def test_a_scale_is_told_by_those_before_alone(kind):
    model = build(**kind)
    tokens, labels, order = batch()
    z, where = model.backbone(tokens, labels, order, 0)
    assert torch.equal(where, torch.arange(L).expand(B, L))
    for start, stop in by_scale(SIZES):
        for i in range(start, stop):
            other = tokens.clone()
            other[:, i] = (other[:, i] + 1) % V
            same = (z == model.backbone(other, labels, order, 0)[0]).all(-1)
            assert same[:, :stop].all()
            assert not same[:, stop:].any()  # and it does reach all scales after


@pytest.mark.parametrize("sides", [SIDES, (2, 3, 5)])
@every_kind
@torch.no_grad()
def test_sampling_with_and_without_cache_is_teacher_forcing(kind, sides):
    model = build(sides=sides, **kind)
    sizes = [side**2 for side in sides]
    tokens, labels, order = batch(sum(sizes))
    z, _ = model.backbone(tokens, labels, order, 0)
    null, _ = model.backbone(tokens, torch.full_like(labels, -1), order, 0)
    for cache in (None, model.backbone.start(2 * B)):
        for start, stop in by_scale(sizes):
            known = torch.where(torch.arange(sum(sizes)) < start, tokens, 0)  # nothing of what comes is read
            got = conditions(model.backbone, known, labels, order, start, stop, True, cache)
            torch.testing.assert_close(got[0], z[:, start:stop], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(got[1], null[:, start:stop], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_kv_cache_draws_the_same_ids(guidance):
    model = build()
    _, labels, order = batch()
    settings = [Sampling(steps=3, guidance=guidance, top_k=5, kv_cache=cached) for cached in (True, False)]
    blank = torch.zeros(L, dtype=torch.long)
    drawn = [generate(model, labels, order, blank, one, Noise("draw")) for one in settings]
    assert torch.equal(*drawn) and len(drawn[0].unique()) > 2


def test_a_part_of_a_scale_is_refused():
    tokens, labels, order = batch()
    with pytest.raises(ValueError, match="a whole scale a step; asked for tokens 1 to 2"):
        build().backbone.predict(tokens, labels, order, 1, 3)


@every_kind
def test_loss_reaches_every_parameter_and_no_tokenizer(kind):
    model = build(**kind)
    tokens, labels, order = batch()
    labels[0] = -1
    model.loss(tokens, labels, order, 0, Noise("loss")).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert not any("quantizer" in name for name in model.state_dict())


@torch.no_grad()
def test_null_condition_and_classes_matter():
    model = build()
    tokens, _, order = batch()
    outputs = [model.backbone(tokens, torch.full((B,), label), order, 0)[0] for label in (-1, 0, 1)]
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[1], outputs[2])


@torch.no_grad()
def test_stochastic_depth_drops_whole_branches_of_images():
    model = build(dropout=0.5)
    assert [block.drop for block in model.backbone.blocks] == [0.0, 0.25, 0.5]
    tokens, labels, order = batch()
    whole = model.backbone(tokens, labels, order, 0)[0]
    assert torch.equal(model.backbone(tokens, labels, order, 0)[0], whole)  # in evaluation nothing is dropped
    out = drop_path(torch.ones(4000, 2, 3), 0.5)
    assert set(out.unique().tolist()) == {0.0, 2.0} and (out == out[:, :1, :1]).all()
    assert out.mean().item() == pytest.approx(1.0, abs=0.1)


@torch.no_grad()
def test_plain_attention_and_plain_block_are_their_formulas():
    """Softmax of 0.25 q k^T / sqrt(size of a head); pre-norm residual branches, GELU by tanh; keys have no bias."""
    block = build(adaln=False, gate_init=None, attention_norm=False).backbone.blocks[0]
    assert isinstance(block, PlainBlock) and block.attn.scale_mul_1H11 is None
    x, mask = Noise("x").normal(B, 5, 16), torch.ones(5, 5, dtype=torch.bool).tril()

    def attention(h):
        w, out = block.attn.mat_qkv.weight, []
        for head in range(2):
            rows = slice(8 * head, 8 * head + 8)
            q = h @ w[:16][rows].T + block.attn.q_bias[rows]
            k = h @ w[16:32][rows].T
            v = h @ w[32:][rows].T + block.attn.v_bias[rows]
            weights = (0.25 / 8**0.5 * q @ k.transpose(1, 2)).masked_fill(~mask, -torch.inf).softmax(2)
            out.append(weights @ v)
        return torch.cat(out, 2) @ block.attn.proj.weight.T + block.attn.proj.bias

    def normed(h, layer):
        h = h - h.mean(2, keepdim=True)
        return h / (h.square().mean(2, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias

    middle = x + attention(normed(x, block.norm1))
    h = normed(middle, block.norm2) @ block.ffn.fc1.weight.T + block.ffn.fc1.bias
    h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    expected = middle + h @ block.ffn.fc2.weight.T + block.ffn.fc2.bias
    torch.testing.assert_close(block(x, torch.zeros(B, 16), mask), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("adaln", "millions"), [(False, 207), (True, 310)])
def test_sizes_of_the_ablation(adaln, millions):
    """Table 3 of VAR: 207M without AdaLN, 310M with it, at depth 16."""
    values = {"kind": "scales", "width": 1024, "depth": 16, "heads": 16, "attention_norm": False, "adaln": adaln}
    config = Backbone.model_validate(values | ({"gate_init": 1e-3} if adaln else {}))
    sides = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    with torch.device("meta"):
        backbone = Scales(config, NextScale(None, 32, 1024), sides, 1000)
        model = Model(backbone, build_head(Head.of(kind="categorical"), 1024, codebook_size=4096))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == pytest.approx(millions, abs=1)


def test_gradient_checkpointing_changes_nothing():
    grads = []
    for checkpointed in (False, True):
        model = build(dropout=0.5).train()
        if checkpointed:
            model.checkpoint_blocks()
        torch.manual_seed(1)
        tokens, labels, order = batch()
        model.loss(tokens, labels, order, 0, Noise("loss")).backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_published_start():
    torch.manual_seed(0)
    config = Backbone.of(kind="scales", width=64, depth=4, heads=4, gate_init=1e-3)
    backbone = Scales(config, NextScale(None, C, 64), SIDES, CLASSES)
    std = (1 / 3 / 64) ** 0.5
    for weight, factor in (
        (backbone.class_emb.weight, 1.0),
        (backbone.blocks[0].attn.mat_qkv.weight, 1.0),
        (backbone.blocks[3].ffn.fc1.weight, 1.0),
        (backbone.blocks[3].ffn.fc2.weight, 8**-0.5),
        (backbone.blocks[0].attn.proj.weight, 8**-0.5),
        (backbone.blocks[0].ada_lin[1].weight[: 2 * 64], 1e-3),
        (backbone.blocks[0].ada_lin[1].weight[2 * 64 :], 0.5),
        (backbone.head_nm.ada_lin[1].weight, 0.5),
    ):
        assert weight.std().item() == pytest.approx(std * factor, rel=0.1)
    assert backbone.blocks[0].attn.scale_mul_1H11.exp().mean().item() == pytest.approx(4.0)
    assert [block.drop for block in backbone.blocks] == pytest.approx([0.0, 0.1 / 3, 0.2 / 3, 0.1])
    plain = Scales(
        Backbone.of(kind="scales", width=64, depth=4, heads=4, adaln=False), NextScale(None, C, 64), SIDES, 5
    )
    assert plain.blocks[3].ffn.fc2.weight.std().item() == pytest.approx(std * 8**-0.5, rel=0.1)
    assert (plain.blocks[0].norm1.weight == 1).all() and (plain.head_nm.bias == 0).all()


def test_tables_and_scales_of_attention_are_not_decayed():
    model = build(shared_aln=True)
    _, plain = parameter_groups(model, 0.05)
    left = {id(p) for p in plain["params"]}
    tables = {name for name, p in model.named_parameters() if id(p) in left and p.ndim > 1}
    assert tables == {
        *("backbone.pos_start", "backbone.pos_1LC", "backbone.lvl_embed.weight"),
        *(f"backbone.blocks.{i}.{part}" for i in range(3) for part in ("ada_gss", "attn.scale_mul_1H11")),
    }


def test_linear_rate():
    recipe = Recipe(images=1280, batch=8, warmup_images=80, schedule="linear", final_rate=0.1, base_learning_rate=32.0,
                    checkpoint_images=8, log_images=8)  # fmt: skip
    assert [learning_rate(recipe, images) for images in (0, 40, 80, 140)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert learning_rate(recipe, 710) == pytest.approx(0.55)
    assert learning_rate(recipe, 1280) == pytest.approx(0.1)
    # published: from 0.005 of the peak on
    started = recipe.model_copy(update={"warmup_from": 0.005})
    assert [learning_rate(started, images) for images in (0, 40, 80)] == pytest.approx([0.005, 0.5025, 1.0])


def test_guidance_grows_by_scale():
    assert [guidance_at_scale(2.5, "linear", k, 4) for k in range(4)] == pytest.approx([1.0, 1.5, 2.0, 2.5])
    assert [guidance_at_scale(2.5, "constant", k, 4) for k in range(4)] == [2.5] * 4


def test_top_k_and_top_p():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.7, 0.1, 0.1, 0.1]])
    logits = p.log()
    assert top_k_top_p(logits, 2, None).tolist() == [
        [False, True, False, True],
        [True, True, True, True],
    ]  # equals stay
    assert top_k_top_p(logits, 1, None)[0].tolist() == [False, True, False, False]
    assert top_k_top_p(logits, None, 0.65)[0].tolist() == [False, True, False, True]
    assert top_k_top_p(logits, None, 1e-9).sum(1).tolist() == [1, 1]  # the likeliest always
    assert top_k_top_p(logits, 99, 1.0).all()
    # p is of what top-k has left: 0.4 of 0.7 is less than 0.6
    assert top_k_top_p(logits, 2, 0.6)[0].tolist() == [False, True, False, True]
    assert top_k_top_p(logits, 2, 0.5)[0].tolist() == [False, True, False, False]


def test_only_kept_ids_are_drawn():
    head = build_head(Head.of(kind="categorical"), 4, codebook_size=V)
    z = torch.randn(500, 4)
    settings = Sampling(steps=1, top_k=3, top_p=0.8, temperature=0.7)
    ids, log_p = head.sample(z, None, settings, 1.0, Noise("draw"))
    keep = top_k_top_p(head.logits(z) / 0.7, 3, 0.8)
    assert keep.gather(1, ids[:, None]).all() and (keep.sum(1) <= 3).all()
    share = (head.logits(z) / 0.7).masked_fill(~keep, -torch.inf).log_softmax(1)
    torch.testing.assert_close(log_p, share.gather(1, ids[:, None])[:, 0])


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_the_mixture_is_its_formula(done):
    """VAR's more_smooth: Gumbel softmax of (1 + r) times the logits that are left, at max(0.27 (1 - 0.95 r), 0.005)."""
    head, z = build_head(Head.of(kind="categorical"), 4, codebook_size=V), torch.randn(50, 8)
    settings = Sampling(steps=1, top_k=3, top_p=0.8, temperature=0.7, more_smooth=True)
    weights = head.mixture(z[:, :4], z[:, 4:], settings, 1.5, done, Noise("draw"))
    cond, null = head.logits(z[:, :4]), head.logits(z[:, 4:])
    logits = (null + 1.5 * (cond - null)) / 0.7
    keep = top_k_top_p(logits, 3, 0.8)
    u = Noise("draw").uniform(50, V).double()
    tau = {0.0: 0.27, 0.5: 0.14175, 1.0: 0.0135}[done]
    shares = torch.where(keep, ((1 + done) * logits.double() - (-u.log()).log()).div(tau), -torch.inf)
    shares = (shares - shares.amax(1, keepdim=True)).exp()
    torch.testing.assert_close(weights.double(), shares / shares.sum(1, keepdim=True), rtol=1e-3, atol=1e-5)
    assert (weights[~keep] == 0).all()


@pytest.mark.parametrize("cached", [True, False])
def test_more_smooth_draws_mixtures_of_codes(cached):
    """Codes take the place of ids, scale by scale, from the sum of the mixtures so far; one id left: its code."""
    model = build()
    (quantizer,) = model.backbone.z_proj._quantizer
    _, labels, order = batch()
    blank = torch.zeros(L, dtype=torch.long)
    smooth = Sampling(steps=3, guidance=2.5, more_smooth=True, kv_cache=cached)
    drawn = generate(model, labels, order, blank, smooth, Noise("draw"))
    tokens, noise = torch.zeros(B, L, C), Noise("draw")
    for k, (start, stop) in enumerate(by_scale(SIZES)):
        z, null = conditions(model.backbone, tokens, labels, order, start, stop, True, None)
        scale = guidance_at_scale(2.5, "linear", k, 3)
        weights = model.head.mixture(z.flatten(0, 1), null.flatten(0, 1), smooth, scale, k / 2, noise)
        tokens[:, start:stop] = (weights @ quantizer.embedding.weight).view(B, -1, C)
    torch.testing.assert_close(drawn, tokens, rtol=1e-4, atol=1e-4)

    one = smooth.model_copy(update={"top_k": 1})
    codes = generate(model, labels, order, blank, one, Noise("draw"))
    ids = generate(model, labels, order, blank, one.model_copy(update={"more_smooth": False}), Noise("draw"))
    torch.testing.assert_close(codes, quantizer.embedding(ids))
    torch.testing.assert_close(quantizer.latents(codes), quantizer.latents(ids))

    kept = Kept(ids, torch.arange(L) < 5, first=False)
    edited = generate(model, labels, order, blank, smooth, Noise("draw"), kept)
    assert torch.equal(edited[:, :5], quantizer.embedding(ids[:, :5])) and not torch.equal(edited[:, 5:], codes[:, 5:])
