"""Parameters and operations of convolutional networks by formula: tokenizers and the classifier that judges.

As in `mar/planning/costs.py`, without torch: a multiplication and its addition are two operations, norms and
activations none.
"""

from __future__ import annotations

from mar.study.parts import Tokenizer
from mar.study.sections import Classifier

PHIS = 4  # convolutions of the multi-scale quantiser
# The published consistency decoder: parameters with its encoder, which is that of Stable Diffusion's KL-8, and the
# operations of its two steps for each pixel of an image.
CONSISTENCY_PARAMETERS, CONSISTENCY_PER_PIXEL = 655_441_366, 2 * 128.3e6
CONSISTENCY_ENCODER = {"kind": "kl", "stride": 8, "channels": (128, 256, 512, 512), "layers": 2, "latent_channels": 4}
# LPIPS: 13 convolutions of VGG-16, operations for each pixel of an image; weights are not trained.
VGG16_PER_PIXEL = 2 * 15.35e9 / 224**2


def linear(i: int, o: int) -> int:
    """Parameters of a linear layer with bias."""
    return i * o + o


def phi_flops(channels: int, side: float) -> float:
    """One convolution phi of the multi-scale quantiser."""
    return 2.0 * 9 * channels**2 * side**2


class _Tally:
    """Parameters and forward operations of convolutional layers, added up in the order of diffusers' autoencoders."""

    def __init__(self) -> None:
        self.parameters, self.flops = 0, 0.0

    def conv(self, i: int, o: int, kernel: int, side: float) -> None:
        self.parameters += kernel**2 * i * o + o
        self.flops += 2.0 * kernel**2 * i * o * side**2

    def residual(self, i: int, o: int, side: float) -> None:
        self.parameters += 2 * i + 2 * o
        self.conv(i, o, 3, side)
        self.conv(o, o, 3, side)
        if i != o:
            self.conv(i, o, 1, side)

    def attention(self, c: int, side: float) -> None:
        self.parameters += 2 * c
        for _ in range(4):
            self.conv(c, c, 1, side)
        self.flops += 4.0 * side**4 * c

    def middle(self, c: int, side: float) -> None:
        self.residual(c, c, side)
        self.attention(c, side)
        self.residual(c, c, side)


def tokenizer_costs(config: Tokenizer, image_size: int) -> dict[str, float]:
    """Parameters of a tokenizer, and operations to encode and to decode one image (forward)."""
    if config.kind == "pixels":
        return {"parameters": 0, "encode": 0.0, "decode": 0.0}
    if config.kind == "consistency":
        same = tokenizer_costs(Tokenizer.model_validate({**CONSISTENCY_ENCODER, "pretrained": True}), image_size)
        decode = CONSISTENCY_PER_PIXEL * image_size**2
        return {"parameters": CONSISTENCY_PARAMETERS, "encode": same["encode"], "decode": decode}
    encoder, decoder, levels, latent = _Tally(), _Tally(), config.channels, config.latent_channels
    side = float(image_size)
    encoder.conv(3, levels[0], 3, side)
    before = levels[0]
    for level, width in enumerate(levels):
        last = level == len(levels) - 1
        for _ in range(config.layers):
            encoder.residual(before, width, side)
            before = width
            if last and config.attention != "middle":
                encoder.attention(width, side)
        if not last:
            side /= 2
            encoder.conv(width, width, 3, side)
    encoder.middle(before, side)
    encoder.parameters += 2 * before
    moments = 2 * latent if config.kind == "kl" else latent
    encoder.conv(before, moments, 3, side)
    kernel = 3 if config.kind == "msvq" else 1
    encoder.conv(moments, moments, kernel, side)
    if config.scales:
        codes, phi = config.codebook_size or 0, len(config.scales) * phi_flops(latent, side)
        encoder.flops += 2.0 * codes * latent * sum(s**2 for s in config.scales) + phi
        encoder.parameters += codes * latent + PHIS * (9 * latent**2 + latent)
        decoder.flops += phi
    if config.kind == "vq":
        codes = config.codebook_size or 0
        (decoder if config.continuous else encoder).flops += 2.0 * codes * latent * side**2
        encoder.parameters += codes * latent
    decoder.conv(latent, latent, kernel, side)
    decoder.conv(latent, before, 3, side)
    decoder.middle(before, side)
    for level, width in enumerate(reversed(levels)):
        for _ in range(config.layers + 1):
            decoder.residual(before, width, side)
            before = width
            if level == 0 and config.attention == "both":
                decoder.attention(width, side)
        if level < len(levels) - 1:
            side *= 2
            decoder.conv(width, width, 3, side)
    decoder.parameters += 2 * before
    decoder.conv(before, 3, 3, side)
    return {
        "parameters": encoder.parameters + decoder.parameters,
        "encode": encoder.flops,
        "decode": decoder.flops,
    }


def tokenizer_training_flops(config: Tokenizer, image_size: int) -> float:
    """One image in the training of a tokenizer.

    LPIPS sees the image and its reconstruction and hands a gradient to the latter: 3 forwards of VGG-16. The
    discriminator judges for the autoencoder (a forward, and two gradients of its input: for the loss and for the
    adaptive weight) and learns from both images (6 forwards).
    """
    costs = tokenizer_costs(config, image_size)
    total = 3 * (costs["encode"] + costs["decode"])
    if config.perceptual_weight:
        total += 3 * VGG16_PER_PIXEL * image_size**2
    if config.adversarial_weight:
        judge, side = _Tally(), image_size // 8
        sides = (4 * side, 2 * side, side, side - 1, side - 2)
        for i, o, after in zip((3, 64, 128, 256, 512), (64, 128, 256, 512, 1), sides, strict=True):
            judge.conv(i, o, 4, after)
        total += 9 * judge.flops
    return total


def classifier_costs(config: Classifier, image_size: int, classes: int) -> dict[str, float]:
    """Parameters of the network behind the metrics, and operations for one image (forward)."""
    tally, before, side = _Tally(), 3, image_size
    for width in config.channels:
        side = (side + 1) // 2
        tally.conv(before, width, 3, side)
        tally.parameters += 2 * width
        before = width
    tally.parameters += linear(16 * before, config.features) + linear(config.features, classes)
    tally.flops += 2.0 * (16 * before * config.features + config.features * classes)
    return {"parameters": tally.parameters, "forward": tally.flops}
