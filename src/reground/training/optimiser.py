"""The optimiser, its schedule, and updates of weights, whole on every rank (DDP) or sharded."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.tensor import DTensor

from reground.training.checkpoint import WHOLE
from reground.training.settings import Optim, TrainConfig


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
        norm = clip_gradients(self.module, self._settings)
        if math.isfinite(norm):
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def norms(self, part_of: Callable[[str], str]) -> dict[str, float]:
        """The norm of the gradient of each part that is tuned, as metrics; every rank must call."""
        parts: dict[str, list[Tensor]] = {}
        for name, parameter in self._own.named_parameters():
            if parameter.requires_grad:
                own = parts.setdefault(part_of(name), [])
                own += [] if parameter.grad is None else [parameter.grad]
        return {
            f"grad_norm/{part}": _number(torch.nn.utils.get_total_norm(gradients))
            for part, gradients in parts.items()
        }

    def state(self) -> dict[str, Any]:
        """Weights and optimiser states, gathered; every rank must call, the first one has all."""
        module, optimizer = get_state_dict(self._own, self._optimizer, options=WHOLE)
        return {"module": module, "optimizer": optimizer}


def optimizer(module: nn.Module, settings: Optim) -> torch.optim.AdamW:
    """AdamW over what is trained; vectors (norms, biases) and embeddings do not decay."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and "embed" not in name
            (decayed if decays else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, lr=settings.lr, betas=settings.betas, fused=True)


def clip_gradients(module: nn.Module, settings: Optim) -> float:
    """Scale gradients down to ``clip_norm`` where theirs is larger; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
    return _number(norm)


def _number(norm: Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def learning_rate(step: int, steps: int, settings: Optim) -> float:
    """Linear warm-up, then a cosine from the peak to ``final`` times the peak.

    >>> [round(learning_rate(s, 10, Optim(lr=1.0, warmup=0.2)), 3) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    warm = max(1, math.ceil(settings.warmup * steps)) if settings.warmup else 0
    if step < warm:
        return settings.lr * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return settings.lr * (
        settings.final + (1 - settings.final) * 0.5 * (1 + math.cos(math.pi * share))
    )
