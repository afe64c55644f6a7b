"""How exactly samples are drawn: backbone and head each in a precision, TF32, and algorithms with equal bits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import B, L, blank, build, settings

from mar.models.order import draw_order
from mar.runtime import precision
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.canonical import canonical
from mar.study.parts import Sampling


def test_a_half_precise_backbone_leaves_the_head_exact_unless_it_is_said() -> None:
    half = Sampling(steps=4, dtype="bf16")
    assert half.head_dtype == "fp32"
    # images of before the key had the head in bf16: they are told apart by the text of their stage key
    assert canonical(half) == '{"dtype":"bf16","head_dtype":"fp32","steps":4}'
    assert Sampling(steps=4).head_dtype is None
    with pytest.raises(ValueError, match="head_dtype fp16 with dtype fp32: belongs to fp16 and bf16; accepted: none"):
        Sampling(steps=4, head_dtype="fp16")


@pytest.mark.parametrize(("dtype", "head"), [("bf16", "fp32"), ("fp16", "fp16"), ("bf16", "fp16"), ("fp32", None)])
@pytest.mark.parametrize("kind", ["diffusion", "categorical"])
def test_backbone_and_head_compute_as_they_are_told(kind: str, dtype: str, head: str | None) -> None:
    model: Any = build("masked", kind)
    seen: dict[str, set[object]] = {"backbone": set(), "head": set()}
    sample = model.head.sample

    def note(where: str) -> None:
        on = torch.is_autocast_enabled("cpu")
        seen[where].add(torch.get_autocast_dtype("cpu") if on else torch.float32)

    def watched(z: torch.Tensor, *rest: Any) -> Any:
        note("head")
        assert head != "fp32" or z.dtype == torch.float32
        return sample(z, *rest)

    model.head.sample = watched
    model.backbone.encoder_blocks[0].register_forward_pre_hook(lambda *_: note("backbone"))
    more = {"clamp": 3.0} if kind == "diffusion" else {}
    how = settings(kind, steps=3, guidance=2.0, dtype=dtype, head_dtype=head, **more)
    order = draw_order("random", B, L, Noise("order"))
    with torch.no_grad(), precision.autocast(torch.device("cpu"), dtype):  # as the sampler does
        drawn = generate(model, torch.arange(B), order, blank(kind), how, Noise("draw"))
    assert torch.isfinite(drawn.float()).all()
    types = {"fp32": torch.float32, **precision.HALF}
    assert seen == {"backbone": {types[dtype]}, "head": {types[head or dtype]}}


def test_half_precision_of_the_head_changes_more_than_that_of_the_backbone_alone() -> None:
    """The reason for the default: bf16 in the denoiser moves what is drawn further."""
    model: Any = build("masked", "diffusion")
    drawn = {}
    for name, how in {
        "exact": {},
        "backbone": {"dtype": "bf16"},
        "both": {"dtype": "bf16", "head_dtype": "bf16"},
    }.items():
        order = draw_order("random", B, L, Noise("order"))
        used = settings("diffusion", steps=3, clamp=3.0, **how)
        with torch.no_grad(), precision.autocast(torch.device("cpu"), used.dtype):
            drawn[name] = generate(model, torch.arange(B), order, blank("diffusion"), used, Noise("draw"))
    error = {name: float((drawn[name] - drawn["exact"]).norm()) for name in ("backbone", "both")}
    assert 0 < error["backbone"] < error["both"]


def test_tf32_is_asked_for_while_it_lasts_by_either_name(monkeypatch: pytest.MonkeyPatch) -> None:
    products = torch.backends.cuda.matmul
    for fake in (SimpleNamespace(fp32_precision="none"), SimpleNamespace(allow_tf32=False)):
        monkeypatch.setattr(torch.backends.cuda, "matmul", fake)
        before = vars(fake).copy()
        with precision.tf32(False):
            assert vars(fake) == before
        with precision.tf32(True):
            assert vars(fake) in ({"fp32_precision": "tf32"}, {"allow_tf32": True})
        assert vars(fake) == before
    monkeypatch.setattr(torch.backends.cuda, "matmul", products)
    with precision.tf32(True):
        pass
    assert torch.get_float32_matmul_precision() == "highest"  # products of the CPU stay as they are


def test_equal_bits_are_asked_of_a_gpu_alone() -> None:
    with precision.deterministic(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    with precision.deterministic(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
