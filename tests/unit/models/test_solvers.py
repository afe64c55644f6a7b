"""Few-step samplers against answers that are known: a normal token, whose epsilon and whose flow have a formula."""

import pytest
import torch

from mar.models.diffusion import gaussian, solvers
from mar.runtime.noise import Noise
from mar.study.kinds import implementation
from mar.study.parts import Sampling, Solver

MEAN, DEVIATION = 1.5, 0.4
PROCESS = gaussian.cosine_schedule()


def settings(solver, **more):
    return Sampling(steps=1, diffusion_steps=10, solver=solver, **more)


def grid(steps):
    return PROCESS.at_timesteps(Solver.of(kind="ddim").timesteps(len(PROCESS), steps))


def solve(epsilon, process, x, used, noise):
    """Tokens by the solver of a setting; the values of the variance are none."""
    solver = used.solver

    def denoise(x, step):
        return torch.cat([epsilon(x, step), torch.zeros_like(x)], 1)

    return implementation(solver)(solver, denoise, process, x, used, noise)


def normal_token(process):
    """Epsilon of tokens that are normal with MEAN and DEVIATION."""

    def epsilon(x, step):
        alpha_bar = process.alpha_bar[step]
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * MEAN) / scale(alpha_bar) ** 2

    return epsilon


def scale(alpha_bar):
    """Standard deviation of the noisy token."""
    return (alpha_bar * DEVIATION**2 + 1 - alpha_bar).sqrt()


def error(solver, intervals):
    """Of the clean token, from the timestep 950 to 50 and then clean; exact: the noisy token keeps its quantile."""
    process = PROCESS.at_timesteps([50 + i * 900 // intervals for i in range(intervals + 1)])
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    first, last = process.alpha_bar[-1], process.alpha_bar[0]
    kept = last.sqrt() * MEAN + scale(last) / scale(first) * (x - first.sqrt() * MEAN)
    want = (kept - (1 - last).sqrt() * normal_token(process)(kept, 0)) / last.sqrt()
    got = solve(normal_token(process), process, x, settings(solver), Noise("none"))
    return float((got - want).abs().max())


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm", 2)])
def test_halving_the_steps_divides_the_error_by_two_to_the_order(solver, order):
    errors = [error(solver, intervals) for intervals in (30, 60, 180)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(3**order, rel=0.2)


def test_the_second_order_is_the_closer_one_with_few_steps():
    assert all(error("dpm", n) < 0.5 * error("ddim", n) for n in (9, 18, 36))


@pytest.mark.parametrize("solver", ["ddim", "dpm"])
@pytest.mark.parametrize("temperature", [0.5, 0.95, 1.0])
def test_temperature_scales_the_deviation_and_keeps_the_mean(solver, temperature):
    process = grid(100)
    x = Noise("start").normal(20_000, 1).double()
    tokens = solve(normal_token(process), process, x, settings(solver, temperature=temperature), Noise("none"))
    assert float(tokens.std()) == pytest.approx(temperature * DEVIATION, rel=0.03)
    assert float(tokens.mean()) == pytest.approx(MEAN, abs=0.02)


def test_ddim_with_eta_one_is_the_ancestral_step_with_the_posterior_variance():
    """Of the same x0, so also of a clamped one; the learned variance is set to its lower end, the posterior's."""
    process = PROCESS.respaced(100)
    noise = Noise("step")
    x, epsilon, drawn = (noise.normal(6, 4).double() for _ in range(3))
    for step in (1, 5, 40, 98):
        t = torch.full((6,), step)
        lowest = torch.cat([epsilon, -torch.ones_like(epsilon)], 1)
        want = gaussian.reverse_step(process, lowest, x, step, drawn, temperature=0.9, clamp=2.0)
        x0 = gaussian.predict_x0(process, x, t, epsilon).clamp(-2, 2)
        got = solvers.ddim_step(process, x, x0, step, 1.0, 0.9 * drawn)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_noise_of_the_steps_leaves_the_distribution():
    """Any eta has the same marginals, up to the error of the steps."""
    process = grid(200)
    x = Noise("start").normal(20_000, 1).double()
    tokens = solve(normal_token(process), process, x, settings({"kind": "ddim", "eta": 0.7}), Noise("steps"))
    assert float(tokens.std()) == pytest.approx(DEVIATION, rel=0.03)
    assert float(tokens.mean()) == pytest.approx(MEAN, abs=0.02)


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 333, 1000])
def test_the_grid_is_the_middles_of_equal_parts(steps):
    t = grid(steps).timesteps
    assert len(t) == steps and (t.diff() > 0).all()
    below = (torch.arange(steps) + 0.5) * 1000 / steps - t  # rounded down
    assert below.min() >= 0 and below.max() < 1
    torch.testing.assert_close(grid(steps).alpha_bar, PROCESS.alpha_bar[t])


def test_clamp_bounds_the_token_and_one_step_is_the_prediction():
    process = grid(1)
    x = Noise("start").normal(50, 2).double()
    epsilon = normal_token(process)
    for solver in ("ddim", "dpm"):
        free = solve(epsilon, process, x, settings(solver), Noise("none"))
        held = solve(epsilon, process, x, settings(solver, clamp=1.5), Noise("none"))
        torch.testing.assert_close(
            free, gaussian.predict_x0(process, x, torch.zeros(50, dtype=torch.long), epsilon(x, 0))
        )
        torch.testing.assert_close(held, free.clamp(-1.5, 1.5))
