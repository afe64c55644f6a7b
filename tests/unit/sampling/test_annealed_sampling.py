"""The generation loop with denoising steps that fall over the autoregressive steps."""

import pytest
import torch
from tiny_models import CLASSES, HEADS, B, D, L, V, batch, blank, build

from mar.models.heads.head import build_head
from mar.models.order import schedule
from mar.runtime.noise import Noise
from mar.sampling.generate import Kept, generate
from mar.study.annealing import Annealed
from mar.study.parts import Sampling

SOLVERS = [("diffusion", s) for s in ("ancestral", "ddim", "dpm")] + [("flow", s) for s in ("euler", "heun")]
FAST = [{}, {"token_cache": 2, "condition_cache": 2}, {"late_steps": 2}, {"order": "checkerboard"}]


def settings(head, solver, steps, **more):
    """With so many steps of denoising: a number, or how it falls."""
    own = {"diffusion_steps": steps} if head == "diffusion" else {"head": {"evaluations": steps}}
    return Sampling.model_validate({"steps": 5, "guidance": 2.0, "solver": solver, **own, **more})


def draw(model, used, count=B, noise=None, kept=None):
    _, labels, order = batch("diffusion", "random")
    start = noise or Noise("draw")
    return generate(model, labels[:count], order[:count], blank("diffusion"), used, start, kept)


@pytest.mark.parametrize("more", FAST, ids=lambda more: next(iter(more), "plain"))
@pytest.mark.parametrize(("head", "solver"), SOLVERS)
def test_steps_that_do_not_fall_draw_the_same_bits(head, solver, more):
    """Also where the mapping is not read as its number, but resolved in each step of the loop."""
    model, plain = build("masked", head), settings(head, solver, 4, **more)
    constant = Annealed(first=4, last=4, schedule="cosine")
    update = {"diffusion_steps": constant} if head == "diffusion" else {"head": plain.head.model_copy()}
    annealed = plain.model_copy(update=update)
    if head == "flow":
        annealed.head.__pydantic_extra__["evaluations"] = constant
    assert annealed.annealed and torch.equal(draw(model, annealed), draw(model, plain))


@pytest.mark.parametrize("more", FAST, ids=lambda more: next(iter(more), "plain"))
@pytest.mark.parametrize(("head", "solver"), SOLVERS)
@pytest.mark.parametrize("kind", ["linear", "cosine", "two-stage"])
def test_the_network_of_the_head_is_evaluated_as_often_as_the_schedule_says(head, solver, more, kind, monkeypatch):
    model, calls = build("masked", head), []
    network = type(model.head.net)
    for name in ("forward", "modulated"):
        inner = getattr(network, name)
        monkeypatch.setattr(
            network, name, lambda self, x, y, inner=inner: calls.append(len(x)) or inner(self, x, y), raising=True
        )
    draw(model, settings(head, solver, {"first": 8, "last": 2, "schedule": kind}, **more))
    each = 2 if solver == "heun" else 1  # whole steps of Heun's method: an odd number is rounded down
    law = Annealed(first=8, last=2, schedule=kind)
    spans = list(schedule(L, 5, more.get("late_steps")))
    want = [(2 * B * (stop - start), law.at(k, 5) // each * each) for k, (start, stop) in enumerate(spans)]
    assert calls == [rows for rows, often in want for _ in range(often)]


@pytest.mark.parametrize(("head", "solver"), SOLVERS)
def test_groups_of_a_chunk_draw_what_the_chunk_draws(head, solver):
    """Images that go through the network at once: the same images up to rounding, whatever falls."""
    model, used = build("masked", head), settings(head, solver, {"first": 6, "last": 2})
    _, labels, order = batch("diffusion", "random")
    whole = draw(model, used)
    parts = [
        generate(model, labels[i : i + 1], order[i : i + 1], blank("diffusion"), used, noise)
        for i, noise in enumerate(Noise("draw").groups(B, 1))
    ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-4 * float(whole.abs().max()))


def test_a_causal_backbone_with_its_cache():
    """One token a step: nine steps fall from 9 to 1, and with the cache the same tokens up to rounding."""
    model = build("causal", "diffusion")
    used = Sampling.model_validate({"steps": L, "diffusion_steps": {"first": 9, "last": 1}})
    plain, cached = (draw(model, used.model_copy(update={"kv_cache": on})) for on in (False, True))
    assert (plain - cached).abs().max() < 1e-4 * plain.abs().max()


def test_fewer_tokens_than_steps_fall_all_the_way(monkeypatch):
    """In-painting of three tokens takes three steps, the first with `first` and the last with `last`."""
    model, seen = build("masked", "diffusion"), []
    inner = model.head.sample
    monkeypatch.setattr(model.head, "sample", lambda *a: seen.append(a[2].diffusion_steps) or inner(*a), raising=True)
    mask = torch.arange(L) >= 3
    kept = Kept(batch("diffusion", "random")[0], mask, first=True)
    draw(model, settings("diffusion", "ancestral", {"first": 9, "last": 1}), kept=kept)
    assert seen == [9, 5, 1]


def test_each_step_draws_what_its_number_draws():
    """Of the tokens of one step of the loop, which has its own stream: the head with that number of steps."""
    head = build_head(HEADS["diffusion"], 16, D, V).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    z = Noise("z").normal(CLASSES, 16)
    used = settings("diffusion", "dpm", {"first": 9, "last": 3})
    for k, number in enumerate((9, 7, 6, 4, 3)):
        got, _ = head.sample(z, None, used.at_step(k, 5), 1.0, Noise("draw", k))
        want, _ = head.sample(z, None, settings("diffusion", "dpm", number), 1.0, Noise("draw", k))
        assert torch.equal(got, want)
