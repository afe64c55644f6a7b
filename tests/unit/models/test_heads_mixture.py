"""Laws of the mixture head: its density, its draws, temperature and guidance."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from mar.models.heads.head import build_head
from mar.models.heads.mixture import CANDIDATES, FLOOR, log_density
from mar.runtime.noise import Noise
from mar.study.parts import Head, Sampling

WIDTH, DIM, K = 8, 3, 4


def build(components=K, dim=DIM, std=0.4):
    torch.manual_seed(0)
    head = build_head(Head.of(kind="mixture", components=components), WIDTH, dim)
    if std:
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return head


def library(head, z, temperature=1.0):
    """The same mixture as an object of torch.distributions."""
    log_weights, means, scales = head.density(z)
    return MixtureSameFamily(Categorical(logits=log_weights), Independent(Normal(means, scales * temperature), 1))


def one_normal(mean):
    """A head of one component whose mean is `mean` (D,) times z[0], with standard deviation 1."""
    head = build(1, len(mean), std=0.0)
    torch.nn.init.zeros_(head.linear.weight)
    with torch.no_grad():
        head.linear.weight[1 : 1 + len(mean), 0] = torch.tensor(mean)
    return head


def rows(value, count):
    return torch.full((count, WIDTH), float(value))


def conditions(count, seed):
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [0.0, 30.0])  # 30: every token is far outside of its mixture
def test_loss_is_the_likelihood_of_torch_distributions(shift):
    head = build()
    z = conditions(4, 1).requires_grad_()
    target = torch.randn(4, DIM, generator=torch.Generator().manual_seed(2)) + shift
    loss = head.loss(z, target, head.draw(10, torch.arange(4), Noise("none")))
    want = -library(head, z).log_prob(target).mean() / DIM
    torch.testing.assert_close(loss, want)
    inputs = [z, *head.parameters()]
    for got, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(want, inputs), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
        assert got.any()


@torch.no_grad()
def test_untrained_mixture_is_near_the_standard_normal():
    z, x = conditions(200, 3), torch.randn(200, DIM, generator=torch.Generator().manual_seed(4))
    for components in (1, 16):
        head = build(components, std=0.0)
        standard = Normal(0.0, 1.0).log_prob(x).sum(1)
        assert (log_density(head.density(z), x) - standard).abs().mean() < 0.3
        means = head.density(z)[1]
        assert components == 1 or means.std(dim=1).min() > 0  # no two components are equal


@torch.no_grad()
def test_scales_never_fall_below_the_floor_and_the_loss_stays_finite():
    head = build(std=30.0)
    z = 10 * conditions(50, 5)
    log_weights, _, scales = head.density(z)
    assert scales.min() == FLOOR and log_weights.isfinite().all()
    x = 100 * torch.randn(50, DIM, generator=torch.Generator().manual_seed(6))
    assert log_density(head.density(z), x).isfinite().all()


def test_autocast_does_not_round_the_density():
    head, z, target = build(), conditions(6, 7), torch.zeros(6, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head.loss(z.bfloat16(), target)
    torch.testing.assert_close(rounded, head.loss(z.bfloat16().float(), target), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@torch.no_grad()
def test_samples_have_the_moments_of_the_mixture(temperature):
    head, count = build(), 40_000
    z = conditions(1, 8)
    settings = Sampling(steps=1, temperature=temperature)
    x, _ = head.sample(z.expand(count, -1), None, settings, 1.0, Noise("draw"))
    want = library(head, z, temperature)
    assert ((x.mean(0) - want.mean[0]).abs() < 4 * (want.variance[0] / count).sqrt()).all()  # four standard errors
    spread = (x - want.mean).square()
    assert ((spread.mean(0) - want.variance[0]).abs() < 4 * spread.std(0) / math.sqrt(count)).all()
    entropy = -want.log_prob(x)  # which component goes with which number is in the joint density
    other = -want.log_prob(want.sample((count,))[:, 0])
    assert (entropy.mean() - other.mean()).abs() < 4 * math.sqrt((entropy.var() + other.var()) / count)


@torch.no_grad()
def test_temperature_shrinks_each_normal_not_the_weights():
    head = build()
    z = conditions(5, 9)
    warm, cold = head.density(z), head.density(z, 0.25)
    assert torch.equal(warm[0], cold[0]) and torch.equal(warm[1], cold[1])
    torch.testing.assert_close(cold[2], 0.25 * warm[2])


@pytest.mark.parametrize("scale", [1.5, 2.0])
@torch.no_grad()
def test_guided_normals_follow_the_guided_density(scale):
    """Normals of equal width: N(m, 1)^s N(0, 1)^(1-s) is N(s m, 1)."""
    mean, count = [0.4, -0.2, 0.0], 20_000
    head = one_normal(mean)
    x, _ = head.sample(rows(1, count), rows(0, count), Sampling(steps=1), scale, Noise("draw"))
    tilt = (scale - 1) * torch.tensor(mean)
    # Resampling M candidates falls short of the tilt by about var(weights) / M of it; e^|tilt|^2 - 1 is that variance.
    short = tilt.abs() * (tilt.square().sum().exp() - 1) * 2 / CANDIDATES
    assert ((x.mean(0) - scale * torch.tensor(mean)).abs() < 4 / math.sqrt(count) + short).all()
    assert ((x.var(0) - 1).abs() < 0.05).all()


@torch.no_grad()
def test_guidance_leans_away_from_the_null_condition():
    """Two components of which the null prefers the first: guidance takes the second more often."""
    head = build(2, 1, std=0.0)
    torch.nn.init.zeros_(head.linear.weight)
    head.linear.bias.copy_(torch.tensor([0.0, 0.0, -5.0, 5.0, -1.0, -1.0]))
    head.linear.weight[1, 0] = -1.0  # z[0] = 1 lowers the weight of the component at +5
    count = 20_000
    share = {}
    for scale in (1.0, 2.0):
        x, _ = head.sample(rows(0, count), rows(1, count), Sampling(steps=1), scale, Noise("draw"))
        share[scale] = float((x > 0).float().mean())
    null = 1 / (1 + math.e)  # p(+5) under the null, 1/2 under the condition
    want = (0.25 / null) / (0.25 / null + 0.25 / (1 - null))
    assert share[1.0] == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(count))
    assert share[2.0] == pytest.approx(want, abs=4 * 0.5 / math.sqrt(count) + 0.01)  # 0.01: M is finite


@torch.no_grad()
def test_scale_one_is_the_plain_draw_and_draws_repeat():
    head, z, null = build(), conditions(6, 10), conditions(6, 11)
    settings = Sampling(steps=1)
    plain, _ = head.sample(z, None, settings, 1.0, Noise("draw"))
    assert torch.equal(plain, head.sample(z, null, settings, 1.0, Noise("draw"))[0])
    guided, _ = head.sample(z, null, settings, 3.0, Noise("draw"))
    assert torch.equal(guided, head.sample(z, null, settings, 3.0, Noise("draw"))[0])
    assert not torch.equal(plain, guided)


@torch.no_grad()
def test_rows_are_independent():
    head, z, null = build(), conditions(4, 12), conditions(4, 13)
    together, _ = head.sample(z, null, Sampling(steps=1), 2.0, Noise("draw"))
    z[2:] += 1.0
    changed, _ = head.sample(z, null, Sampling(steps=1), 2.0, Noise("draw"))
    torch.testing.assert_close(together[:2], changed[:2])
    assert not torch.allclose(together[2:], changed[2:])
