"""Models of a few hundred parameters, with weights that hide no mistake, and tokens for them."""

import torch

from mar.models.causal import Causal
from mar.models.heads.head import build_head
from mar.models.masked import Masked
from mar.models.model import Model
from mar.models.order import draw_order
from mar.runtime.noise import Noise
from mar.study.parts import Backbone, Head, Sampling

B, L, D, V, CLASSES = 3, 9, 4, 11, 5
HEADS = {
    "categorical": Head.of(kind="categorical"),
    "diffusion": Head.of(kind="diffusion", width=8, depth=1, noise_draws=2),
    "flow": Head.of(kind="flow", width=8, depth=1, noise_draws=2),
    "mse": Head.of(kind="mse"),
    "mixture": Head.of(kind="mixture", components=3),
}


def build(kind, head, dropout=0.0):
    torch.manual_seed(0)
    backbone = Backbone.of(kind=kind, width=16, depth=1, heads=2, buffer=3, dropout=dropout)
    z_proj = torch.nn.Embedding(V, 16) if head == "categorical" else torch.nn.Linear(D, 16)
    built = {"causal": Causal, "masked": Masked}[kind](backbone, z_proj, L, CLASSES)
    model = Model(built, build_head(HEADS[head], 16, D, V))
    for parameter in model.parameters():  # AdaLN-zero would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def batch(head, order):
    noise = Noise("test")
    tokens = noise.integers(V, B, L) if head == "categorical" else noise.normal(B, L, D)
    return tokens, noise.integers(CLASSES, B), draw_order(order, B, L, noise)


def settings(head, **more):
    needed = {"diffusion": {"diffusion_steps": 3}, "flow": {"head": {"evaluations": 3}}}
    return Sampling.model_validate({"steps": L, **needed.get(head, {}), **more})


def blank(head):
    return torch.zeros(L, dtype=torch.long) if head == "categorical" else torch.zeros(L, D)


class PixelsOfTokens(torch.nn.Module):
    """In place of a tokenizer: images differ as what was drawn does."""

    def decode_latents(self, x, noise=None):
        return torch.nn.functional.interpolate(x[:, :1].expand(-1, 3, -1, -1), scale_factor=2).tanh()

    def decode_ids(self, ids):
        """The last 16 of 12 ids as shades."""
        return self.decode_latents((ids[:, -16:].float() / 6 - 1).view(-1, 1, 4, 4))


class SixNumbers:
    """In place of a network that judges: six numbers of an image as its features and logits."""

    name, weights = "classifier", "e" * 64

    def __call__(self, images):
        rows = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, (2, 3))[:, 0].flatten(1)
        return {"features": rows, "logits": 5 * rows}
