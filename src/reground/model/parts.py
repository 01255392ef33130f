"""Which weights of a model are trained: full, LoRA or frozen, for vision, merger and language."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from reground.errors import ConfigError
from reground.model.adapter import Part, adapter_of
from reground.model.runtime import runtime_of

Training = Literal["full", "lora", "frozen"]


def set_training(model: Any, how: Mapping[Part, Training], *, rank: int, alpha: int) -> None:
    """Freeze, open, or add LoRA adapters to the linear layers of each part, in place.

    Raises ``ConfigError`` when nothing is left to train.
    """
    part_of = adapter_of(model).part_of
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    targets = [name for name in linear if name != "lm_head" and how[part_of(name)] == "lora"]
    if targets:
        from peft import LoraConfig, inject_adapter_in_model  # a second of import, rarely needed

        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or how[part_of(name)] == "full")
        if parameter.requires_grad:  # an update is smaller than what bfloat16 can add
            parameter.data = parameter.data.float()
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "tuning: every part is frozen; set vision, merger or language to full or lora"
        )


def has_adapters(model: nn.Module) -> bool:
    """Whether any weights have LoRA adapters."""
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


def full_state(model: nn.Module, *, keep: bool = True) -> dict[str, Tensor]:
    """What :func:`merged_state` gives; nothing where it is not to be kept, but ranks still meet."""
    return {name: value for name, value in merged_state(model) if keep}


@torch.no_grad()
def merged_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The weights by their original names, one by one, adapters added in; the model is unchanged.

    Of a sharded model the gathered weights, on the CPU; every rank must take all of them.
    """
    adapted = {
        f"{name}.base_layer.weight": layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }
    for name, weight in _without_adapters(model):
        yield name.replace(".base_layer.", "."), _merged(weight, adapted.get(name))


def described_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What :func:`merged_state` gives, without values (on "meta"), and without meeting ranks."""
    for name, weight in _without_adapters(model):
        described = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
        yield name.replace(".base_layer.", "."), described


def _without_adapters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    every = model.state_dict(keep_vars=True).items()
    return ((name, weight) for name, weight in every if "lora_" not in name)


def reference_copy(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """The module as it is now, not to be trained: trained weights are copied, the rest is shared.

    Weights of linear layers are copied in ``dtype``, in which autocast multiplies them (None: their
    own): the copy computes the same to the bit, in half the memory.
    """
    linear = {id(each.weight) for each in module.modules() if isinstance(each, nn.Linear)}
    linear -= {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding)}

    def converted(weight: Tensor) -> Tensor:
        if not weight.requires_grad:
            return weight
        own = weight.dtype if dtype is None or id(weight) not in linear else dtype
        return weight.detach().to(own, copy=True)

    return _copied(module, converted)


def replica(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy on ``device`` that computes as the model does when FSDP gathers its weights.

    They are gathered in the dtype in which they are multiplied, and kept in it here.
    """
    dtype = runtime_of(model).autocast

    def converted(weight: Tensor) -> Tensor:
        return weight.detach().to(device, dtype or weight.dtype, copy=True)

    return _copied(model, converted).to(device)  # buffers as well


def _copied(module: nn.Module, converted: Callable[[Tensor], Tensor]) -> nn.Module:
    memo: dict[int, Any] = {
        id(weight): nn.Parameter(converted(weight), requires_grad=False)
        for weight in module.parameters()
    }
    return copy.deepcopy(module, memo)


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
