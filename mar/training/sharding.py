"""A training split among its processes: each keeps a share of all parameters, gradients, moments and averages.

Torch's `fully_shard` collects the parameters of a block when it computes and drops them afterwards; the gradients of
each micro-batch are summed over the processes and split as they come. A model whose state (16 bytes a parameter) does
not fit one GPU is trained so. Checkpoints hold whole tensors: any number of processes goes on with them, split or not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from mar.runtime.distributed import World


def shard(model: Any, world: World) -> None:
    """Split the parameters of a model among all processes, block by block; they become `DTensor`s."""
    mesh = init_device_mesh(world.device.type, (world.size,))
    for part in (*model.blocks(), model):
        split = fully_shard(part, mesh=mesh)
        split.set_gradient_divide_factor(1.0)  # gradients are summed; torch would take their mean
        split.set_force_sum_reduction_for_comms(True)  # by plain sums, which gloo has too
    if not model.joint:  # whose loss is no more than a forward pass
        register_fsdp_forward_method(model, "loss")


def local(tensor: Tensor) -> Tensor:
    """This process's share of a tensor that is split, or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def load(model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Put each process's share of a checkpoint's whole tensors into a model that is split.

    Raises:
        LookupError: tensors are missing.
        RuntimeError: the shapes of others differ.
    """
    for targets, saved in ((model.state_dict(), state["model"]), (average, state["ema"])):
        for name, target in targets.items():
            local(target).copy_(_share(saved[name], target))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: {
            # the count of steps is a number of its own; moments have the shape of their parameter
            name: _share(value, parameters[number], split=True) if value.shape == parameters[number].shape else value
            for name, value in values.items()
        }
        for number, values in state["optimizer"]["state"].items()
    }
    optimizer.load_state_dict({**state["optimizer"], "state": moments})


def _share(value: Tensor, like: Tensor, split: bool = False) -> Tensor:
    """This process's share of a whole tensor, split as another is; as a part of it, or with `split` as a `DTensor`."""
    if not isinstance(like, DTensor):
        return value
    if value.shape != like.shape:
        raise RuntimeError(f"found shape {list(value.shape)}; the model has {list(like.shape)}")
    whole = distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
    return whole if split else whole.to_local()
