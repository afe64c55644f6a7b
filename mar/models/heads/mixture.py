"""Gaussian mixture head, after GIVT (arXiv 2312.02116): K normals with diagonal covariance for each token.

As in that paper, a linear map turns z into weights, means and scales, temperature acts on the scales, and guidance acts
on the densities. Our own choices are softplus with a floor for the scales, and how the guided density is sampled
(see `sample`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar.models.blocks import full_precision
from mar.models.heads.categorical import draw_index
from mar.runtime.noise import Noise
from mar.study.parts import MixtureHead, Sampling

# Least standard deviation. Tokens have a standard deviation near 1, so a decoder hardly shows a deviation this small.
# Without a floor, a number that never varies (of a white border) would drive the likelihood to infinity.
FLOOR = 0.01
SHIFT = math.log(math.expm1(1.0 - FLOOR))  # softplus(SHIFT) + FLOOR = 1
# Number of candidates of a guided draw. Choosing among 64 can tilt the density of a token by about ln 64 = 4 nats. One
# of 1,000 classes is ln 1000 = 7 nats of information about a whole image, so the tilt of a single token is far below
# that unless the scale is extreme.
CANDIDATES = 64

Density = tuple[Tensor, Tensor, Tensor]  # log weights (n, K), means (n, K, D), standard deviations (n, K, D)


class Mixture(nn.Module):
    """p(token given z) as a mixture of normals."""

    undecayed: tuple[str, ...] = ()

    def __init__(self, config: MixtureHead, width: int, token_dim: int) -> None:
        super().__init__()
        self.components, self.token_dim = config.components, token_dim
        self.linear = nn.Linear(width, self.components * (1 + 2 * token_dim))
        # Near N(0, 1) at the start, whatever the width; exact zeros would keep the components equal for ever.
        nn.init.normal_(self.linear.weight, std=0.1 / math.sqrt(width))
        nn.init.zeros_(self.linear.bias)

    def density(self, z: Tensor, temperature: float = 1.0) -> Density:
        """The mixture of each condition z (n, W); temperature scales the standard deviations."""
        with full_precision(z):  # bf16 would round the means of narrow normals visibly
            out = self.linear(z.to(self.linear.weight.dtype)).float()
        log_weights = F.log_softmax(out[:, : self.components], dim=1)
        means, raw = out[:, self.components :].view(len(z), 2, self.components, self.token_dim).unbind(1)
        return log_weights, means, (F.softplus(raw + SHIFT) + FLOOR) * temperature

    def compiled(self) -> list[nn.Module]:
        """Nothing is large enough."""
        return []

    def draw(self, count: int, rows: Tensor, noise: Noise) -> None:
        """The likelihood needs no random numbers."""

    def loss(self, z: Tensor, target: Tensor, noise: None = None) -> Tensor:
        """Negative log likelihood in nats per number: the mean over tokens, divided by D.

        The division changes no optimum; it keeps the gradient norm, which recipes clip at a fixed value, independent
        of the size of tokens.

        Args:
            z: (n, W) conditions.
            target: (n, D) tokens.
            noise: None, see `draw`.
        """
        return -log_density(self.density(z), target.float()).mean() / self.token_dim

    def sample(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, noise: Noise
    ) -> tuple[Tensor, None]:
        """Draw tokens (n, D).

        Guidance is GIVT's: the density conditional^scale null^(1 - scale), which has no closed form for mixtures and
        may have no finite integral. It is sampled by importance resampling: of CANDIDATES draws from the conditional
        mixture, one is taken with probability proportional to (conditional / null)^(scale - 1). Guided tokens are thus
        always tokens that the conditional mixture can draw. (GIVT's code instead accepts or rejects draws of a wider
        normal, one number and one pair of components at a time.)
        """
        conditional = self.density(z, settings.temperature)
        if z_null is None or scale == 1.0:
            return draw_token(conditional, noise), None
        null = self.density(z_null, settings.temperature)
        token, best = conditional[1][:, 0], torch.full((len(z),), -math.inf, device=z.device)
        for _ in range(CANDIDATES):  # one at a time, so that memory does not grow with their number
            candidate = draw_token(conditional, noise)
            log_weight = (scale - 1.0) * (log_density(conditional, candidate) - log_density(null, candidate))
            key = log_weight + noise.gumbel(len(z))  # Gumbel-max: the largest key is a draw by weight
            token = torch.where((key > best)[:, None], candidate, token)
            best = torch.maximum(best, key)
        return token, None


def log_density(mixture: Density, x: Tensor) -> Tensor:
    """Log density in nats, (n,), of tokens x (n, D), each under its own mixture."""
    log_weights, means, scales = mixture
    error = (x[:, None] - means) / scales  # (n, K, D)
    log_normal = -0.5 * (error.square() + math.log(2 * math.pi)).sum(2) - scales.log().sum(2)
    return torch.logsumexp(log_weights + log_normal, dim=1)


def draw_token(mixture: Density, noise: Noise) -> Tensor:
    """One token (n, D) from each mixture: a component by one uniform number, then a normal draw from it."""
    log_weights, means, scales = mixture
    rows, component = torch.arange(len(means), device=means.device), draw_index(log_weights, noise)
    mean, deviation = means[rows, component], scales[rows, component]
    return mean + deviation * noise.normal(*mean.shape)
