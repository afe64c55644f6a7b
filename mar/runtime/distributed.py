"""One training on several processes, described by the environment variables of torchrun or of Slurm.

Each of W processes computes every W-th micro-batch of a step, and all of them sum their gradients. A micro-batch is a
function of its name (mar/runtime/noise.py), so what is computed does not depend on W, but for the order of summation.
Without such variables a process trains alone.

Sums go by NCCL on GPUs, and one that takes longer than `TIMEOUT` ends the training: some process is gone. What the
first process does while the others wait (checksums, a file) may take as long as `PATIENCE`; they wait for it in a group
of their own, by gloo.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mar.runtime import devices

BUCKET = 16_000_000  # numbers that one message sums over the processes: 64 MB of float32
TIMEOUT = timedelta(minutes=10)  # of a sum over the processes, all of which compute alike
PATIENCE = timedelta(hours=6)  # how long processes wait while the first one verifies tokens or writes a file


@dataclass(frozen=True)
class World:
    """The processes of a training; by default this one alone.

    Attributes:
        rank: number of this process among all of them, from 0 on.
        size: number of processes, W.
        local: number of this process on its machine, from 0 on; it computes on the GPU of the same number.
        patient: group of processes in which all wait for the first one; by default the group that sums.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    patient: Any = field(default=None, compare=False, repr=False)

    @property
    def device(self) -> torch.device:
        """Where this process computes. Slurm may show each process all GPUs of a machine, or its own alone."""
        return devices.device(self.local)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; many small ones go in one message."""
        if self.size == 1:
            return
        for work, flat, bucket in [_send(bucket) for bucket in _buckets(tensors)]:
            _receive(work, flat, bucket)

    @contextlib.contextmanager
    def summing(self, numbers: Tensor, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Replace `numbers` and the gradients of parameters by their sums over all processes when the context ends.

        The context holds the last backward pass of a step. A bucket of gradients is sent as soon as the pass has
        computed all of them, while it computes those of the layers before: the last bucket first, and always in this
        order, which all processes share. The first bucket goes when the context ends; `numbers` are in it, so that they
        may be set until then. The sums are those of `sum([numbers, *gradients])`, to the bit: the same buckets.
        """
        if self.size == 1:
            yield
            return
        buckets = list(_buckets([numbers, *parameters]))
        awaited = [len(bucket) for bucket in buckets]  # parameters without the gradient of this pass
        place = {parameter: i for i, bucket in enumerate(buckets) for parameter in bucket}
        sent: list[tuple[dist.Work, Tensor, list[Tensor]]] = []

        def send() -> None:
            bucket = [t if t is numbers else t.grad for t in buckets[-1 - len(sent)]]
            sent.append(_send([tensor for tensor in bucket if tensor is not None]))

        def arrived(parameter: Tensor) -> None:
            awaited[place[parameter]] -= 1
            while len(sent) < len(buckets) - 1 and not awaited[-1 - len(sent)]:
                send()

        hooks = [parameter.register_post_accumulate_grad_hook(arrived) for parameter in parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        while len(sent) < len(buckets):
            send()
        for work, flat, bucket in sent:
            _receive(work, flat, bucket)

    def first(self, function: Callable[[], str | bool | None]) -> str | bool | None:
        """What `function` returns in the first process, which alone calls it; all wait for it.

        It travels as JSON: messages between processes are data, and nothing of them is executed.

        Raises:
            ValueError: `function` failed in the first process, which raises the error itself instead.
        """
        if self.size == 1:
            return function()
        if self.rank == 0:
            try:
                found = function()
            except Exception as error:
                self._tell({"failed": f"the first process failed: {error}"})
                raise
            self._tell({"found": found})
            return found
        message = self._listen()
        if "failed" in message:
            raise ValueError(message["failed"])
        answer: str | bool | None = message["found"]
        return answer

    def _tell(self, message: dict[str, str | bool | None]) -> None:
        """Send a message from the first process to all others: its length, then its bytes."""
        text = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        dist.broadcast(torch.tensor(len(text)), src=0, group=self.patient)
        dist.broadcast(text, src=0, group=self.patient)

    def _listen(self) -> dict[str, Any]:
        """The message that the first process sends."""
        length = torch.zeros((), dtype=torch.int64)
        dist.broadcast(length, src=0, group=self.patient)
        text = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(text, src=0, group=self.patient)
        message: dict[str, Any] = json.loads(text.numpy().tobytes())
        return message


ALONE = World()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(t.numel() for t in bucket) + tensor.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _send(bucket: list[Tensor]) -> tuple[dist.Work, Tensor, list[Tensor]]:
    """Start the sum of a bucket: the work under way, its message, and where the sums belong."""
    flat = torch.cat([tensor.flatten() for tensor in bucket])
    return dist.all_reduce(flat, async_op=True), flat, bucket


def _receive(work: dist.Work, flat: Tensor, bucket: list[Tensor]) -> None:
    """Put the sums of a bucket where they belong. On a GPU only its queue waits for them, not this process."""
    work.wait()
    for tensor, total in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
        tensor.copy_(total.view_as(tensor))


def from_environment(variables: Mapping[str, str]) -> World:
    """The world that RANK, WORLD_SIZE and LOCAL_RANK describe, or without them the step of Slurm around this process.

    Raises:
        ValueError: some of the variables are set and others are not, or they contradict each other.
    """
    names = ["RANK", "WORLD_SIZE", "LOCAL_RANK"]
    # Only srun sets SLURM_STEP_NUM_TASKS: the batch script itself runs once, however many tasks its job has.
    if not any(name in variables for name in names) and "SLURM_STEP_NUM_TASKS" in variables:
        names = ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"]
    values = {name: variables.get(name) for name in names}
    if not any(values.values()):
        return ALONE
    try:
        rank, size, local = (int(value or "") for value in values.values())
    except ValueError:
        raise ValueError(f"environment: found {values}; accepted: a number for each, or none of them") from None
    if not 0 <= local <= rank < size:
        raise ValueError(f"environment: found {values}; accepted: 0 <= {names[2]} <= {names[0]} < {names[1]}")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if size > 1 and not variables.get(name)]
    if missing:
        raise ValueError(
            f"environment: {' and '.join(missing)} not set, with {names[1]} {size}; accepted: the machine of process 0 "
            "and a free port there (torchrun and `mar launch` set them; under a bare srun export them yourself)"
        )
    return World(rank, size, local)


@contextlib.contextmanager
def join() -> Iterator[World]:
    """Yield the world of this process, joined to the others while the context lasts: by NCCL on GPUs, gloo on CPUs.

    The groups are taken down when all is done, or when all leave together. After any other error they are cut: taking
    them down would wait for the others, who may wait for this process in a sum. Cut off, those fail at once, and the
    launcher (torchrun, or srun with --kill-on-bad-exit) ends whom that does not reach.
    """
    world = from_environment(os.environ)
    if world.size == 1:
        yield world
        return
    backend = "gloo"
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
        backend = "nccl"
    dist.init_process_group(backend, "env://", rank=world.rank, world_size=world.size, timeout=TIMEOUT)
    patient = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield replace(world, patient=patient)
    except SystemExit:  # all of them leave, as a sum of their requests told them, to go on later
        dist.destroy_process_group()
        raise
    except BaseException:
        for group in (dist.group.WORLD, patient):
            with contextlib.suppress(Exception):  # the error that came first is the one to be told
                group.abort()  # type: ignore[union-attr]
        raise
    dist.destroy_process_group()
