"""The published algorithm, written anew: the ratios of `make bench` are relative to it.

It works on the weights of a `mar.models.model.Model` with a masked backbone and Diffusion Loss, and does what the
published implementation does where that costs time: boolean indexing of all tokens, the whole decoder for all
positions, both branches of guidance as one doubled batch, in the diffusion steps too, an embedding of the timestep for
each row at each step, tables looked up in main memory by row, all rows through the training head. Its samples and
gradients are those of the published code: `tests/parity/test_baseline.py` holds it to recorded ones.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mar.models.diffusion.gaussian import Schedule, discretized_log_likelihood, normal_kl, timestep_features
from mar.models.model import Model
from mar.runtime.noise import Noise
from mar.study.parts import Sampling


def attention_block(block: Any, x: Tensor) -> Tensor:
    """Pre-norm transformer block, (B, N, W) -> (B, N, W)."""
    b, n, w = x.shape
    attn, heads = block.attn, block.attn.heads
    dropout = attn.dropout if block.training else 0.0
    q, k, v = attn.qkv(block.norm1(x)).reshape(b, n, 3, heads, w // heads).permute(2, 0, 3, 1, 4).unbind(0)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    x = x + F.dropout(attn.proj(out.transpose(1, 2).reshape(b, n, w)), dropout)
    hidden = F.dropout(F.gelu(block.mlp.fc1(block.norm2(x))), dropout)
    return x + F.dropout(block.mlp.fc2(hidden), dropout)


def conditions(backbone: Any, tokens: Tensor, mask: Tensor, embedded: Tensor) -> Tensor:
    """z (B, L, W) of all positions from tokens (B, L, D), mask (B, L), true where unknown, and class embeddings."""
    buffer, batch = backbone.buffer, len(tokens)
    x = backbone.z_proj(tokens)  # all tokens, also the masked ones, which are dropped below
    width = x.shape[2]
    x = torch.cat([torch.zeros(batch, buffer, width, dtype=x.dtype, device=x.device), x], dim=1)
    mask = torch.cat([torch.zeros(batch, buffer, dtype=torch.bool, device=x.device), mask], dim=1)
    x[:, :buffer] = embedded[:, None]
    x = backbone.z_proj_ln(x + backbone.encoder_pos_embed_learned)
    x = x[(~mask).nonzero(as_tuple=True)].reshape(batch, -1, width)
    for block in backbone.encoder_blocks:
        x = attention_block(block, x)
    x = backbone.decoder_embed(backbone.encoder_norm(x))
    full = backbone.mask_token.repeat(batch, mask.shape[1], 1).to(x.dtype)
    full[(~mask).nonzero(as_tuple=True)] = x.reshape(-1, width)
    x = full + backbone.decoder_pos_embed_learned
    for block in backbone.decoder_blocks:
        x = attention_block(block, x)
    return backbone.decoder_norm(x)[:, buffer:] + backbone.diffusion_pos_embed_learned


def denoise(net: Any, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
    """Output (n, 2 D) of the denoising MLP for rows x (n, D) with their own timesteps (n,) and conditions (n, W)."""
    features = timestep_features(t, net.time_embed.mlp[0].in_features).to(x.dtype)
    y = net.time_embed.mlp(features) + net.cond_embed(z)
    x = net.input_proj(x)
    for block in net.res_blocks:
        shift, scale, gate = block.adaLN_modulation(y).chunk(3, dim=-1)
        x = x + gate * block.mlp(block.in_ln(x) * (1 + scale) + shift)
    shift, scale = net.final_layer.adaLN_modulation(y).chunk(2, dim=-1)
    out: Tensor = net.final_layer.linear(net.final_layer.norm_final(x) * (1 + scale) + shift)
    return out


class Process:
    """Tables of a diffusion process in main memory, looked up for each row at each step."""

    def __init__(self, schedule: Schedule) -> None:
        self.timesteps = schedule.timesteps
        self.tables = {name: value.numpy() for name, value in vars(schedule).items() if isinstance(value, Tensor)}

    def at(self, name: str, t: Tensor, like: Tensor) -> Tensor:
        """Values (n, D) of a table at steps t (n,), with the shape, type and device of `like`."""
        table: np.ndarray = self.tables[name]
        return torch.from_numpy(table).to(like.device)[t].to(like.dtype)[:, None].expand(like.shape)

    def log_variance(self, t: Tensor, values: Tensor) -> Tensor:
        """Log variance interpolated between the log posterior variance and log beta by the network's `values`."""
        low, high = self.at("posterior_log_variance", t, values), self.at("log_betas", t, values)
        share = (values + 1) / 2
        return share * high + (1 - share) * low

    def mean(self, x: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """Mean of x_{t-1} that a predicted epsilon implies."""
        return self.posterior(self._x0(x, t, epsilon), x, t)

    def posterior(self, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Mean of x_{t-1} given x_0 and x_t."""
        return self.at("posterior_mean_x0", t, x) * x0 + self.at("posterior_mean_xt", t, x) * x

    def _x0(self, x: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        return self.at("sqrt_recip_alpha_bar", t, x) * x - self.at("sqrt_recipm1_alpha_bar", t, x) * epsilon


def draw_tokens(head: Any, z: Tensor, settings: Sampling, scale: float, noise: Noise) -> Tensor:
    """Tokens (n, D) of rows z (n, W). With guidance, half of z is the null branch, and half of the tokens is a copy."""
    guided, dim = settings.guidance != 1.0, head.token_dim
    process = Process(head.train_process.respaced(settings.diffusion_steps))
    rows = len(z) // 2 if guided else len(z)

    def doubled(x: Tensor) -> Tensor:
        return torch.cat([x, x]) if guided else x

    x = doubled(noise.normal(rows, dim).to(z.dtype))
    for step in reversed(range(len(process.timesteps))):
        t = torch.full((len(z),), step, device=z.device)
        original = process.timesteps.to(z.device)[t]
        if guided:
            output = denoise(head.net, doubled(x[:rows]), original, z)
            epsilon, values = output.chunk(2, dim=1)
            half = epsilon[rows:] + scale * (epsilon[:rows] - epsilon[rows:])
            epsilon = doubled(half)
        else:
            epsilon, values = denoise(head.net, x, original, z).chunk(2, dim=1)
        deviation = torch.exp(0.5 * process.log_variance(t, values))
        nonzero = (t != 0).to(x.dtype)[:, None]
        step_noise = doubled(noise.normal(rows, dim).to(x.dtype))
        x = process.mean(x, t, epsilon) + nonzero * deviation * step_noise * settings.temperature
    return x


def parts(model: Model) -> tuple[Any, Any]:
    """A masked backbone and Diffusion Loss, with the layers that the published code has too."""
    return model.backbone, model.head


@torch.no_grad()
def generate(model: Model, labels: Tensor, order: Tensor, blank: Tensor, settings: Sampling, noise: Noise) -> Tensor:
    """Tokens (B, L, D) of a batch; arguments are those of `mar.sampling.generate.generate`."""
    backbone, head = parts(model)
    (batch, length), guided = order.shape, settings.guidance != 1.0
    tokens = blank.expand(batch, *blank.shape).clone()
    mask = torch.ones(batch, length, dtype=torch.bool, device=order.device)
    last_first = order.flip(1)  # the published orders list the token that is generated last first
    masked = length
    for k in range(settings.steps):
        remaining = math.floor(length * math.cos(math.pi / 2 * (k + 1) / settings.steps))
        remaining = max(1, min(masked - 1, remaining))
        scale = settings.guidance
        if settings.guidance_schedule == "linear":
            scale = 1 + (settings.guidance - 1) * (length - remaining) / length
        embedded = backbone.class_emb(labels)
        current = tokens
        if guided:
            current, masks = torch.cat([tokens, tokens]), torch.cat([mask, mask])
            embedded = torch.cat([embedded, backbone.fake_latent.repeat(batch, 1)])
        else:
            masks = mask
        z = conditions(backbone, current, masks, embedded)
        next_mask = torch.zeros_like(mask).scatter(1, last_first[:, :remaining], True)
        predicted = mask if k == settings.steps - 1 else mask ^ next_mask
        z = z[(torch.cat([predicted, predicted]) if guided else predicted).nonzero(as_tuple=True)]
        drawn = draw_tokens(head, z, settings, scale, noise)
        tokens = tokens.clone()
        tokens[predicted.nonzero(as_tuple=True)] = drawn[: len(drawn) // 2] if guided else drawn
        mask, masked = next_mask, remaining
    return tokens


def loss(model: Model, tokens: Tensor, labels: Tensor, order: Tensor, known: int, noise: Noise) -> Tensor:
    """Training loss of a batch, with the arguments of `Model.loss`: all rows pass the head, then the masked mean."""
    backbone, head = parts(model)
    embedded = torch.where((labels < 0)[:, None], backbone.fake_latent, backbone.class_emb(labels.clamp(min=0)))
    mask = torch.ones_like(order, dtype=torch.bool).scatter(1, order[:, :known], False)
    z = conditions(backbone, tokens, mask, embedded)
    draws, process = head.draws, Process(head.train_process)
    z, x0 = z.flatten(0, 1).repeat(draws, 1), tokens.flatten(0, 1).repeat(draws, 1)
    weight = mask.flatten().repeat(draws).to(x0.dtype)
    t = noise.integers(len(head.train_process), draws, mask.numel()).flatten()
    epsilon = noise.normal(draws, mask.numel(), head.token_dim).flatten(0, 1)
    x = process.at("sqrt_alpha_bar", t, x0) * x0 + process.at("sqrt_one_minus_alpha_bar", t, x0) * epsilon
    predicted, values = denoise(head.net, x, t, z).chunk(2, dim=1)
    mse = (predicted - epsilon).square().mean(1)
    true_mean, mean = process.posterior(x0, x, t), process.mean(x, t, predicted.detach())
    log_variance = process.log_variance(t, values)
    kl = normal_kl(true_mean, process.at("posterior_log_variance", t, x), mean, log_variance).mean(1) / math.log(2)
    nll = -discretized_log_likelihood(x0, mean, 0.5 * log_variance).mean(1) / math.log(2)
    terms = mse + torch.where(t == 0, nll, kl)
    return (terms * weight).sum() / weight.sum()


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: torch.nn.Module, rate: float) -> None:
    """Update the moving average of the weights, one parameter after the other."""
    for name, parameter in model.named_parameters():
        average[name].mul_(rate).add_(parameter.detach(), alpha=1 - rate)
