"""FLOPs of a step of training, counted while a few steps run."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from reground.training.run import train
from reground.training.settings import TrainConfig

STEPS = 3


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad, query, key, value))


_CPU: dict[Any, Any] = {  # PyTorch counts attention on GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def counted(config: TrainConfig) -> int:
    """FLOPs of one step: products, convolutions and attention, of decoding and of the update."""
    short = replace(config, steps=STEPS, validation=None, track=())
    with tempfile.TemporaryDirectory() as folder:
        with FlopCounterMode(display=False, custom_mapping=_CPU) as counter:
            train(short, Path(folder) / "run")
        return int(counter.get_total_flops()) // STEPS
