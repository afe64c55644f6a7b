"""Laws of the fast modes of the generation loop: kept features, late steps, the checkerboard."""

import itertools

import pytest
import torch
from tiny_models import CLASSES, B, L, batch, blank, build
from tiny_models import settings as setting

from mar.models.masked import Masked
from mar.models.order import checkerboard, schedule
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.sampling.token_cache import Reuse, StoredTokens
from mar.study.parts import Sampling


def forced(**values):
    """Settings past their checks: a period of 1, which changes nothing, is refused of a study."""
    return Sampling(steps=L, diffusion_steps=3).model_copy(update=values)


def draw(model, head, settings):
    _, labels, order = batch(head, "random")
    return generate(model, labels, order, blank(head), settings, Noise("draw"))


@pytest.mark.parametrize("head", ["diffusion", "categorical"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("kept", [{"token_cache": 1}, {"condition_cache": 1}, {"token_cache": 1, "condition_cache": 1}])
@pytest.mark.parametrize("steps", [L, 4])
def test_all_anew_in_every_step_is_the_sampler_without_a_cache(head, guidance, kept, steps):
    model, plain = build("masked", head), forced(guidance=guidance, steps=steps)
    want, got = draw(model, head, plain), draw(model, head, plain.model_copy(update=kept))
    assert torch.equal(got, want) if head == "categorical" else (got - want).abs().max() < 1e-5 * want.abs().max()


def deaf(model: Masked) -> Masked:
    """A backbone whose known tokens do not hear of each other, so that nothing kept is ever out of date."""
    for block in model.encoder_blocks:
        block.attn.proj.weight.data.zero_()
    return model


@pytest.mark.parametrize("every", [2, 3, L])
@pytest.mark.parametrize("late", [None, 2])
@torch.no_grad()
def test_the_token_cache_is_exact_where_keys_and_values_do_not_change(every, late):
    """One deaf encoder block, one decoder block: keys and values follow from a token alone. Decoder slots all count."""
    model = deaf(build("masked", "mse").backbone)
    tokens, labels, order = batch("mse", "random")
    reuse = Reuse(model, labels, forced(token_cache=every))
    for start, stop in schedule(L, 6, late):
        z, z_null = reuse.predict(tokens, order, start, stop)
        want = model.predict(tokens, labels, order, start, stop)
        torch.testing.assert_close(z, want, rtol=1e-5, atol=1e-5)
        assert z_null is None


@torch.no_grad()
def test_new_tokens_attend_to_the_kept_ones_in_the_encoder():
    """In one block keys and values follow from a token alone; new ones are encoded as among all. Every slot counts."""
    model = build("masked", "mse").backbone
    tokens, labels, order = batch("mse", "random")
    kept = StoredTokens(model)
    kept.predict(tokens, labels, order, 2, 4, refresh=True)
    for begin, end in ((2, 3), (3, 6), (6, L)):
        want = model.encode(tokens, labels, order[:, :end])[:, model.buffer + begin :]
        torch.testing.assert_close(kept._encode(tokens, labels, order, begin, end), want, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_token_cache_reads_no_token_that_is_unknown():
    model = build("masked", "mse").backbone
    tokens, labels, order = batch("mse", "random")
    one, other = (Reuse(model, labels, forced(token_cache=3, guidance=2.0, condition_cache=3)) for _ in range(2))
    for start, stop in schedule(L, 5):
        unknown = torch.ones(B, L, dtype=torch.bool).scatter(1, order[:, :start], False)
        changed = torch.where(unknown[:, :, None], tokens + 1, tokens)
        for x, y in zip(
            one.predict(tokens, order, start, stop), other.predict(changed, order, start, stop), strict=True
        ):
            assert torch.equal(x, y)


@torch.no_grad()
def test_the_condition_cache_is_exact_where_the_class_adds_the_same_throughout(monkeypatch):
    """z of the class less z of none depends on the position alone; every n-th call has both branches."""
    _, labels, order = batch("mse", "random")
    rows = []

    class Additive:
        def predict(self, tokens, labels, order, start, stop):
            rows.append(len(labels))
            where = order[:, start:stop, None]
            return start + 0.5 * where + (labels[:, None, None] + 1) * (1 + where)

    reuse = Reuse(Additive(), labels, forced(guidance=2.0, condition_cache=3))
    for start, stop in schedule(L, 6):
        z, z_null = reuse.predict(torch.zeros(B, L, 1), order, start, stop)
        null = torch.full_like(labels, -1)
        torch.testing.assert_close(z, Additive().predict(None, labels, order, start, stop).to(z.dtype))
        torch.testing.assert_close(z_null, Additive().predict(None, null, order, start, stop).to(z.dtype))
    assert rows[::3] == [2 * B, B, B, 2 * B, B, B]


def test_kept_features_change_the_samples_and_follow_the_labels():
    """Not the same as without (or nothing is kept), and still of the class that is asked for."""
    model, fast = build("masked", "diffusion"), forced(guidance=2.0, token_cache=3, condition_cache=3)
    plain = draw(model, "diffusion", forced(guidance=2.0))
    assert not torch.allclose(draw(model, "diffusion", fast), plain)
    _, labels, order = batch("diffusion", "random")
    other = generate(model, (labels + 1) % CLASSES, order, blank("diffusion"), fast, Noise("draw"))
    assert not torch.allclose(other, draw(model, "diffusion", fast))


@pytest.mark.parametrize(("length", "steps", "late"), [(9, 6, 2), (16, 3, 1), (64, 24, 8), (256, 64, 16), (64, 64, 32)])
def test_late_steps_take_the_second_half_and_every_token_once(length, steps, late):
    found = list(schedule(length, steps, late))
    assert len(found) == steps and found[0][0] == 0 and found[-1][1] == length
    assert all(a < b for a, b in found) and all(x[1] == y[0] for x, y in itertools.pairwise(found))
    assert found[steps - late][0] == (length + 1) // 2
    for part in (found[: steps - late], found[steps - late :]):
        widths = {b - a for a, b in part}
        assert max(widths) - min(widths) <= 1


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_the_checkerboard_has_one_colour_first_each_in_its_own_order(side):
    order = Noise("order").permutations(5, side * side)
    found = checkerboard(order)
    assert torch.equal(found.sort(1).values, order.sort(1).values)
    colour = (found // side + found % side) % 2
    assert torch.equal(colour, colour.sort(1).values) and int((colour[0] == 0).sum()) == (side * side + 1) // 2
    for row, new in zip(order.tolist(), found.tolist(), strict=True):
        for parity in (0, 1):
            keep = [p for p in row if (p // side + p % side) % 2 == parity]
            assert [p for p in new if (p // side + p % side) % 2 == parity] == keep


def test_a_checkerboard_needs_a_square():
    with pytest.raises(ValueError, match="order checkerboard of 8 tokens; accepted: a square grid"):
        checkerboard(torch.arange(8)[None])


@pytest.mark.parametrize(
    "more",
    [{"solver": "dpm"}, {"solver": "ddim", "eta": 0.5}, {"order": "checkerboard"}, {"late_steps": 3}]
    + [{"token_cache": 2}, {"condition_cache": 2}, {"solver": "dpm", "order": "checkerboard", "late_steps": 2}],
)
def test_a_chunk_of_a_fast_mode_is_a_function_of_its_noise(more):
    model = build("masked", "diffusion")
    fast = setting("diffusion", steps=6, guidance=2.0, clamp=5.0, **more)
    one, again = (draw(model, "diffusion", fast) for _ in range(2))
    assert torch.equal(one, again) and bool(torch.isfinite(one).all())
    assert not torch.allclose(one, draw(model, "diffusion", setting("diffusion", steps=6, guidance=2.0, clamp=5.0)))
