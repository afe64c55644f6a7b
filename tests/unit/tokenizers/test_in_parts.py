"""Tokenizers on some of the images at once."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mar.runtime.noise import Noise
from mar.study.at_once import groups
from mar.study.parts import Tokenizer as Config
from mar.tokenizers.autoencoder import Consistency, build

SHAPE = {"stride": 2, "channels": [8, 8], "pretrained": True, "latent_channels": 4}
KINDS = [
    {"kind": "kl"},
    {"kind": "vq", "codebook_size": 16},
    {"kind": "msvq", "codebook_size": 16, "scales": [1, 2, 4]},
]


def in_parts(net, size):
    """The tokenizer with so many images at once, and the numbers that its encoder and decoder see."""
    seen = []
    net.encoded = net.decoded = lambda count: groups(count, size)
    for part in (net.net.encoder, net.net.decoder):
        part.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


@torch.no_grad()
@pytest.mark.parametrize("config", KINDS, ids=lambda config: config["kind"])
def test_parts_are_encoded_and_decoded_like_all_together(config):
    """Up to the rounding of convolutions of other shapes; ids are equal, where no code is as near as another."""
    torch.manual_seed(0)
    shape = SHAPE | {"channels": [32, 32]}  # published norms have 32 groups
    net, images = build(Config.of(**shape, **config), 8).eval(), torch.randn(5, 3, 8, 8)
    tokens = net.encode(images)
    whole = net.decode(tokens)
    seen = in_parts(net, 2)
    again = net.encode(images)
    if tokens.dtype == torch.long:
        assert torch.equal(again, tokens)
    else:
        torch.testing.assert_close(again, tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.decode(tokens), whole, rtol=1e-4, atol=1e-5)
    assert seen == [2, 2, 1, 2, 2, 1]
    assert len(whole.flatten(1).unique(dim=0)) > 2  # untrained codes may be equal


class Denoiser(nn.Module):
    """In place of the network of the consistency decoder."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, t):
        self.seen.append(len(x))
        return SimpleNamespace(sample=x.tanh() * (1 + t))


class TwoSteps(nn.Module):
    """In place of the consistency decoder: noise for all latents, and its network twice."""

    def __init__(self):
        super().__init__()
        self.decoder_unet = Denoiser()

    def decode(self, latents, generator):
        x = latents
        for t in (1, 0):
            noise = torch.randn(latents.shape, generator=generator)
            x = self.decoder_unet(x + noise, torch.tensor(t)).sample
        return SimpleNamespace(sample=x)


def test_the_noise_of_the_consistency_decoder_is_that_of_all_images():
    latents = torch.randn(5, 3, 4, 4)
    drawn = []
    for size in (5, 2):
        decoder = TwoSteps()
        net = Consistency("consistency", decoder, "moments")
        net.decoded = lambda count, size=size: groups(count, size)
        drawn.append(net.decode_latents(latents, Noise("decode")))
        assert decoder.decoder_unet.seen == ([5, 5] if size == 5 else [2, 2, 1] * 2)
        assert "forward" not in vars(decoder.decoder_unet)
    assert torch.equal(*drawn)
