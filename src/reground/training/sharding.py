"""Weights spread over all ranks, each rank holding a part of every tensor (torch's FSDP2).

torch is asked directly, not through Accelerate, so that what a GPU runs is what a CPU tests.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from reground.model.adapter import adapter_of
from reground.model.runtime import runtime_of


def shard(module: nn.Module, model: nn.Module) -> None:
    """Spread ``module``, whose layers are those of ``model``, in place.

    A layer's weights are whole on a rank while it is computed, in the dtype in which they are
    multiplied; everything outside the layers stays whole during a forward. A vision part that is
    all frozen stays whole on every rank: what it gives may be kept, so that ranks do not run it
    together.
    """
    runtime = runtime_of(model)
    device = runtime.device.type
    precision = MixedPrecisionPolicy(param_dtype=runtime.autocast, reduce_dtype=torch.float32)
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    layers = set(model._no_split_modules)  # type: ignore[arg-type]
    vision = [each for part in adapter_of(model).tower(model) for each in part.parameters()]
    whole = set() if any(each.requires_grad for each in vision) else set(vision)
    for part in module.modules():
        if type(part).__name__ in layers and not whole.issuperset(part.parameters()):
            fully_shard(part, mesh=mesh, mp_policy=precision)
    fully_shard(
        module, mesh=mesh, mp_policy=precision, reshard_after_forward=False, ignored_params=whole
    )
    module.to(device)  # what stays whole
