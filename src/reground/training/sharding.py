"""Weights spread over all ranks, each rank holding a part of every tensor (torch's FSDP2).

torch is asked directly, not through Accelerate, so that what a GPU runs is what a CPU tests.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from reground.model.adapter import adapter_of
from reground.model.runtime import runtime_of


def shard(module: nn.Module, model: nn.Module, *, from_first: bool = False) -> None:
    """Spread ``module``, whose layers are those of ``model``, in place.

    A layer's weights are whole on a rank while it is computed, in the dtype in which they are
    multiplied; everything outside the layers stays whole during a forward. A vision part that is
    all frozen stays whole on every rank: what it gives may be kept, so that ranks do not run it
    together. With ``from_first`` the other ranks' weights are on the meta device, and come from the
    first rank layer by layer: no other rank ever holds them all.
    """
    runtime = runtime_of(model)
    device = runtime.device.type
    precision = MixedPrecisionPolicy(param_dtype=runtime.autocast, reduce_dtype=torch.float32)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    layers = set(model._no_split_modules)  # type: ignore[arg-type]
    towers = adapter_of(model).tower(model)
    whole: set[nn.Parameter] = set()
    if not any(each.requires_grad for tower in towers for each in tower.parameters()):
        for tower in towers if from_first else ():
            _receive(tower, model)
        whole = {each for tower in towers for each in tower.parameters()}
    for part in list(module.modules()):
        if type(part).__name__ in layers and not whole.issuperset(part.parameters()):
            if from_first:
                _receive(part, model)
            fully_shard(part, mesh=mesh, mp_policy=precision)
    if from_first:
        _receive(module, model)
    fully_shard(
        module, mesh=mesh, mp_policy=precision, reshard_after_forward=False, ignored_params=whole
    )
    module.to(device)  # what stays whole


def _receive(part: nn.Module, model: nn.Module) -> None:
    """Fill what is not spread yet of a part, on its device, with what the first rank has."""
    device = runtime_of(model).device
    own = [each for each in part.modules() if any(map(_is_whole, _tensors(each)))]
    for each in own:
        if any(tensor.is_meta for tensor in _tensors(each)):
            each.to_empty(device=device, recurse=False)
        else:
            each._apply(lambda tensor: tensor.to(device), recurse=False)
    model.tie_weights()  # type: ignore[operator]
    for tensor in dict.fromkeys(tensor for each in own for tensor in _tensors(each)):
        dist.broadcast(tensor.data, 0)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _is_whole(tensor: Tensor) -> bool:
    return not isinstance(tensor, DTensor)
