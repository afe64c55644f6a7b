"""The loops of Diffusion Loss have to be such that a CUDA graph could hold them: nothing in them makes the host wait
for the device or is copied from one to the other, and no operation or shape depends on values.

There need be no GPU for that: torch's fake tensors know their device and their shape and have no values, so whatever
asks for a value or mixes devices raises. What they let pass, copies from a device to another, is looked for by name.
"""

import pytest
import torch
from tiny_models import L, build
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from mar.models.blocks import rows_of
from mar.models.heads import diffusion_loss
from mar.runtime.noise import Noise
from mar.sampling.generate import generate
from mar.study.parts import Sampling

STEPS, ROWS = 6, 7
SOLVERS = [{"temperature": 0.9}, {"solver": "dpm"}, {"solver": "ddim", "eta": 0.5, "clamp": 3.0}]
GUIDED = pytest.mark.parametrize("guided", [False, True])
SETTINGS = pytest.mark.parametrize("more", SOLVERS, ids=str)
# Steps whose modulations are computed together: all of them, as for few rows, or one (guided) or two at a time.
TOGETHER = pytest.mark.parametrize("rows", [512, 2 * ROWS])


class Drawn:
    """In place of a stream: numbers that are there already, or a generator of the default kind."""

    def __init__(self, numbers=None):
        self.numbers = iter(numbers) if numbers is not None else None

    def normal(self, *shape):
        return torch.randn(shape, device="cuda") if self.numbers is None else next(self.numbers)


class Recorder(TorchDispatchMode):
    """Operations with the shapes and devices of what goes in and comes out."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [
            x for x in (*args, *(out if isinstance(out, tuple | list) else [out])) if isinstance(x, torch.Tensor)
        ]
        self.calls.append((str(func), tuple(tuple(x.shape) for x in tensors), {x.device.type for x in tensors}))
        return out


def test_position_tables_are_embeddings_on_a_gpu():
    """Whose backward pass repeats to the bit and is fast; on a CPU they are gathered, and the rows are the same."""
    table, positions = torch.randn(1, 6, 4), torch.tensor([[0, 5], [3, 3], [1, 2]])
    rows = rows_of(table.expand(3, -1, -1), positions)
    assert torch.equal(rows, torch.nn.functional.embedding(positions, table[0]))
    with FakeTensorMode(), Recorder() as recorder:
        there = torch.empty(1, 6, 4, device="cuda")
        rows_of(there.expand(3, -1, -1), torch.empty(3, 2, dtype=torch.long, device="cuda"))
    names = " ".join(name for name, *_ in recorder.calls)
    assert "aten.embedding" in names and "gather" not in names


def head():
    return build("masked", "diffusion").head


def fake_model(settings):
    """On a GPU that need not exist. Its schedule is a real one, whose numbers were looked up by a first batch."""
    with torch.device("cuda"):
        model = build("masked", "diffusion")
    with unset_fake_temporarily():
        z, null, _ = inputs(True)
        (real := head()).sample(z, null, settings, 2.0, Noise("first"))
    model.head.train_process = real.train_process
    return model


def inputs(guided, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z, null = torch.randn(2, ROWS, 16, generator=generator)
    return z, null if guided else None, torch.randn(STEPS + 1, ROWS, head().token_dim, generator=generator)


@torch.no_grad()
@GUIDED
@SETTINGS
@TOGETHER
def test_on_a_device_nothing_is_asked_for_nor_copied(guided, more, rows, monkeypatch):
    monkeypatch.setattr(diffusion_loss, "ROWS", rows)
    settings = Sampling(steps=1, diffusion_steps=STEPS, **more)
    with FakeTensorMode(allow_non_fake_inputs=True):
        denoiser = fake_model(settings).head
        z, null = torch.zeros(2, ROWS, 16, device="cuda")
        given = z, null if guided else None, settings, 2.0, Drawn()
        denoiser.sample(*given)  # the first time the tables of the schedule are copied
        with Recorder() as recorder:
            tokens, _ = denoiser.sample(*given)
    assert tokens.shape == (ROWS, denoiser.token_dim)
    assert len(recorder.calls) > 20 * STEPS
    assert {device for _, _, devices in recorder.calls for device in devices} == {"cuda"}


@torch.no_grad()
@GUIDED
@SETTINGS
@TOGETHER
def test_the_recorded_loop_draws_other_tokens_from_other_conditions(guided, more, rows, monkeypatch):
    monkeypatch.setattr(diffusion_loss, "ROWS", rows)
    denoiser, settings = head(), Sampling(steps=1, diffusion_steps=STEPS, **more)

    def loop(z, null, *numbers):
        return denoiser.sample(z, null, settings, 2.0, Drawn(numbers))[0]

    first, others = inputs(guided), [inputs(guided, seed) for seed in (1, 2)]
    recorded = make_fx(loop)(first[0], first[1], *first[2])  # operations, with nothing of Python left between them
    for z, null, numbers in others:
        torch.testing.assert_close(recorded(z, null, *numbers), loop(z, null, *numbers), rtol=0, atol=0)


@torch.no_grad()
@GUIDED
@pytest.mark.parametrize("more", [{}, {"solver": "dpm"}, {"token_cache": 2, "condition_cache": 2}], ids=str)
def test_a_whole_batch_is_drawn_without_waiting(guided, more):
    more = more if guided else {key: value for key, value in more.items() if key != "condition_cache"}
    settings = Sampling(steps=4, diffusion_steps=STEPS, guidance=2.0 if guided else 1.0, **more)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = fake_model(settings)
        labels, order = torch.zeros(3, dtype=torch.long, device="cuda"), torch.arange(L, device="cuda").expand(3, L)
        blank = torch.zeros(L, model.head.token_dim, device="cuda")
        generate(model, labels, order, blank, settings, Drawn())
        with Recorder() as recorder:
            assert generate(model, labels, order, blank, settings, Drawn()).shape == (3, L, model.head.token_dim)
    assert {device for _, _, devices in recorder.calls for device in devices} == {"cuda"}


@torch.no_grad()
@SETTINGS
def test_one_step_at_a_time_or_several_modulated_together(more, monkeypatch):
    settings, (z, null, _) = Sampling(steps=1, diffusion_steps=STEPS, **more), inputs(True)
    drawn = []
    for rows in (1, 4 * ROWS, 512):
        monkeypatch.setattr(diffusion_loss, "ROWS", rows)
        drawn.append(head().sample(z, null, settings, 2.0, Noise("draw"))[0])
    torch.testing.assert_close(drawn[1], drawn[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(drawn[2], drawn[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("waits", "error"),
    [
        (lambda x: x.sum().item(), DataDependentOutputException),
        (lambda x: x[torch.zeros(3, dtype=torch.bool)], RuntimeError),
    ],
)
def test_fake_tensors_refuse_what_waits(waits, error):
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(error):
        waits(torch.ones(3, device="cuda"))


def test_the_recorder_sees_a_copy_to_a_device():
    with FakeTensorMode(allow_non_fake_inputs=True), Recorder() as recorder:
        torch.ones(3, device="cuda").cpu()
    assert "cpu" in {device for _, _, devices in recorder.calls for device in devices}
