"""The loop of Diffusion Loss has to be such that a CUDA graph could hold it: the same operations on the same shapes in
every step, nothing that makes the host wait for the device, nothing copied from one to the other."""

import pytest
import torch
from test_models import build
from torch.utils._python_dispatch import TorchDispatchMode

from mar.config import Sampling
from mar.noise import Noise

STEPS, ROWS = 6, 7
# What waits for the device or has a shape that depends on values; `_to_copy` is how a tensor changes its device.
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "index.", "index_put", "_to_copy", "lift")


class Recorder(TorchDispatchMode):
    """Names of operations with the shapes of what goes in, cut in pieces at each drawing of noise."""

    def __init__(self):
        super().__init__()
        self.pieces = [[]]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        shapes = tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor))
        name = str(func).removeprefix("aten.")
        if name.startswith("randn"):
            self.pieces.append([])
        self.pieces[-1].append((name, shapes))
        return func(*args, **(kwargs or {}))


def steps_of(guided, **more):
    head = build("masked", "diffusion").head
    z, null = torch.randn(2, ROWS, 16)
    settings = Sampling(steps=1, diffusion_steps=STEPS, **more)
    recorder = Recorder()
    with torch.no_grad(), recorder:
        head.sample(z, null if guided else None, settings, 2.0, Noise("steps"))
    return recorder.pieces


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("clamp", [None, 3.0])
def test_every_step_is_the_same_and_waits_for_nothing(guided, clamp):
    _, first, *steps, last = steps_of(guided, clamp=clamp, temperature=0.9)
    assert len(steps) == STEPS - 1 and all(len(step) > 10 for step in steps)
    # Pieces end where noise is drawn: each holds the update of a step and the denoiser of the one after it.
    assert all(step == steps[0] for step in steps)
    for name, _ in [*first, *steps[0], *last]:
        assert not name.startswith(WAITING), name


def test_the_recorder_sees_what_it_forbids():
    recorder = Recorder()
    with recorder:
        x = torch.ones(3)
        x[x > 0].sum().item()
    found = [name for name, _ in recorder.pieces[0]]
    assert sum(name.startswith(WAITING) for name in found) >= 2, found
