"""How exactly a device computes: half precision by autocast, TF32, and algorithms that give equal bits each time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
# What autocast computes in half precision on a GPU, and what it computes in float32, of all that our networks call.
PRODUCTS = {
    *(F.linear, F.scaled_dot_product_attention, torch.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__),
    *(torch.mm, torch.bmm, torch.addmm, torch.baddbmm),
}
EXACT = {
    *(F.layer_norm, F.group_norm, F.normalize, F.softmax, torch.softmax, Tensor.softmax, F.log_softmax),
    *(torch.log_softmax, F.cross_entropy, F.mse_loss),
}


def autocast(device: torch.device, dtype: str) -> Any:
    """The context in which matrix products and convolutions are of this precision; fp32 switches one around it off."""
    if device.type == "meta":
        return _OnMeta(HALF.get(dtype))
    return torch.autocast(device.type, HALF.get(dtype, torch.bfloat16), enabled=dtype in HALF)


class _OnMeta(TorchFunctionMode):
    """Autocast for the meta device, which has none: tensors there have the types that they have on a GPU."""

    inside: ClassVar[list[_OnMeta]] = []  # of those that are on, the last one counts

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.weights: dict[int, Tensor] = {}  # in half precision, which autocast keeps until it is left

    def __enter__(self) -> _OnMeta:
        self.inside.append(self)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.inside.pop()
        self.weights.clear()
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.dtype and self.inside[-1] is self and (func in PRODUCTS or func in EXACT):
            dtype = self.dtype if func in PRODUCTS else torch.float32
            args = [self._cast(value, dtype) for value in args]
            kwargs = {key: self._cast(value, dtype) for key, value in kwargs.items()}
        return func(*args, **kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if not isinstance(value, Tensor) or value.dtype not in (torch.float32, *HALF.values()) or value.dtype == dtype:
            return value
        if not (value.requires_grad and value.is_leaf and not value._is_view() and dtype == self.dtype):
            return value.to(dtype)
        if id(value) not in self.weights:
            self.weights[id(value)] = value.to(dtype)
        return self.weights[id(value)]


def computed(like: Tensor) -> torch.dtype:
    """The type in which products are computed now on the device of a tensor: its own one without autocast."""
    if like.is_meta:
        return _OnMeta.inside[-1].dtype or like.dtype if _OnMeta.inside else like.dtype
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype


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
