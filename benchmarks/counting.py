"""What an update costs by counting: FLOPs by part of a Qwen-VL, and the memory it needs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

# Modules by their names. Of larger ones torch tells what belongs to them in the backward pass only
# where tensors are given by position.
_LAYERS, _HEAD = r"\.language_model\.layers\.\d+$", r"\.lm_head$"


def counted(module: nn.Module, update: Callable[[], object]) -> dict[str, Any]:
    """GFLOPs of an update by part of the model; MiB of weights' companions and saved tensors.

    The companions are the gradient and AdamW's two moments of each trained weight, in float32.
    Tensors are saved by autograd for the backward pass; those that share memory count once.
    """
    owned = {own.untyped_storage().data_ptr() for own in module.parameters()}
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    flops = FlopCounterMode(display=False, custom_mapping=ATTENTION)
    with flops, saved_tensors_hooks(note, lambda tensor: tensor):
        update()
    trained = sum(own.numel() for own in module.parameters() if own.requires_grad)
    return {
        "gflop": by_part(flops),
        "counted MiB": round((3 * 4 * trained + sum(saved.values())) / 2**20, 1),
    }


def by_part(flops: FlopCounterMode) -> dict[str, float]:
    """GFLOPs of vision (its attention included), linear layers, attention and lm_head."""
    counts = flops.get_flop_counts()
    layers = [own for name, own in counts.items() if re.search(_LAYERS, name)]
    attention = sum(n for own in layers for kind, n in own.items() if "attention" in str(kind))
    language = sum(sum(own.values()) for own in layers)
    head = sum(sum(own.values()) for name, own in counts.items() if re.search(_HEAD, name))
    totals = {
        "vision": flops.get_total_flops() - language - head,
        "linear": language - attention,
        "attention": attention,
        "lm_head": head,
    }
    return {part: round(total / 1e9, 4) for part, total in totals.items()}


def _forward(
    query: Sequence[int], key: Sequence[int], value: object, *rest: Any, **_: object
) -> int:
    causal = len(rest) > 1 and rest[1]
    return 2 * _product(query, key, causal=causal)


def _backward(
    grad: object, query: Sequence[int], key: Sequence[int], *rest: Any, **_: object
) -> int:
    return 5 * _product(query, key, causal=rest[4])  # the scores are computed again


def _product(query: Sequence[int], key: Sequence[int], *, causal: bool) -> int:
    """FLOPs of queries times keys, of shapes [B, H, L, D]; of weights times values as well."""
    batch, heads, length, dim = query
    return 2 * batch * heads * dim * _scores(length, key[2], causal=causal)


def _scores(queries: int, keys: int, *, causal: bool) -> int:
    """Scores that the kernel computes: what a mask hides as well, but for whole blocks of keys.

    Blocks are those of ATen/native/cpu/FlashAttentionKernel.cpp, where ``is_causal`` leaves out
    blocks of 512 keys that no query of a block sees.

    >>> _scores(512, 512, causal=True) / 512**2, _scores(1024, 1024, causal=True) / 1024**2
    (1.0, 0.75)
    """
    if not causal:
        return queries * keys
    rows = 256 if queries >= 768 else 64 if queries >= 192 else 32
    ends = (min((query // rows + 1) * rows, queries) for query in range(queries))
    return sum(min(math.ceil(end / 512) * 512, keys) for end in ends)


# torch's counter knows the attention of GPUs alone.
ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
