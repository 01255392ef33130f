"""The optimiser and its schedule."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from reground.training.settings import Optim


def optimizer(module: nn.Module, settings: Optim) -> torch.optim.AdamW:
    """AdamW over what is trained; vectors (norms, biases) and embeddings do not decay."""
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decayed = [p for name, p in trained if p.ndim >= 2 and "embed" not in name]
    kept = [p for name, p in trained if not (p.ndim >= 2 and "embed" not in name)]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=settings.betas,
        fused=True,
    )


def clip_gradients(module: nn.Module, settings: Optim) -> float:
    """Scale gradients down to ``clip_norm`` where theirs is larger; returns the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(module.parameters(), settings.clip_norm)
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
