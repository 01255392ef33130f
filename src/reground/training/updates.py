"""Gradients and updates of weights: whole on every rank (DDP), or sharded by FSDP2."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict

from reground.training import optimiser
from reground.training.checkpoint import WHOLE
from reground.training.settings import TrainConfig


class Updates:
    """Sums gradients over micro-batches and ranks, and changes the weights by them."""

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
        """Around the forward and backward pass of a micro-batch; ranks reduce at the last one."""
        return nullcontext() if last else self._accelerator.no_sync(self.module)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss."""
        # Wrappers average over ranks, we sum.
        self._accelerator.backward(loss * self._accelerator.num_processes)

    def step(self, rate: float) -> float:
        """Change the weights by the clipped gradient, if it is finite; returns its norm before."""
        norm = optimiser.clip_gradients(self.module, self._settings)
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights and optimiser states, gathered; every rank must call, the first one has all."""
        return get_state_dict(self._own, self._optimizer, options=WHOLE)
