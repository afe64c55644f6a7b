"""L2 baseline (appendix D): a linear map from z predicts the token itself; nothing is drawn."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mar.runtime.noise import Noise
from mar.study.parts import MseHead, Sampling


class MeanSquaredError(nn.Module):
    """Predicts the mean of p(token given z) instead of the distribution.

    The paper says no more than that predictions are compared with targets; one linear map from z is the plainest
    reading, and the head of the cross-entropy baseline has the same form.
    """

    undecayed: tuple[str, ...] = ()

    def __init__(self, config: MseHead, width: int, token_dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, token_dim)
        nn.init.xavier_uniform_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)

    def compiled(self) -> list[nn.Module]:
        """Nothing is large enough."""
        return []

    def draw(self, count: int, rows: Tensor, noise: Noise) -> None:
        """The squared error needs no random numbers."""

    def loss(self, z: Tensor, target: Tensor, noise: None = None) -> Tensor:
        """Squared error, mean over tokens and their D numbers.

        Args:
            z: (n, W) conditions.
            target: (n, D) tokens.
            noise: None, see `draw`.
        """
        return F.mse_loss(self.mean(z).float(), target)

    def sample(
        self, z: Tensor, z_null: Tensor | None, settings: Sampling, scale: float, noise: Noise
    ) -> tuple[Tensor, None]:
        """The predicted tokens (n, D). No noise is used: images of one class differ only by their order.

        Guidance extrapolates the means, null + scale (conditional - null). Temperature has no meaning here and is
        refused when the study is read.
        """
        mean = self.mean(z)
        if z_null is not None:
            null = self.mean(z_null)
            mean = null + scale * (mean - null)
        return mean, None
