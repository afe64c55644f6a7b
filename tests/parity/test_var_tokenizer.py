"""VAR's multi-scale tokenizer, imported from its published names, against tensors recorded from the published code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mar.models.multiscale import nearest_phi
from mar.study.parts import Tokenizer as TokenizerConfig
from mar.tokenizers.autoencoder import build
from mar.weights.importing import import_weights

GOLDEN = Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "var_tiny.json").read_text())
SCALES = tuple(INDEX["config_var"]["patch_nums"])


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "var_tiny.safetensors")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The tokenizer by the way that a user takes: a checkpoint file, `mar import`, our classes."""
    folder = tmp_path_factory.mktemp("assets")
    weights = load_file(GOLDEN / "var_tiny_vqvae.safetensors")
    torch.save({k.removeprefix("vqvae."): v for k, v in weights.items()}, folder / "vae.pth")
    report = import_weights("var-msvq", folder / "vae.pth", "tiny", folder)
    tokenizer = build(TokenizerConfig.of(pretrained=True, scales=SCALES, **report.architecture), 16)
    tokenizer.net.load_state_dict(load_file(folder / "tiny.safetensors"), strict=True)
    return report, tokenizer.eval()


def rel(got, want):
    return float((torch.linalg.vector_norm(got - want) / torch.linalg.vector_norm(want)).detach())


def recorded_ids(golden):
    return [golden[f"out.idx.scale{k}"].long() for k in range(len(SCALES))]


def test_architecture_is_told_by_the_tensors(imported):
    report, _ = imported
    config = INDEX["config_vqvae"]
    assert report.architecture == {
        "kind": "msvq",
        "stride": config["downsample"],
        "channels": [config["ch"] * m for m in config["ch_mult"]],
        "layers": config["num_res_blocks"],
        "attention": "both",
        "latent_channels": config["z_channels"],
        "codebook_size": config["vocab_size"],
        "phis": config["share_quant_resi"],
    }
    assert list(report.dropped) == ["quantize.ema_vocab_hit_SV"]


@torch.no_grad()
def test_encoder_and_ids_of_every_scale(golden, imported):
    _, tokenizer = imported
    assert rel(tokenizer.net.encode(golden["in.image"]).latents, golden["out.f"]) < 1e-5
    ids = tokenizer.encode(golden["in.image"])
    assert torch.equal(ids, torch.cat(recorded_ids(golden), 1))


@torch.no_grad()
def test_sums_next_input_and_image(golden, imported):
    _, tokenizer = imported
    quantizer, ids = tokenizer.net.quantize, torch.cat(recorded_ids(golden), 1)
    sums = list(quantizer.sums(ids))
    assert len(sums) == len(SCALES)
    for k, found in enumerate(sums):
        assert rel(found, golden[f"out.f_hat.scale{k}"]) < 1e-5, k
    assert rel(quantizer.next_input(ids), golden["out.var_input"]) < 1e-5
    image = tokenizer.decode_ids(ids).clamp(-1, 1)
    assert (image - golden["out.f_hat.recon_image"]).abs().max() < 1e-4


def test_loss_and_straight_through(golden, imported):
    _, tokenizer = imported
    latents = golden["out.f"].clone().requires_grad_()
    quantised, loss, (_, _, ids) = tokenizer.net.quantize(latents)
    assert torch.equal(ids, torch.cat(recorded_ids(golden), 1))
    assert rel(loss, golden["out.vq_loss"][0]) < 1e-5
    assert rel(quantised, golden[f"out.f_hat.scale{len(SCALES) - 1}"]) < 1e-5
    (gradient,) = torch.autograd.grad(quantised.sum(), latents, retain_graph=True)
    assert torch.equal(gradient, torch.ones_like(latents))
    loss.backward()
    for name, parameter in tokenizer.net.quantize.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_phi_of_the_published_scales():
    places, found = [1 / 12, 13 / 36, 23 / 36, 11 / 12], [nearest_phi(k, 10) for k in range(10)]
    for k, phi in enumerate(found):
        distances = [abs(place - k / 9) for place in places]
        assert distances[phi] == pytest.approx(min(distances)), k
    # 2/9 and 7/9 are half-way; numpy's rounding of the published expression decides
    assert (found[2], found[7]) == (1, 3)


@pytest.mark.parametrize("phis", [1, 3])
@torch.no_grad()
def test_other_numbers_of_phi(tmp_path, phis):
    """The golden recordings share four: one and three are held against the formula, and load by their names.

    Published: phi(h) = 0.5 h + 0.5 conv(h); convolution number argmin |linspace(1/2/n, 1 - 1/2/n, n) - k/(K - 1)| of n
    serves scale k of K. One alone is named quant_resi.qresi, several quant_resi.qresi_ls.N.
    """
    weights = {k.removeprefix("vqvae."): v for k, v in load_file(GOLDEN / "var_tiny_vqvae.safetensors").items()}
    convolutions = []
    for i in range(4):
        names = [f"quantize.quant_resi.qresi_ls.{i}.{part}" for part in ("weight", "bias")]
        convolutions.append([weights.pop(name) for name in names])
    for i, pair in enumerate(convolutions[:phis]):
        name = "quantize.quant_resi.qresi" if phis == 1 else f"quantize.quant_resi.qresi_ls.{i}"
        weights |= {f"{name}.{part}": tensor for part, tensor in zip(("weight", "bias"), pair, strict=True)}
    torch.save(weights, tmp_path / "vae.pth")
    report = import_weights("var-msvq", tmp_path / "vae.pth", "tiny", tmp_path)
    assert report.architecture["phis"] == phis
    tokenizer = build(TokenizerConfig.of(pretrained=True, scales=SCALES, **report.architecture), 16)
    tokenizer.net.load_state_dict(load_file(tmp_path / "tiny.safetensors"), strict=True)
    quantizer, codes = tokenizer.eval().net.quantize, weights["quantize.embedding.weight"]

    places = np.linspace(1 / 2 / phis, 1 - 1 / 2 / phis, phis)
    served = [int(np.argmin(np.abs(places - k / 3))) for k in range(4)]
    assert [nearest_phi(k, 4, phis) for k in range(4)] == served and len(set(served)) == phis
    ids = torch.arange(30).repeat(2, 1) % len(codes)
    total, start = torch.zeros(2, 8, 4, 4), 0
    for side, phi in zip(SCALES, served, strict=True):
        h = codes[ids[:, start : start + side**2]].transpose(1, 2).reshape(2, 8, side, side)
        if side != 4:
            h = torch.nn.functional.interpolate(h, size=(4, 4), mode="bicubic")
        total += 0.5 * h + 0.5 * torch.nn.functional.conv2d(h, *convolutions[phi], padding=1)
        start += side**2
    assert rel(quantizer.latents(ids), total) < 1e-6
