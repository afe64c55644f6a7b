"""The adversarial term of LDM's tokenizers: a patch discriminator with hinge loss and an adaptive weight.

Esser et al. 2021 (VQGAN), equation 7, as latent diffusion uses it. The discriminator scores overlapping patches of
70x70 pixels; the weight of its term against the reconstruction is computed anew at each step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from mar.runtime.noise import seed_of

SMALLEST = 24  # least side of an image in pixels: a smaller one leaves no patch after the convolutions
LARGEST_WEIGHT = 1e4  # limit of the adaptive weight
BETAS = (0.5, 0.9)  # of Adam, for the autoencoder and the discriminator, where there is a discriminator (LDM)


def discriminator(width: int = 64, layers: int = 3) -> nn.Sequential:
    """PatchGAN (Isola et al. 2017): images (B, 3, H, W) to one score per patch (B, 1, h, w).

    torch's global generator draws the weights: normal with standard deviation 0.02.
    """
    body: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    for layer in range(1, layers + 1):
        channels_in, channels_out = (width * min(2**i, 8) for i in (layer - 1, layer))
        stride = 2 if layer < layers else 1
        body.append(nn.Conv2d(channels_in, channels_out, 4, stride, padding=1, bias=False))
        body += [nn.BatchNorm2d(channels_out), nn.LeakyReLU(0.2)]
    body.append(nn.Conv2d(channels_out, 1, 4, stride=1, padding=1))
    for module in body:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return nn.Sequential(*body)


def hinge(real: torch.Tensor, rebuilt: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the discriminator on scores (B, 1, h, w): zero for real above 1 and rebuilt below -1."""
    return 0.5 * (functional.relu(1.0 - real).mean() + functional.relu(1.0 + rebuilt).mean())


def adaptive_weight(
    reconstruction: torch.Tensor, adversarial: torch.Tensor, layer: torch.Tensor, numbers: int = 1
) -> torch.Tensor:
    """Adaptive weight lambda (VQGAN, equation 7): ratio of the gradient norms of the two losses, at most 1e4.

    Args:
        reconstruction: mean loss over all numbers of an image.
        adversarial: mean negative score of the patches.
        layer: weights of the decoder's last layer, where the gradients are compared.
        numbers: how many numbers of an image LDM's objective sums over where ours takes the mean: 3 H W with a kl
            tokenizer, 1 with vq, whose objective is a mean in LDM too. The limit 1e4 holds for LDM's sum, so the
            ratio is limited first and then divided by `numbers`, as the objective is.
    """
    norms = [torch.autograd.grad(loss, layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    return (numbers * norms[0] / (norms[1] + 1e-4)).clamp(max=LARGEST_WEIGHT).detach() / numbers


class Adversary:
    """The discriminator of one training, and its optimiser.

    Args:
        weight: the study's adversarial_weight.
        start: number of images of the training after which the term joins the loss.
        seed: of the initial weights, which come from a random stream of their own.
        image_size: side of the images in pixels.
        numbers: as in `adaptive_weight`.
        device: where the networks are.

    Raises:
        ValueError: the images are too small for a patch.
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

    def generator_loss(
        self, rebuilt: torch.Tensor, reconstruction: torch.Tensor, layer: torch.Tensor
    ) -> tuple[torch.Tensor, float]:
        """The weighted adversarial term of the autoencoder's loss, and its adaptive weight.

        Args:
            rebuilt: (B, 3, H, W) reconstructed images.
            reconstruction: loss that the term is weighed against.
            layer: weights of the decoder's last layer.
        """
        self.net.requires_grad_(False)
        adversarial = -self.net(rebuilt).mean()
        weight = adaptive_weight(reconstruction, adversarial, layer, self.numbers)
        return self.weight * weight * adversarial, weight.item()

    def learn(self, images: torch.Tensor, rebuilt: torch.Tensor, rate: float) -> float:
        """One step of the discriminator on real and rebuilt images, (B, 3, H, W) each; returns its loss."""
        self.net.requires_grad_(True)
        loss = hinge(self.net(images), self.net(rebuilt.detach()))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss.item()

    def state_dict(self) -> dict[str, Any]:
        """State of the network and the optimiser, for a checkpoint."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
