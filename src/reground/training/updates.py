"""Gradients and updates of weights, however these are spread over ranks."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from reground.training import optimiser, zero
from reground.training.checkpoint import WHOLE
from reground.training.method import Method
from reground.training.settings import TrainConfig


class Updates(Protocol):
    """Sums gradients over micro-batches and ranks, and changes the weights by them."""

    module: nn.Module  # what a forward goes through

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """Around the forward and backward pass of a micro-batch; ranks meet at the last one."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss."""

    def step(self, rate: float) -> float:
        """Change the weights by the clipped gradient, if it is finite; returns its norm before."""

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights and optimiser states, whole; every rank must call, and the first one has all."""


def opened(
    config: TrainConfig, method: Method, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> Updates:
    """Updates of the method's weights in the way that ``config.sharding`` names."""
    if config.sharding in ("none", "full") or accelerator.num_processes == 1:
        return TorchUpdates(method.module, optimizer, config, accelerator)
    stage: zero.Stage = 2 if config.sharding == "zero2" else 3
    if method.reference is not None and method.reference is not method.module:
        zero.spread_frozen(method.reference, accelerator.device, stage=stage)
    return zero.ZeroUpdates(method.module, optimizer, config.optim, accelerator, stage=stage)


class TorchUpdates:
    """Weights that are whole on every rank (DDP), or that FSDP2 has spread."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        accelerator: Accelerator,
    ) -> None:
        self.module = module if config.sharding == "full" else accelerator.prepare(module)
        self._own, self._optimizer = module, optimizer
        self._settings, self._accelerator = config.optim, accelerator

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """Around a micro-batch: DDP reduces at the last one."""
        return nullcontext() if last else self._accelerator.no_sync(self.module)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss."""
        # Wrappers average over ranks, we sum.
        self._accelerator.backward(loss * self._accelerator.num_processes)

    def step(self, rate: float) -> float:
        """Clip, and step where the norm is finite."""
        norm = optimiser.clip_gradients(self.module, self._settings)
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights and optimiser states, as ``checkpoint.restore`` takes them."""
        return get_state_dict(self._own, self._optimizer, options=WHOLE)
