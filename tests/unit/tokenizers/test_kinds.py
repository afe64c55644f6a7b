"""Every kind of tokenizer: what it encodes to, back to images, and through training and sampling of a variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pipeline
import pytest
import torch
from pydantic import ValidationError

from mar.data.images import open_split, to_float, to_uint8
from mar.data.latents import patchify, unpatchify
from mar.data.prepare import prepare
from mar.data.tokens import TokenSet
from mar.runtime.files import read_json
from mar.runtime.noise import Noise
from mar.sampling.sampler import Sampler
from mar.study.parts import Tokenizer as Config
from mar.tokenizers import autoencoder
from mar.tokenizers.autoencoder import Consistency, Tokenizer, build
from mar.tokenizers.encode import encode
from mar.tokenizers.train import train
from mar.training.trainer import Trainer
from mar.training.trainer import train as train_variant

VQ = {"kind": "vq", "codebook_size": 16, **pipeline.TOKENIZER}
MSVQ = {"kind": "msvq", "codebook_size": 16, "scales": [1, 2, 4], **pipeline.TOKENIZER}
PIXELS = {"kind": "pixels", "stride": 1, "latent_channels": 3, "group": 4}
KL16 = {"kind": "kl", "stride": 16, "channels": [128, 128, 256, 256, 512], "layers": 2, "latent_channels": 16}
KL16 |= {"kl_weight": 1e-6, "images": 64, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return to_float(torch.randint(256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte())


def consistency() -> Tokenizer:
    """The consistency decoder, narrow."""
    from diffusers import ConsistencyDecoderVAE

    narrow = {"encoder_block_out_channels": (8, 8, 8, 8), "encoder_layers_per_block": 1, "encoder_norm_num_groups": 4}
    narrow |= {"decoder_block_out_channels": (8, 8, 8, 8), "decoder_layers_per_block": 1, "decoder_norm_num_groups": 4}
    torch.manual_seed(0)
    return Consistency("consistency", ConsistencyDecoderVAE(**narrow), "moments").eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("config", "tokens", "shape"),
    [
        ({"kind": "kl", "kl_weight": 1e-6, **pipeline.TOKENIZER}, "moments", (3, 8, 4, 4)),
        (VQ, "ids", (3, 16)),
        ({**VQ, "stem": 2, "channels": VQ["channels"][1:]}, "ids", (3, 16)),
        (MSVQ, "ids", (3, 21)),
        ({**VQ, "continuous": True, "group": 2}, "latents", (3, 4, 4, 4)),
        (PIXELS, "latents", (3, 3, 16, 16)),
    ],
)
@torch.no_grad()
def test_there_and_back(images: torch.Tensor, config: dict[str, Any], tokens: str, shape: tuple[int, ...]) -> None:
    tokenizer = build(Config.of(**config), 16).eval()
    found = tokenizer.encode(images)
    assert tokenizer.tokens == tokens and found.shape == shape
    assert tokenizer.decode(found).shape == images.shape


@torch.no_grad()
def test_continuous_latents_pass_the_quantiser(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    ids = build(Config.of(**VQ), 16).eval()
    latents = build(Config.of(**VQ, continuous=True), 16).eval()
    latents.load_state_dict(ids.state_dict())
    found = latents.encode(images)
    assert (latents.decode_latents(found) == ids.decode_ids(ids.encode(images))).all()
    # what lies near a code becomes that code
    assert (latents.decode_latents(found + 1e-6) == latents.decode_latents(found)).all()
    torch.testing.assert_close(latents.decode_latents(found), latents.net.decode(found).sample)


@torch.no_grad()
def test_scales_are_residuals_of_those_before(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    tokenizer = build(Config.of(**MSVQ), 16).eval()
    quantizer, latents = tokenizer.net.quantize, tokenizer.net.encode(images).latents
    quantizer.embedding.weight.normal_()
    ids = tokenizer.encode(images)
    assert ids.dtype == torch.int64 and ids.min() >= 0 and ids.max() < 16
    # scale k is what lies nearest to the mean, over areas, of what the scales before leave
    sums, start = [torch.zeros_like(latents), *quantizer.sums(ids)], 0
    for k, side in enumerate((1, 2, 4)):
        small = (latents - sums[k]).unfold(2, 4 // side, 4 // side).unfold(3, 4 // side, 4 // side).mean((4, 5))
        rows = small.permute(0, 2, 3, 1).reshape(-1, 4)
        assert (
            torch.cdist(rows, quantizer.embedding.weight).argmin(1).view(3, -1) == ids[:, start : start + side**2]
        ).all()
        start += side**2
    assert (quantizer.latents(ids) == sums[-1]).all()
    assert quantizer.residuals(latents).shape == (3 * 21, 4)
    # the input of the next scale is told by whole scales alone, and grows with them
    whole = quantizer.next_input(ids)
    assert whole.shape == (3, 4 + 16, 4)
    for known, told in ((0, 0), (1, 4), (5, 20), (21, 20)):
        assert (quantizer.next_input(ids[:, :known]) == whole[:, :told]).all()
    torch.testing.assert_close(whole[:, :4], sums[1].unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5)).flatten(2).mT)
    torch.testing.assert_close(whole[:, 4:], sums[2].flatten(2).mT)


def test_pixels_are_exact() -> None:
    config = Config.of(**PIXELS)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    pixels[:, 1], pixels[:, 2] = pixels[:, 0].mT, 255 - pixels[:, 0]
    tokenizer = build(config, 16)
    tokens = patchify(tokenizer.encode(to_float(pixels)), config.group)
    assert tokens.shape == (1, 16, 48)
    assert (to_uint8(tokenizer.decode_latents(unpatchify(tokens, config.group, 3))) == pixels).all()


def test_parameters_of_published_sizes() -> None:
    with torch.device("meta"):
        counts = {a: parameters({**KL16, "attention": a}) for a in ("middle", "encoder", "both")}
        kl8 = {"kind": "kl", "stride": 8, "channels": [128, 256, 512, 512], "layers": 2, "latent_channels": 4}
        assert parameters({**kl8, "kl_weight": 1e-6, "images": 64, "learning_rate": 1e-4}) == 83_653_863
        published = {"kind": "consistency", "stride": 8, "latent_channels": 4, "pretrained": True}
        tokenizer = build(Config.of(**published), 256)
    attention = 4 * (512**2 + 512) + 2 * 512
    assert counts["encoder"] == 66_456_019  # MAR's KL-16
    assert counts["middle"] == counts["encoder"] - 2 * attention  # after each of two blocks
    assert counts["both"] == counts["encoder"] + 3 * attention  # a decoder level has one block more
    assert sum(p.numel() for p in tokenizer.net.encoder.parameters()) == 34_163_592  # of Stable Diffusion's KL-8
    assert 610e6 < sum(p.numel() for p in tokenizer.net.decoder_unet.parameters()) < 630e6


def parameters(config: dict[str, Any]) -> int:
    return sum(p.numel() for p in build(Config.of(**config), 256).parameters())


@torch.no_grad()
@pytest.mark.parametrize("values", [pipeline.VALUES["tokenizers"]["kl"], VQ, MSVQ], ids=["kl", "vq", "msvq"])
def test_attention_in_both_halves_runs(images: torch.Tensor, values: dict[str, Any]) -> None:
    config = Config.of(**{**values, "attention": "both"})
    tokenizer = build(config, 16).eval()
    assert tokenizer.net.encoder.down_blocks[-1].attentions and tokenizer.net.decoder.up_blocks[0].attentions
    assert tokenizer.decode(tokenizer.encode(images)).shape == images.shape


@torch.no_grad()
def test_the_consistency_decoder_draws_from_the_named_stream(images: torch.Tensor) -> None:
    tokenizer = consistency()
    moments = tokenizer.encode(images)
    assert tokenizer.tokens == "moments" and moments.shape == (3, 8, 2, 2)
    drawn = [tokenizer.decode(moments, Noise("test", n)) for n in (0, 0, 1)]
    assert drawn[0].shape == images.shape
    torch.manual_seed(1)  # the global generator plays no part
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    # two steps, 1008 and 512: the first from pure noise, the second after noise was added again
    scheduler, noise = tokenizer.net.decoder_scheduler, Noise("test", 0)
    z = (moments[:, :4] * 0.18215 - tokenizer.net.means) / tokenizer.net.stds
    z = z.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    x = scheduler.sqrt_one_minus_alphas_cumprod[1008] * noise.normal(3, 3, 16, 16)
    for t, after in ((1008, 512), (512, None)):
        output = tokenizer.net.decoder_unet(torch.cat([x * scheduler.c_in[t], z], 1), t).sample[:, :3]
        x = scheduler.c_out[t] * output + scheduler.c_skip[t] * x
        if after:
            x = scheduler.sqrt_alphas_cumprod[after] * x
            x += scheduler.sqrt_one_minus_alphas_cumprod[after] * noise.normal(3, 3, 16, 16)
    torch.testing.assert_close(drawn[0], x)


def test_a_consistency_decoder_of_another_size_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"stride 16, latent_channels 4: the consistency decoder has 8 and 4"):
        Config.of(kind="consistency", stride=16, latent_channels=4, pretrained=True)


@pytest.mark.parametrize(("name", "token_dim"), [("pixels", 48), ("continuous", 16)])
def test_latents_through_all_stages(tmp_path: Path, name: str, token_dim: int) -> None:
    """Tokenizer, encode, train and sample of tokens without a posterior."""
    config = PIXELS if name == "pixels" else {**VQ, "continuous": True, "group": 2}
    variant = {**pipeline.VALUES["variants"]["mar"], "tokenizer": name}
    study = pipeline.study(tokenizers={name: config}, variants={"mar": variant})
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    train(study, root, name)
    encode(study, root, name)
    tokens = TokenSet.open(root / "tokens" / name / "train")
    assert (tokens.manifest.kind, tokens.manifest.token_dim) == ("latents", token_dim)
    rows, views = torch.tensor([0, 7]), torch.zeros(2, dtype=torch.int64)
    stored = tokens.batch(rows, views)
    with torch.no_grad():
        encoded = autoencoder.load(root, name, study).encode(to_float(open_split(study, root, "train").batch(rows)))
    torch.testing.assert_close(stored, encoded, atol=1e-5, rtol=1e-5)
    scale = tokens.manifest.scale
    everything = tokens.batch(torch.arange(len(tokens)), torch.zeros(len(tokens), dtype=torch.int64))
    assert scale == 1.0 if name == "pixels" else scale == pytest.approx(1 / everything.double().std().item(), rel=1e-4)
    assert read_json(root / "tokens" / name / "heldout" / "manifest.json")["scale"] == scale

    train_variant(study, root, "mar", 0)
    trainer = Trainer(study, "mar", 0, tokens, tmp_path / "run")
    assert (trainer.load(rows, Noise("test")) == patchify(stored * scale, config["group"])).all()
    drawn = Sampler(study, root, "mar", 0).draw(study.sampling["plain"], torch.tensor([0, 1]), Noise("test"))
    assert drawn.shape == (2, 3, 16, 16) and drawn.dtype == torch.uint8


def test_a_scale_of_the_study_is_kept(tmp_path: Path) -> None:
    study = pipeline.study(tokenizers={"pixels": {**PIXELS, "scale": 0.5}}, variants={})
    root = pipeline.root(tmp_path, study)
    prepare(study, root)
    train(study, root, "pixels")
    assert read_json(root / "tokenizers" / "pixels" / "config.json")["parameters"] == 0
    encode(study, root, "pixels")
    for split in ("train", "heldout"):
        assert TokenSet.open(root / "tokens" / "pixels" / split).manifest.scale == 0.5
