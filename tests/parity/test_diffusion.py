"""Schedules, helper functions and laws against tables recorded from the published code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mar.models.diffusion import gaussian
from mar.models.order import guidance_at, mask_ratio, num_masked, schedule

GOLDEN = Path(__file__).parent / "golden"
INDEX = json.loads((GOLDEN / "diffusion.json").read_text())
OURS = {
    "betas": "betas",
    "alphas_cumprod": "alpha_bar",
    "sqrt_alphas_cumprod": "sqrt_alpha_bar",
    "sqrt_one_minus_alphas_cumprod": "sqrt_one_minus_alpha_bar",
    "sqrt_recip_alphas_cumprod": "sqrt_recip_alpha_bar",
    "sqrt_recipm1_alphas_cumprod": "sqrt_recipm1_alpha_bar",
    "posterior_variance": "posterior_variance",
    "posterior_log_variance_clipped": "posterior_log_variance",
    "posterior_mean_coef1": "posterior_mean_x0",
    "posterior_mean_coef2": "posterior_mean_xt",
    "log_betas": "log_betas",
}


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "diffusion.safetensors")


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [1000, 100, 50, 25, 10])
def test_tables(golden, kind, steps):
    process = {"cosine": gaussian.cosine_schedule, "linear": gaussian.linear_schedule}[kind]()
    process = process if steps == 1000 else process.respaced(steps)
    key = f"{kind}.{steps}"
    assert torch.equal(process.timesteps, golden[f"{key}.timestep_map"].long())
    for official, ours in OURS.items():
        np.testing.assert_allclose(
            getattr(process, ours).numpy(),
            golden[f"{key}.{official}"].numpy(),
            rtol=1e-10,
            atol=1e-14,
            err_msg=official,
        )


def test_helpers(golden):
    np.testing.assert_allclose(gaussian.normal_kl(*golden["util.kl.in"]), golden["util.kl.out"], rtol=1e-10, atol=1e-14)
    x, mean, log_scale = (golden[f"util.dll.{k}"] for k in ("x", "mean", "log_scale"))
    got = gaussian.discretized_log_likelihood(x, mean, log_scale)
    np.testing.assert_allclose(got, golden["util.dll.out"], rtol=1e-10, atol=1e-14)
    features = gaussian.timestep_features(golden["util.temb.t"], 256)
    np.testing.assert_allclose(features.double(), golden["util.temb.out256"], rtol=1e-6, atol=1e-6)  # float32 there too


def test_mask_ratio_law(golden):
    got = [mask_ratio(float(q)) for q in golden["mask_ratio.q"]]
    np.testing.assert_allclose(got, golden["mask_ratio.ppf"], rtol=1e-10, atol=1e-14)
    assert num_masked(0.804688, 64) == 52


@pytest.mark.parametrize("name", list(INDEX["sampling_mask_schedule"]))
def test_sampling_schedule(name):
    want = INDEX["sampling_mask_schedule"][name]
    length, steps = (int(part) for part in name.removeprefix("L").split("_iter"))
    got = list(schedule(length, steps))
    assert [stop - start for start, stop in got] == want["n_predicted"]
    # The published count keeps one token "masked" after the last step, too.
    assert [max(length - stop, 1) for _, stop in got] == want["mask_len_after"]
    factors = [guidance_at(2.0, "linear", stop, length) - 1 for _, stop in got]
    np.testing.assert_allclose(factors, want["cfg_factor_linear"], rtol=1e-12)
