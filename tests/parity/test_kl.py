"""The KL autoencoder, imported from the published names, against tensors recorded from the published code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mar.data.latents import sample_posterior
from mar.study.parts import Tokenizer as TokenizerConfig
from mar.tokenizers.autoencoder import build
from mar.weights.importing import import_weights

GOLDEN = Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "kl_vae_tiny.json").read_text())
# The float64 outputs of our classes are the reference for rounding; the recorded tensors are float32.
ROUNDING = INDEX["tolerance"]["measured_float32_vs_float64_rel_l2"]


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "kl_vae_tiny.safetensors")


@pytest.fixture(scope="module")
def imported(golden, tmp_path_factory):
    """The tokenizer by the way that a user takes: a checkpoint file, `mar import`, our classes."""
    folder = tmp_path_factory.mktemp("assets")
    weights = golden | load_file(GOLDEN / "kl_vae_tiny_decoder.safetensors")
    file = folder / "kl16.ckpt"
    torch.save({"model": {k.removeprefix("sd."): v for k, v in weights.items() if k.startswith("sd.")}}, file)
    report = import_weights("ldm-kl", file, "tiny", folder)
    tokenizer = build(TokenizerConfig.of(pretrained=True, **report.architecture), 64)
    tokenizer.net.load_state_dict(load_file(folder / "tiny.safetensors"), strict=True)
    return report, tokenizer.eval().requires_grad_(False)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def exact(request, imported):
    _, tokenizer = imported
    yield tokenizer.to(request.param), request.param
    tokenizer.to(torch.float32)


def rel(got, want):
    return float(torch.linalg.vector_norm(got.double() - want.double()) / torch.linalg.vector_norm(want.double()))


def test_architecture_is_told_by_the_tensors(imported):
    report, _ = imported
    config = INDEX["config"]
    assert report.architecture == {
        "kind": "kl",
        "stride": 4,
        "channels": [config["ch"] * m for m in config["ch_mult"]],
        "layers": config["num_res_blocks"],
        "attention": "encoder",
        "latent_channels": config["z_channels"],
    }
    assert report.dropped == {} and report.beside == {}


def test_encoder(golden, exact):
    tokenizer, dtype = exact
    x = golden["in.image"].to(dtype)
    assert rel(tokenizer.net.encoder(x), golden["out.encoder"]) < 1e-5
    moments = tokenizer.encode(x)
    assert rel(moments, golden["out.moments"]) < 1e-5
    if dtype == torch.float64:  # what is left is the rounding of the recorded float32 tensors
        assert rel(moments, golden["out.moments"]) < 2 * ROUNDING["out.moments"]


def test_posterior(golden, exact):
    tokenizer, dtype = exact
    moments = golden["out.moments"].to(dtype)
    assert rel(sample_posterior(moments, golden["in.eps"].to(dtype)), golden["out.sample"]) < 1e-6
    posterior = tokenizer.net.encode(golden["in.image"].to(dtype)).latent_dist
    assert rel(posterior.kl(), golden["out.kl"]) < 1e-5


def test_decoder(golden, exact):
    tokenizer, dtype = exact
    decoded = tokenizer.decode_latents(golden["in.z"].to(dtype))
    assert rel(decoded, golden["out.decode"]) < 1e-5
    if dtype == torch.float64:
        assert rel(decoded, golden["out.decode"]) < 2 * ROUNDING["out.decode"]
    recorded = golden["out.moments"].to(dtype).chunk(2, dim=1)[0]
    assert rel(tokenizer.decode_latents(recorded), golden["out.recon_mode"]) < 1e-5
    mean = tokenizer.encode(golden["in.image"].to(dtype)).chunk(2, dim=1)[0]
    # Through both halves the rounding adds up: 1.5e-5 in float32; the index fails above 1e-4.
    assert rel(tokenizer.decode_latents(mean), golden["out.recon_mode"]) < 1e-4


def test_published_size_has_as_many_parameters():
    config = INDEX["official_kl16_config"]
    sizes = {"kind": "kl", "stride": 16, "layers": config["num_res_blocks"], "attention": "encoder"}
    channels = [config["ch"] * m for m in config["ch_mult"]]
    with torch.device("meta"):
        net = build(TokenizerConfig.of(pretrained=True, channels=channels, latent_channels=16, **sizes), 256).net
    assert sum(p.numel() for p in net.parameters()) == config["parameters"]
