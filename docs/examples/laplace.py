"""A head of one's own: each number of a token has a Laplace distribution, whose place and width follow from z."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from mar.study.kinds import Section
from mar.study.parts import Head


class Tails(Section):
    """Its own settings of sampling: `head: {cut: 3.0}` in a setting."""

    cut: float = Field(10.0, gt=0.0)  # draws farther away than so many widths are drawn at that distance


class Laplace(Head):
    """What the study says of it: `kind: "laplace.py:Laplace"`, and these keys."""

    implementation: ClassVar[str] = "LaplaceHead"  # in this file; also "module:Class"
    label: ClassVar[str] = "Laplace"
    loss: ClassVar[str] = "Laplace (nats a number)"
    honours: ClassVar[tuple[str, ...]] = ("temperature",)  # of the settings of sampling; not guidance
    sampling: ClassVar[type[Section] | None] = Tails

    floor: float = Field(0.01, gt=0.0)  # least width
    link: Literal["softplus", "exp"] = "softplus"


class LaplaceHead(nn.Module):
    """p(x given z) of continuous tokens x of D numbers."""

    undecayed = ()  # names of parameters without weight decay

    def __init__(self, config: Laplace, width: int, token_dim: int) -> None:
        super().__init__()
        self.config, self.linear = config, nn.Linear(width, 2 * token_dim)

    def compiled(self):
        """Modules that torch.compile takes."""
        return []

    def draw(self, count, rows, noise):
        """Random numbers of the loss: none."""

    def loss(self, z, target, noise=None):
        """Negative log likelihood of tokens (n, D) given z (n, W), a mean over all numbers."""
        place, width = self.parameters_of(z)
        return ((target - place).abs() / width + (2 * width).log()).mean()

    def sample(self, z, z_null, settings, scale, noise):
        """Tokens (n, D), and None, since their probabilities are not needed."""
        place, width = self.parameters_of(z)
        u = noise.uniform(*place.shape).to(place) - 0.5  # (n, D)
        far = (-torch.log1p(-2 * u.abs())).clamp(max=self.config.drawing(settings).cut)
        return place + settings.temperature * width * u.sign() * far, None

    def parameters_of(self, z):
        """Place and width of each number, (n, D) each."""
        place, raw = self.linear(z).chunk(2, dim=1)
        width = nn.functional.softplus(raw) if self.config.link == "softplus" else raw.exp()
        return place, width + self.config.floor
