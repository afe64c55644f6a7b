"""Denoisers that are narrower than the tokens whose noise they predict."""

from __future__ import annotations

import pytest
from tiny import STUDY, study

from mar.study.widths import narrow


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_a_narrow_head_is_told(kind: str) -> None:
    head = {"kind": kind, "depth": 1, "noise_draws": 1}
    settings = {
        "diff": {"steps": 4, **({"diffusion_steps": 2} if kind == "diffusion" else {"head": {"evaluations": 2}})}
    }
    variant = STUDY["variants"]["mar-diff"] | {"sampling": ["diff"]}
    of = {
        width: study(
            heads={"h": head | {"width": width}},
            sampling=settings,
            variants={"v": variant | {"head": "h"}},
            tradeoff=[],
        )
        for width in (1, 2)
    }
    assert of[1].tokenizers[variant["tokenizer"]].token_dim == 2
    assert narrow(of[2]) == []
    (told,) = narrow(of[1])
    assert told.startswith(
        "v: heads.h.width is 1 and a token of kl has 2 numbers: what it draws keeps the noise of 1 dir"
    )
    untrained = of[1].variants["v"].model_copy(update={"seeds": ()})
    assert narrow(of[1].model_copy(update={"variants": {"v": untrained}})) == []
