"""Whole weights of a model that is spread over ranks, by torch's FSDP2 or by DeepSpeed's ZeRO."""

from __future__ import annotations

from torch import Tensor
from torch.distributed.tensor import DTensor


def is_spread(weight: Tensor) -> bool:
    """Whether ranks hold parts of the weight, or of the exact values behind it."""
    # The marks of DeepSpeed's ZeRO-3, and of what its ZeRO-2 trains.
    return isinstance(weight, DTensor) or hasattr(weight, "ds_id") or hasattr(weight, "_hp_mapping")


def whole(weight: Tensor) -> Tensor:
    """All of a weight, in the precision in which it is trained; every rank must call."""
    if isinstance(weight, DTensor):
        return weight.full_tensor().detach()
    return _of_zero(weight) if is_spread(weight) else weight.detach()


def _of_zero(weight: Tensor) -> Tensor:
    import deepspeed

    if weight.requires_grad:
        found: Tensor = deepspeed.utils.safe_get_full_fp32_param(weight)
        return found
    with deepspeed.zero.GatheredParameters([weight]):
        return weight.detach().clone()
