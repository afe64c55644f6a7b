"""Laws of the heads: what sampling draws, what guidance, temperature and clamp do."""

import pytest
import torch

from mar.models.diffusion import gaussian
from mar.models.heads.head import build_head
from mar.runtime.noise import Noise
from mar.study.parts import Head, Sampling

WIDTH, CODES, DIM = 8, 6, 3


@pytest.fixture()
def categorical():
    torch.manual_seed(0)
    return build_head(Head.of(kind="categorical"), WIDTH, codebook_size=CODES).eval()


@pytest.fixture()
def denoiser():
    torch.manual_seed(0)
    head = build_head(Head.of(kind="diffusion", width=16, depth=1, noise_draws=3), WIDTH, DIM).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return head


@torch.no_grad()
def test_categorical_draws_its_own_distribution(categorical):
    z = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(1)).expand(20000, -1)
    ids, log_p = categorical.sample(z, None, Sampling(steps=1), 1.0, Noise("draw"))
    p = categorical.logits(z[:1]).softmax(1)[0]
    share = torch.bincount(ids, minlength=CODES) / len(ids)
    assert (share - p).abs().max() < 4 * (p * (1 - p) / len(ids)).sqrt().max()  # four standard errors
    torch.testing.assert_close(log_p, p.log()[ids], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_categorical_guidance_and_temperature(categorical):
    z, null = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(2))
    _, log_p = categorical.sample(z, null, Sampling(steps=1, temperature=0.5), 3.0, Noise("draw"))
    ids, _ = categorical.sample(z, null, Sampling(steps=1, temperature=0.5), 3.0, Noise("draw"))
    cond, uncond = categorical.logits(z), categorical.logits(null)
    want = ((uncond + 3.0 * (cond - uncond)) / 0.5).log_softmax(1)
    torch.testing.assert_close(log_p, want.gather(1, ids[:, None])[:, 0], rtol=1e-5, atol=1e-5)


def test_categorical_loss_is_the_mean_cross_entropy(categorical):
    z, target = torch.randn(5, WIDTH), torch.randint(CODES, (5,))
    each = [torch.nn.functional.cross_entropy(categorical.logits(z[i]), target[i]) for i in range(5)]
    torch.testing.assert_close(categorical.loss(z, target), torch.stack(each).mean())


@pytest.fixture()
def mse():
    torch.manual_seed(0)
    return build_head(Head.of(kind="mse"), WIDTH, DIM)


def test_mse_is_the_squared_error(mse):
    z, target = torch.randn(3, WIDTH, requires_grad=True), torch.randn(3, DIM)
    loss = mse.loss(z, target, mse.draw(10, torch.tensor([1, 5, 9]), Noise("none")))
    want = torch.nn.functional.mse_loss(mse.mean(z), target)
    inputs = [z, *mse.parameters()]
    for got, expected in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(want, inputs), strict=True):
        assert torch.equal(got, expected) and got.any()
    assert torch.equal(loss, want)


@torch.no_grad()
def test_mse_samples_are_guided_means_without_noise(mse):
    z, null = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(6))
    assert torch.equal(mse.sample(z, None, Sampling(steps=1), 1.0, Noise("one"))[0], mse.mean(z))
    guided = [mse.sample(z, null, Sampling(steps=1), 3.0, Noise(name))[0] for name in ("one", "two")]
    assert torch.equal(*guided)
    torch.testing.assert_close(guided[0], mse.mean(null) + 3.0 * (mse.mean(z) - mse.mean(null)))
    torch.testing.assert_close(mse.sample(z, null, Sampling(steps=1), 1.0, Noise("one"))[0], mse.mean(z))


@torch.no_grad()
def test_guidance_one_is_no_guidance(denoiser):
    z, null = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(3))
    settings = Sampling(steps=1, diffusion_steps=5)
    plain, _ = denoiser.sample(z, None, settings, 1.0, Noise("draw"))
    guided, _ = denoiser.sample(z, null, settings, 1.0, Noise("draw"))
    other, _ = denoiser.sample(z, null, settings, 2.0, Noise("draw"))
    torch.testing.assert_close(plain, guided, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, other, rtol=1e-2)


@torch.no_grad()
def test_rows_are_independent(denoiser):
    """What is drawn for a token depends on its own z and noise, not on the rows beside it."""
    z = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(4))
    settings = Sampling(steps=1, diffusion_steps=5)
    together, _ = denoiser.sample(z, None, settings, 1.0, Noise("draw"))
    z[2:] += 1.0
    changed, _ = denoiser.sample(z, None, settings, 1.0, Noise("draw"))
    torch.testing.assert_close(together[:2], changed[:2])
    assert not torch.allclose(together[2:], changed[2:])


@torch.no_grad()
def test_clamp_bounds_the_sample(denoiser):
    z = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(5))
    free, _ = denoiser.sample(z, None, Sampling(steps=1, diffusion_steps=5), 1.0, Noise("draw"))
    held, _ = denoiser.sample(z, None, Sampling(steps=1, diffusion_steps=5, clamp=1.5), 1.0, Noise("draw"))
    assert held.abs().max() <= 1.5 + 1e-5 < free.abs().max()  # the last step returns the predicted x0


def test_perfect_denoiser_has_no_epsilon_error():
    process = gaussian.cosine_schedule()
    x0, noise, t = torch.randn(50, DIM), torch.randn(50, DIM), torch.arange(0, 1000, 20)
    x = gaussian.diffuse(process, x0, t, noise)
    mse, vb = gaussian.losses(process, torch.cat([noise, -torch.ones(50, DIM)], 1), x0, x, t, noise)
    assert mse.abs().max() == 0
    assert vb[1:].abs().max() < 1e-2  # at the posterior variance the KL is zero but for float32


def test_respacing_refuses_impossible_counts():
    with pytest.raises(ValueError, match="diffusion_steps 1001: accepted are 1 to 1000"):
        gaussian.cosine_schedule().respaced(1001)
