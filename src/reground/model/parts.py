"""Which weights of a model are trained: full, LoRA or frozen, for vision, merger and language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from reground.errors import ConfigError

Part = Literal["vision", "merger", "language"]
Training = Literal["full", "lora", "frozen"]


def part_of(name: str) -> Part:
    """Which part of the model a parameter or module belongs to.

    >>> part_of("model.visual.merger.linear_fc1.weight"), part_of("lm_head.weight")
    ('merger', 'language')
    """
    if "visual." not in name:
        return "language"
    return "merger" if "merger" in name else "vision"


def set_training(model: Any, how: Mapping[Part, Training], *, rank: int, alpha: int) -> None:
    """Freeze, open, or put LoRA adapters beside the linear layers of each part, in place.

    Raises ``ConfigError`` when nothing is left to train.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in linear if name != "lm_head" and how[part_of(name)] == "lora"]
    if targets:
        from peft import LoraConfig, inject_adapter_in_model  # a second of import, rarely needed

        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or how[part_of(name)] == "full")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "tuning: every part is frozen; set vision, merger or language to full or lora"
        )


def has_adapters(model: nn.Module) -> bool:
    """Whether LoRA adapters stand beside any weights."""
    return any(True for _ in _adapted(model))


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The starting weights, as long as the context is open."""
    layers = list(_adapted(model))
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights by their original names, adapters added in; the model itself stays as it is.

    Of a sharded model the gathered weights, on the CPU; every rank must call.
    """
    adapted = {
        f"{name}.base_layer.weight": layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }
    return {
        name.replace(".base_layer.", "."): _merged(weight, adapted.get(name))
        for name, weight in model.state_dict(keep_vars=True).items()
        if "lora_" not in name
    }


def _merged(weight: Tensor, layer: Any) -> Tensor:
    value = _gathered(weight)
    for adapter in layer.active_adapters if layer else ():
        down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        value = value + _gathered(up) @ _gathered(down) * layer.scaling[adapter]
    return value.cpu() if isinstance(weight, DTensor) else value


def _gathered(weight: Tensor) -> Tensor:
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach()


def _adapted(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if hasattr(module, "lora_A"))
