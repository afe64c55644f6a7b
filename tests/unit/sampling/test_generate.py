"""Order confidence: which tokens are kept when, with a model made by hand and with a real one."""

import math

import pytest
import torch
from tiny_models import B, L, blank, build
from tiny_models import batch as inputs

from mar.models.order import by_confidence, schedule
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Sampling

STEPS = 4


class Hand:
    """Backbone and head at once: log p of every position is given, and an id says when and where it was drawn."""

    joint, sizes, bidirectional = False, (), False

    def __init__(self, log_p):
        self.log_p, self.seen, self.backbone, self.head = log_p, [], self, self

    def predict(self, tokens, labels, order, start, stop, cache):
        self.seen.append((tokens.clone(), order.clone(), start))
        where = order[:, start:stop]
        ids = 100 * len(self.seen) + where
        return torch.stack([ids, self.log_p.expand(len(order), -1).gather(1, where), labels[:, None] + 0 * ids], dim=2)

    def sample(self, z, z_null, settings, scale, noise):
        if z_null is not None:  # the same tokens without their class
            assert torch.equal(z[:, :2], z_null[:, :2]) and z[:, 2].min() >= 0 and (z_null[:, 2] == -1).all()
        return z[:, 0].long(), z[:, 1]


def draw(log_p, count=B, noise=0.0, steps=STEPS, guidance=1.0, name="draw"):
    model = Hand(torch.tensor(log_p))
    length = len(log_p)
    settings = Sampling(steps=steps, order="confidence", confidence_noise=noise, guidance=guidance)
    order = Noise("order").permutations(count, length)
    labels = torch.zeros(count, dtype=torch.long)
    tokens = generate(model, labels, order, torch.zeros(length, dtype=torch.long), settings, Noise(name))
    return tokens // 100 - 1, tokens % 100, model  # step and position of every token


LOG_P = [-3.0, -0.1, -2.0, -0.5, -7.0, -1.0, -0.3, -5.0, -4.0]  # nine positions


def test_without_noise_the_surest_tokens_come_first():
    step, _, _ = draw(LOG_P)
    ranked = sorted(range(L), key=lambda i: -LOG_P[i])
    for k, (start, stop) in enumerate(schedule(L, STEPS)):
        assert (step[:, ranked[start:stop]] == k).all()


@pytest.mark.parametrize("noise", [0.0, 4.5, 1e6])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, L])
def test_every_position_is_kept_once_and_stays(noise, guidance, steps):
    step, position, model = draw(LOG_P, noise=noise, steps=steps, guidance=guidance)
    assert torch.equal(position, torch.arange(L).expand(B, L))
    for k, (start, stop) in enumerate(schedule(L, steps)):
        assert (step == k).sum(1).eq(stop - start).all()  # as many as the schedule says
        tokens, order, known = (x[:B] if torch.is_tensor(x) else x for x in model.seen[k])
        assert known == start and torch.equal(order.sort(1).values, torch.arange(L).expand(B, L))
        kept = torch.zeros(B, L, dtype=torch.bool).scatter(1, order[:, :start], True)
        assert torch.equal(kept, step < k)  # the backbone is told what is known, and sees it as it stays
        assert torch.equal(tokens[kept], (100 * (step + 1) + position)[kept])


def test_noise_is_gumbel_times_the_share_of_steps_left():
    """Of two tokens the first is kept first with p = softmax(log p / s), s = noise / 2 at the first of two steps."""
    count, log_p = 20_000, [-0.2, -1.7]
    step, _, _ = draw(log_p, count, noise=3.0, steps=2)
    want = (torch.tensor(log_p) / 1.5).softmax(0)[0]
    assert ((step[:, 0] == 0).float().mean() - want).abs() < 4 * math.sqrt(want * (1 - want) / count)


def test_very_large_noise_is_a_random_order():
    count = 4000
    step, _, _ = draw(LOG_P, count, noise=1e6)
    shares = [(stop - start) / L for start, stop in schedule(L, STEPS)]
    for k, share in enumerate(shares):
        got = (step == k).float().mean(0)  # of each position
        assert (got - share).abs().max() < 4 * math.sqrt(share * (1 - share) / count)


def test_ties_and_impossible_ids_do_not_confuse_the_order():
    log_p = torch.tensor([[-1.0, -math.inf, -1.0, 0.0]])
    assert by_confidence(log_p, 0.0, 0.5, Noise("draw")).tolist() == [[3, 0, 2, 1]]
    assert by_confidence(log_p, 2.0, 0.0, Noise("draw")).tolist() == [[3, 0, 2, 1]]  # last step
    assert by_confidence(log_p, 1e6, 0.5, Noise("draw"))[0, -1] == 1


def confident(guidance=1.0, steps=STEPS):
    return Sampling(steps=steps, order="confidence", confidence_noise=4.5, guidance=guidance)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_one_step_is_the_same_in_any_order(guidance):
    model = build("masked", "categorical")
    _, labels, order = inputs("categorical", "random")
    plain = Sampling(steps=1, guidance=guidance)
    want = generate(model, labels, order, blank("categorical"), plain, Noise("draw"))
    got = generate(model, labels, order, blank("categorical"), confident(guidance, steps=1), Noise("draw"))
    assert torch.equal(got, want)


def test_a_chunk_is_a_function_of_its_noise():
    """Not of what was drawn before, nor of the order that the loop is handed."""
    model = build("masked", "categorical")
    _, labels, order = inputs("categorical", "random")

    def chunk(number, order):
        return generate(model, labels, order, blank("categorical"), confident(50.0), Noise("sample", number))

    forward = [chunk(0, order), chunk(1, order)]
    backward = [chunk(1, order.flip(1)), chunk(0, order.flip(1))][::-1]
    assert all(torch.equal(*pair) for pair in zip(forward, backward, strict=True))
    assert not torch.equal(*forward)
    unguided = generate(model, labels, order, blank("categorical"), confident(), Noise("sample", 0))
    assert not torch.equal(unguided, forward[0])
