"""Laws of the flow-matching head: what a flow draws, and what its solvers, guidance and temperature do."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from mar.models.heads.flow import TIME, Flow
from mar.models.heads.head import build_head
from mar.runtime.noise import Noise
from mar.study.canonical import canonical
from mar.study.parts import Head, Sampling
from mar.training.trainer import parameter_groups

WIDTH, DIM, N = 4, 3, 5


def head() -> Flow:
    torch.manual_seed(0)
    made: Flow = build_head(Head.of(kind="flow", width=16, depth=1, noise_draws=2), WIDTH, DIM).eval()
    return made


def settings(evaluations: int, method: str = "euler", temperature: float = 1.0) -> Sampling:
    return Sampling.model_validate(
        {"steps": 1, "temperature": temperature, "head": {"evaluations": evaluations, "method": method}}
    )


class Towards:
    """A network whose flow ends at `end`: the velocity (end - x) / (1 - t) of the straight path, counted."""

    def __init__(self, end: float, curved: bool = False) -> None:
        self.end, self.curved, self.times = end, curved, list[float]()

    def time_embed(self, t: Tensor) -> Tensor:
        return t[:, None]

    def cond_embed(self, z: Tensor) -> Tensor:
        return torch.zeros(len(z), 1)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        t = y[:, :1] / TIME
        self.times.append(float(t[0]))
        return 3 * t.square().expand_as(x) if self.curved else torch.full_like(x, self.end)


def drawn(net: Towards, used: Sampling, guided: bool = False) -> Tensor:
    flow = head()
    del flow.net
    object.__setattr__(flow, "net", net)
    z = torch.zeros(N, WIDTH)
    tokens, log_p = flow.sample(z, z if guided else None, used, 2.0, Noise("flow"))
    assert log_p is None
    return tokens


@pytest.mark.parametrize(("method", "evaluations", "steps"), [("euler", 5, 5), ("heun", 10, 5), ("euler", 1, 1)])
def test_as_many_evaluations_as_said(method: str, evaluations: int, steps: int) -> None:
    net = Towards(0.0)
    drawn(net, settings(evaluations, method))
    starts = [k / steps for k in range(steps)]
    expected = starts if method == "euler" else [t for start in starts for t in (start, start + 1 / steps)]
    assert net.times == pytest.approx(expected)


def test_a_constant_velocity_is_followed_exactly_and_temperature_scales_the_noise() -> None:
    start = Noise("flow").normal(N, DIM)
    for method in ("euler", "heun"):
        assert torch.allclose(drawn(Towards(2.0), settings(4, method)), start + 2.0)
        assert torch.allclose(drawn(Towards(2.0), settings(4, method, 0.5)), 0.5 * start + 2.0)


def test_heun_is_of_order_two() -> None:
    """The velocity 3 t^2 moves by 1; Euler's error falls with the steps, Heun's with their square."""
    start = Noise("flow").normal(N, DIM)
    errors = {
        (method, n): float((drawn(Towards(0.0, curved=True), settings(n, method)) - start - 1).abs().max())
        for method, n in (("euler", 10), ("euler", 20), ("heun", 10), ("heun", 20))
    }
    assert errors["euler", 10] / errors["euler", 20] == pytest.approx(2, rel=0.1)
    assert errors["heun", 10] / errors["heun", 20] == pytest.approx(4, rel=0.1)


def test_guidance_extrapolates_the_velocity() -> None:
    class Halves(Towards):
        def __call__(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([torch.full((N, DIM), 1.0), torch.full((N, DIM), 0.25)])

    start = Noise("flow").normal(N, DIM)
    assert torch.allclose(drawn(Halves(0.0), settings(2), guided=True), start + 0.25 + 2.0 * (1.0 - 0.25))


def test_the_loss_is_zero_where_the_velocity_is_known() -> None:
    flow, target = head(), torch.randn(N, DIM)
    t, noise = flow.draw(2 * N, torch.arange(N), Noise("loss"))
    assert t.shape == (2, N) and noise.shape == (2, N, DIM) and 0 < float(t.min()) < float(t.max()) < 1
    constant = torch.zeros(2, N, DIM)
    assert float(flow.loss(torch.zeros(N, WIDTH), target, (t, constant))) == pytest.approx(
        float(target.square().mean())
    )
    assert float(flow.loss(torch.zeros(N, WIDTH), target, (t, target.expand(2, N, DIM)))) == 0  # the output starts as 0


def test_times_are_logit_normal() -> None:
    t, _ = head().draw(20_000, torch.arange(20_000), Noise("times"))
    logits = t.logit()
    assert abs(float(logits.mean())) < 0.02 and float(logits.std()) == pytest.approx(1.0, abs=0.02)


def test_its_parameters_are_not_decayed() -> None:
    model = torch.nn.ModuleDict({"head": head()})
    decayed, plain = parameter_groups(model, 0.1)
    assert decayed["params"] == [] and len(plain["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"evaluations": 5, "method": "heun"}, "evaluations 5 with solver heun, 2 a step; accepted: a multiple of 2"),
        ({"evaluations": 51}, "accepted: at most 50"),
        ({}, "evaluations: is missing"),
    ],
)
def test_settings_that_it_does_not_accept(values: dict[str, object], message: str) -> None:
    kind, used = (
        Head.of(kind="flow", width=4, depth=1, noise_draws=1),
        Sampling.model_validate({"steps": 1, "head": values}),
    )
    with pytest.raises(ValueError, match=message):
        kind.drawing(used)


def test_a_solver_is_spelled_in_either_place_and_written_in_one() -> None:
    head = Head.of(kind="flow", width=4, depth=1, noise_draws=1)
    spelled = [
        Sampling.model_validate({"steps": 4, "solver": "heun", "head": {"evaluations": 4}}),
        Sampling.model_validate({"steps": 4, "head": {"evaluations": 4, "solver": {"kind": "heun"}}}),
        Sampling.model_validate({"steps": 4, "head": {"evaluations": 4, "method": "heun"}}),
    ]
    assert [str(head.solver(one)) for one in spelled] == ["heun"] * 3
    assert {canonical(one) for one in spelled} == {'{"head":{"evaluations":4,"method":"heun"},"steps":4}'}
    twice = Sampling.model_validate({"steps": 4, "solver": "euler", "head": {"evaluations": 4, "method": "heun"}})
    with pytest.raises(ValueError, match="method heun with solver euler; accepted: one of both"):
        head.drawing(twice)


def test_a_solver_of_diffusion_loss_is_written_as_finished_results_have_it() -> None:
    head = Head.of(kind="diffusion", width=4, depth=1, noise_draws=1)
    old = Sampling.model_validate({"steps": 4, "diffusion_steps": 5, "solver": "ddim", "eta": 0.5})
    new = Sampling.model_validate({"steps": 4, "diffusion_steps": 5, "solver": {"kind": "ddim", "eta": 0.5}})
    assert old == new == Sampling.model_validate(new.model_dump()) and str(new.solver) == "ddim, eta 0.5"
    assert canonical(new) == '{"diffusion_steps":5,"eta":0.5,"solver":"ddim","steps":4}'
    plain = Sampling(steps=4, diffusion_steps=5)
    for values in ({"solver": "ancestral"}, {"solver": "ancestral", "eta": 0.0}, {"solver": {"kind": "ancestral"}}):
        said = Sampling.model_validate({"steps": 4, "diffusion_steps": 5, **values})
        assert said == plain and canonical(said) == '{"diffusion_steps":5,"steps":4}'
    assert head.evaluations(new) == head.evaluations(plain) == 5


def test_settings_of_our_heads_mean_the_same_in_both_places() -> None:
    inside = Sampling.model_validate({"steps": 4, "head": {"diffusion_steps": 5, "solver": "dpm"}})
    assert inside == Sampling.model_validate({"steps": 4, "diffusion_steps": 5, "solver": "dpm"})
    with pytest.raises(ValidationError, match="solver stands beside it too"):
        Sampling.model_validate({"steps": 4, "solver": "ddim", "head": {"solver": "dpm"}})
