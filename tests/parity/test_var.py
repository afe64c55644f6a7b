"""The scales backbone, its loss and its guided sampling against tensors recorded from the published code of VAR."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mar.models.heads.categorical import top_k_top_p
from mar.models.heads.head import build_head
from mar.models.model import Model
from mar.models.order import by_scale, draw_order, guidance_at_scale
from mar.models.scales import NextScale, Scales
from mar.runtime.noise import Noise
from mar.sampling.generate import conditions, generate
from mar.study.parts import Backbone, Head, Sampling
from mar.study.parts import Tokenizer as TokenizerConfig
from mar.tokenizers.autoencoder import build as build_tokenizer
from mar.weights.names import from_var, from_var_tokenizer, scales_architecture, scales_model

GOLDEN = Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "var_tiny.json").read_text())
CONFIG, TRAJECTORIES = INDEX["config_var"], {t["key"]: t for t in INDEX["trajectories"]}
SIDES = tuple(CONFIG["patch_nums"])
SIZES, L, V = [side**2 for side in SIDES], CONFIG["L"], INDEX["config_vqvae"]["vocab_size"]


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "var_tiny.safetensors")


@pytest.fixture(scope="module")
def tokenizer():
    weights = {k.removeprefix("vqvae."): v for k, v in load_file(GOLDEN / "var_tiny_vqvae.safetensors").items()}
    config = TokenizerConfig.of(
        kind="msvq", stride=4, channels=[32, 64, 32], attention="both", latent_channels=8, codebook_size=V,
        scales=SIDES, pretrained=True,
    )  # fmt: skip
    built = build_tokenizer(config, 16)
    built.net.load_state_dict(from_var_tokenizer(weights).tensors)
    return built.eval().requires_grad_(False)


def official(golden):
    """The published state dict, with the minus infinity that the file cannot hold."""
    weights = {k.removeprefix("var."): v for k, v in golden.items() if k.startswith("var.")}
    bias = weights["attn_bias_for_masking"]
    return weights | {"attn_bias_for_masking": bias.masked_fill(bias < -1e29, -torch.inf)}


@pytest.fixture()
def model(golden, tokenizer):
    backbone = Backbone.of(
        kind="scales", width=CONFIG["embed_dim"], depth=CONFIG["depth"], heads=CONFIG["num_heads"], dropout=0.0,
        gate_init=1.0,
    )  # fmt: skip
    z_proj = NextScale(tokenizer.net.quantize, 8, CONFIG["embed_dim"])
    head = build_head(Head.of(kind="categorical"), CONFIG["embed_dim"], codebook_size=V)
    model = Model(Scales(backbone, z_proj, SIDES, CONFIG["num_classes"]), head)
    model.load_state_dict(from_var(official(golden)).tensors, strict=True)
    return model.eval()


def rel(got, want):
    return float((torch.linalg.vector_norm(got - want) / torch.linalg.vector_norm(want)).detach())


def recorded(golden, key="out.idx.scale{}"):
    return torch.cat([golden[key.format(k)].long() for k in range(len(SIDES))], 1)


def test_names_and_architecture(golden):
    mapped = from_var(official(golden))
    sizes = scales_architecture(mapped)
    assert sizes == {
        "kind": "scales",
        "width": CONFIG["embed_dim"],
        "depth": CONFIG["depth"],
        "heads": CONFIG["num_heads"],
        "mlp_ratio": float(CONFIG["mlp_ratio"]),
        "shared_aln": False,
        "attention_norm": True,
        "scales": list(SIDES),
        "code_width": 8,
        "codebook_size": V,
        "classes": CONFIG["num_classes"],
    }
    state = scales_model(sizes).state_dict()
    assert {k: t.shape for k, t in mapped.tensors.items()} == {k: t.shape for k, t in state.items()}
    constants = {"lvl_1L", "attn_bias_for_masking", "blocks.0.attn.zero_k_bias", "blocks.1.attn.zero_k_bias"}
    assert set(mapped.dropped) == constants


@pytest.mark.parametrize("name", ["lvl_1L", "attn_bias_for_masking", "blocks.1.attn.zero_k_bias"])
def test_other_constants_are_refused(golden, name):
    weights = official(golden)
    weights[name] = weights[name].roll(1, -1) if name != "blocks.1.attn.zero_k_bias" else weights[name] + 1
    with pytest.raises(ValueError, match=name):
        from_var(weights)


@torch.no_grad()
def test_teacher_forcing(golden, tokenizer, model):
    ids, labels = recorded(golden), golden["in.labels"].long()
    assert rel(tokenizer.net.quantize.next_input(ids), golden["out.var_input"]) < 1e-5
    order = draw_order("scales", 2, L, Noise("test"))
    for label, name in ((labels, "out.logits"), (torch.full_like(labels, -1), "out.logits_uncond")):
        z, where = model.backbone(ids, label, order, 0)
        assert torch.equal(where, torch.arange(L).expand(2, L))
        assert rel(model.head.logits(z), golden[name]) < 1e-5


def test_loss_and_gradients(golden, model):
    ids, labels = recorded(golden), golden["in.labels"].long()
    loss = model.loss(ids, labels, draw_order("scales", 2, L, Noise("test")), 0, Noise("loss"))
    assert rel(loss, golden["out.ce_loss"][0]) < 1e-5
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def settings(trajectory, **more):
    # top-p 0 is off; our guidance scale counts the conditional branch, theirs what is added to it
    top = {"top_k": trajectory["top_k"], "top_p": trajectory["top_p"] or None}
    return Sampling(steps=len(SIDES), guidance=1 + trajectory["cfg"], **top, **more)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("key", list(TRAJECTORIES))
@torch.no_grad()
def test_trajectory_with_recorded_ids(golden, tokenizer, model, key, cached):
    trajectory, labels = TRAJECTORIES[key], golden["in.labels"].long()
    config, tokens = settings(trajectory), torch.zeros(2, L, dtype=torch.long)
    order, cache = torch.arange(L).expand(2, L), model.backbone.start(4) if cached else None
    for k, (start, stop) in enumerate(by_scale(SIZES)):
        scale = guidance_at_scale(config.guidance, config.guidance_schedule, k, len(SIDES))
        assert scale == pytest.approx(1 + trajectory["t_per_scale"][k])
        z, null = conditions(model.backbone, tokens, labels, order, start, stop, True, cache)
        logits = model.head.guided(z.flatten(0, 1), null.flatten(0, 1), scale).view(2, -1, V)
        assert rel(logits, golden[f"{key}.scale{k}.logits_cfg"]) < 1e-5
        keep = top_k_top_p(logits.flatten(0, 1), config.top_k, config.top_p).view(2, -1, V)
        assert torch.equal(keep, golden[f"{key}.scale{k}.kept"].bool())
        ids = golden[f"{key}.scale{k}.idx"].long()
        assert keep.gather(2, ids[:, :, None]).all()
        tokens[:, start:stop] = ids
        *_, total = tokenizer.net.quantize.sums(tokens[:, :stop])
        assert rel(total, golden[f"{key}.scale{k}.f_hat"]) < 1e-5
    image = (tokenizer.decode_ids(tokens) + 1) / 2
    assert (image.clamp(0, 1) - golden[f"{key}.image"]).abs().max() < 1e-4


class Recorded:
    """Answers the draws of a trajectory so that the recorded ids come out: u in the middle of each id's share."""

    def __init__(self, golden, key):
        self.golden, self.key, self.k = golden, key, 0

    def uniform(self, *shape):
        logits, keep = (
            self.golden[f"{self.key}.scale{self.k}.{name}"].flatten(0, 1) for name in ("logits_cfg", "kept")
        )
        ids = self.golden[f"{self.key}.scale{self.k}.idx"].long().view(-1, 1)
        p = logits.masked_fill(keep == 0, -torch.inf).double().softmax(1)
        assert shape == (len(p), 1)
        self.k += 1
        return p.cumsum(1).gather(1, ids) - p.gather(1, ids) / 2


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("key", list(TRAJECTORIES))
def test_whole_trajectory(golden, tokenizer, model, key, cached):
    trajectory, labels = TRAJECTORIES[key], golden["in.labels"].long()
    noise = Recorded(golden, key)
    order, blank = torch.arange(L).expand(2, L), torch.zeros(L, dtype=torch.long)
    ids = generate(model, labels, order, blank, settings(trajectory, kv_cache=cached), noise)
    assert noise.k == len(SIDES)
    assert torch.equal(ids, recorded(golden, key + ".scale{}.idx"))
    image = (tokenizer.decode_ids(ids) + 1) / 2
    assert (image.clamp(0, 1) - golden[f"{key}.image"]).abs().max() < 1e-4


def test_golden_is_complete():
    assert len(TRAJECTORIES) == 3 and sum(SIZES) == L
