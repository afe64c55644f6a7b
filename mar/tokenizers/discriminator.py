"""The adversarial term of LDM's tokenizers: a patch discriminator with hinge loss and an adaptive weight.

Esser et al. 2021 (VQGAN), equation 7, as latent diffusion uses it. The discriminator judges overlapping patches of
70x70 pixels; its weight against the reconstruction is measured anew at each step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mar.runtime.noise import seed_of

SMALLEST = 24  # pixels: below, no patch is left after three halvings and two valid-sized convolutions
LARGEST_WEIGHT = 1e4
BETAS = (0.5, 0.9)  # of both Adams where a discriminator takes part (LDM)


def discriminator(width: int = 64, layers: int = 3) -> nn.Sequential:
    """PatchGAN (Isola et al. 2017): images (B, 3, H, W) to one score a patch (B, 1, h, w).

    Weights come from torch's global generator: normal with standard deviation 0.02.
    """
    body: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for layer in range(1, layers + 1):
        before, after = (width * min(2**i, 8) for i in (layer - 1, layer))
        stride = 2 if layer < layers else 1
        body += [nn.Conv2d(before, after, 4, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
    body.append(nn.Conv2d(after, 1, 4, stride=1, padding=1))
    for module in body:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return nn.Sequential(*body)


def hinge(real: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor:
    """Loss of the discriminator on scores of real and rebuilt images: zero beyond +1 and -1."""
    return 0.5 * (functional.relu(1.0 - real).mean() + functional.relu(1.0 + rebuilt).mean())


def adaptive_weight(
    reconstruction: torch.Tensor, adversarial: torch.Tensor, layer: torch.Tensor, numbers: int = 1
) -> torch.Tensor:
    """Ratio of the gradient norms of both losses at the decoder's last layer, at most 1e4.

    Args:
        reconstruction: loss per number of an image.
        adversarial: loss of the scores.
        layer: weights of the last layer.
        numbers: in an image. LDM's kl objective sums over them where ours divides by them, and its limit holds for
            the sum: the ratio is taken, limited, and then divided like the objective. vq has means in both (1).
    """
    norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    return (numbers * norms[0] / (norms[1] + 1e-4)).clamp(max=LARGEST_WEIGHT).detach() / numbers


class Adversary:
    """The discriminator of one training and its optimiser.

    Args:
        weight: the study's adversarial_weight.
        start: images seen before it takes part.
        seed: of its initial weights, drawn from a stream of their own.
        numbers: as in `adaptive_weight`.

    Raises:
        ValueError: the images are too small to have a patch.
    """

    def __init__(self, weight: float, start: int, seed: int, image_size: int, numbers: int, device: Any) -> None:
        if image_size < SMALLEST:
            raise ValueError(
                f"data.image_size {image_size} with adversarial_weight {weight}: the patch discriminator needs at "
                f"least {SMALLEST}; accepted: larger images, or adversarial_weight: 0"
            )
        self.weight, self.start, self.numbers = weight, start, numbers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of("discriminator", seed))
            self.net = discriminator().to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), betas=BETAS)

    def judge(
        self, rebuilt: torch.Tensor, reconstruction: torch.Tensor, layer: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """The autoencoder's term, weighted, and its adaptive weight."""
        self.net.requires_grad_(False)
        adversarial = -self.net(rebuilt).mean()
        weight = adaptive_weight(reconstruction, adversarial, layer, self.numbers)
        return self.weight * weight * adversarial, weight.item()

    def learn(self, images: torch.Tensor, rebuilt: torch.Tensor, rate: float) -> float:
        """One step of the discriminator on real and rebuilt images; returns its loss."""
        self.net.requires_grad_(True)
        loss = hinge(self.net(images), self.net(rebuilt.detach()))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
