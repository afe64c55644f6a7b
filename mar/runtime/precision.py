"""How exactly a device computes: half precision by autocast, TF32, and algorithms that give equal bits each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def autocast(device: torch.device, dtype: str) -> Any:
    """The context in which matrix products and convolutions are of this precision; fp32 switches one around it off."""
    if device.type == "meta":  # has no autocast
        return contextlib.nullcontext()
    return torch.autocast(device.type, HALF.get(dtype, torch.bfloat16), enabled=dtype in HALF)


@contextlib.contextmanager
def tf32(wanted: bool) -> Iterator[None]:
    """Let NVIDIA's GPUs from A100 on round the factors of float32 matrix products to 10 bits, where that is wanted.

    Torch does so with convolutions anyway. `torch.set_float32_matmul_precision` would change the products of CPUs too.
    """
    products = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if hasattr(products, "fp32_precision") else ("allow_tf32", True)
    before = getattr(products, name)
    if wanted:
        setattr(products, name, value)
    try:
        yield
    finally:
        setattr(products, name, before)


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Let a GPU take only algorithms that give equal bits each time; torch raises where it has none.

    By default the backward passes of attention, of `gather` and of convolutions add in whichever order their threads
    come. Products need CUBLAS_WORKSPACE_CONFIG for it, and compiled code TORCHINDUCTOR_DETERMINISTIC (it would try
    which kernels are fast), which `mar` sets before either starts. A CPU repeats its bits.
    """
    if device.type != "cuda":
        yield
        return
    memory: Any = torch.utils.deterministic
    before, filled = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # it would only cost time
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        memory.fill_uninitialized_memory = filled
