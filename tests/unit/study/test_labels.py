"""What variants and sampling settings are called where people read them."""

from __future__ import annotations

import tiny

from mar.study import labels


def test_a_setting_in_words() -> None:
    plain = {"steps": 4, "diffusion_steps": 10}
    settings = {
        "plain": plain,
        "guided": {**plain, "guidance": 1.5, "temperature": 0.9},
        "one": {**plain, "steps": 1},
        "searched": {**plain, "sweep": {"samples": 24, "guidance": [1.0, 2.0], "temperature": [0.9]}},
        "fast": {**plain, "solver": "dpm", "late_steps": 2, "token_cache": 2},
        "annealed": {**plain, "diffusion_steps": {"first": 50, "last": 5}},
        "again": {**plain, "seed": 3},
        "twin": plain,
    }
    variants = {name: dict(values) for name, values in tiny.STUDY["variants"].items()}
    variants["mar-diff"]["sampling"] = list(settings)
    study = tiny.study(sampling={**tiny.STUDY["sampling"], **settings}, variants=variants, tradeoff=[])
    assert {name: labels.setting(study, "mar-diff", name) for name in settings} == {
        "plain": "4 steps, 10 diffusion steps (plain)",  # two read the same
        "guided": "4 steps, 10 diffusion steps, guidance 1.5, temperature 0.9",
        "one": "1 step, 10 diffusion steps",
        "searched": "4 steps, 10 diffusion steps, swept",
        "fast": "4 steps, 10 diffusion steps, dpm, late steps 2, token cache 2",
        "annealed": "4 steps, 50 to 5 (linear) diffusion steps",
        "again": "4 steps, 10 diffusion steps, sampling seed 3",
        "twin": "4 steps, 10 diffusion steps (twin)",
    }
    assert labels.cell(study, "mar-diff", "one") == "MAR, Diffusion Loss at 1 step, 10 diffusion steps"
    assert labels.cell(study, "mar-diff", None) == "MAR, Diffusion Loss"
