"""Where a command computes: on a GPU where there is one, or as `mar --device` says.

`mar launch --cluster slurm` says `--device cuda` to every stage that asked for a GPU, so that a job whose GPU torch
does not see stops at once. Without that word it would compute on the CPU for days, and time the CPU as if it were the
GPU.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CHOICES = ("cuda", "cpu")
# Oldest driver of NVIDIA that runs torch's builds for a major version of CUDA (CUDA compatibility guide).
DRIVERS = {"13": "580", "12": "525", "11": "450"}

# Operations a second of dense bf16 products, by a part of the GPU's name (NVIDIA's data sheets). The first match is it.
PEAKS = {
    **{"B200": 2250e12, "H200": 989e12, "GH200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12},
    **{"A100": 312e12, "A40": 149.7e12, "A30": 165e12, "L40S": 362e12, "L40": 181e12},
}
CHOSEN = "MAR_DEVICE"  # variable of the environment, so that processes that this one starts compute there too


def choose(name: str) -> None:
    """Say where this process computes: one of CHOICES, or empty for a GPU where there is one."""
    os.environ[CHOSEN] = name


def device(local: int = 0) -> torch.device:
    """Where this process computes; of several GPUs on the one of number `local`, counted round.

    Raises:
        ValueError: `mar --device cuda`, and torch sees no GPU.
    """
    import torch

    chosen = os.environ.get(CHOSEN, "")
    seen = torch.cuda.device_count() if chosen != "cpu" and torch.cuda.is_available() else 0
    if chosen == "cuda" and not seen:
        raise ValueError(f"--device cuda: torch {torch.__version__} sees no GPU; {remedy(torch.version.cuda)}")
    return torch.device("cuda", local % seen) if seen else torch.device("cpu")


def remedy(cuda: str | None) -> str:
    """What to look at where torch, built for this version of CUDA, sees no GPU."""
    if cuda is None:
        return "it was built without CUDA; accepted: a build with CUDA (slurm/README.md, Drivers), or --device cpu"
    driver = DRIVERS.get(cuda.partition(".")[0], "that NVIDIA names for it")
    return (
        f"it was built for CUDA {cuda}, which needs NVIDIA's driver {driver} or newer: `nvidia-smi` shows the driver, "
        "and no GPU where the job got none. Accepted: a newer driver, a build for an older CUDA (slurm/README.md, "
        "Drivers), a job with a GPU, or --device cpu"
    )


def bf16_peak(name: str) -> float | None:
    """Operations a second of a GPU's dense bf16 products, by the name that it gives itself; None of an unknown one."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def check_compiler(where: str) -> None:
    """Refuse `compile: true` where there is no C++ compiler, before the first step fails inside torch.

    Raises:
        ValueError: there is none; the message says `where` in the study the key stands.
    """
    compiler = os.environ.get("CXX", "g++")
    if not shutil.which(compiler):
        raise ValueError(
            f"compile: true in the {where}, and no C++ compiler {compiler!r} on the PATH; accepted: compile: false, or "
            "install g++, or name another compiler in the variable CXX"
        )
