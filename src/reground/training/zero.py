"""Optimiser states, gradients (ZeRO-2) and weights (ZeRO-3) spread over all ranks by DeepSpeed.

DeepSpeed is asked directly, not through Accelerate, so that what a GPU runs is what a CPU tests.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from reground.errors import ConfigError
from reground.model.spread import whole
from reground.training.settings import Optim

Stage = Literal[2, 3]
_MOMENTS = ("exp_avg", "exp_avg_sq")


def check_installed() -> None:
    """Raise ``ConfigError`` where DeepSpeed is missing."""
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "sharding is zero2 or zero3 and DeepSpeed is not installed; pip install "
            "'reground[deepspeed]', or set sharding: full, which spreads the same without it"
        )


class ZeroUpdates:
    """Updates by a DeepSpeed engine. Weights and moments that there are already are kept."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Optim,
        accelerator: Accelerator,
        *,
        stage: Stage,
    ) -> None:
        names = {weight: name for name, weight in module.named_parameters()}
        self._stage, self._optimizer, self._accelerator = stage, optimizer, accelerator
        self._groups = [[names[each] for each in g["params"]] for g in optimizer.param_groups]
        self._trained = {names[each]: each for g in optimizer.param_groups for each in g["params"]}
        before = {
            name: {"weight": weight.detach().clone().cpu()} | dict(optimizer.state.pop(weight, {}))
            for name, weight in self._trained.items()
        }
        self.module = _engine(module, stage, optimizer, settings.clip_norm)
        self._take_over(before)

    @contextmanager
    def part(self, *, last: bool) -> Iterator[None]:
        """Around a micro-batch, each of which is reduced: ranks need as many."""
        self.module.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the loss."""
        # DeepSpeed averages over ranks, we sum.
        self.module.backward(loss * self._accelerator.num_processes)

    def step(self, rate: float) -> float:
        """Clip and step; DeepSpeed leaves a step out whose norm is not finite."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self.module.step()
        return float(self.module.get_global_grad_norm())

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights and optimiser states, as ``checkpoint.restore`` takes them."""
        from deepspeed.utils import safe_get_full_optimizer_state

        weights = {
            name: self._kept(whole(each))
            for name, each in self.module.module.state_dict(keep_vars=True).items()
        }
        step = next(iter(self._optimizer.state.values()))["step"].cpu()
        state = {
            name: {"step": step.clone()}
            | {key: self._kept(safe_get_full_optimizer_state(each, key)) for key in _MOMENTS}
            for name, each in self._trained.items()
        }
        groups = [
            group | {"params": names}
            for group, names in zip(self._optimizer.param_groups, self._groups, strict=True)
        ]
        return weights, {"state": state, "param_groups": groups}

    def _kept(self, value: Tensor) -> Tensor:
        """On the CPU of the first rank, nothing elsewhere."""
        return value.cpu() if self._accelerator.is_main_process else value.new_empty(0)

    def _take_over(self, before: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Give the parts of this rank the values that the whole weights and moments had."""
        zero = self.module.optimizer
        flat = (
            zero.fp32_partitioned_groups_flat
            if self._stage == 3
            else zero.single_partition_of_fp32_groups
        )
        step = next(iter(before.values())).get("step", torch.tensor(0.0))
        for each in flat:
            self._optimizer.state[each] = {"step": step.to(each.device, copy=True)} | {
                key: torch.zeros_like(each.detach()) for key in _MOMENTS
            }
        if self._stage == 2:  # by itself it would do so after the first group's step: too soon
            zero._lazy_init_hp_params_optimizer_state()
        for name, weight in self._trained.items():
            for key in before[name].keys() - {"step"}:
                _set(weight, before[name][key], None if key == "weight" else key)


def spread_frozen(module: nn.Module, device: torch.device, *, stage: Stage) -> None:
    """Place what is run beside the trained weights; ``stage`` 3 spreads it, in place."""
    if stage == 3:
        _engine(module, stage)
    else:
        module.to(device, _dtype())


def _dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def _engine(
    module: Any,
    stage: Stage,
    optimizer: torch.optim.Optimizer | None = None,
    clip_norm: float = 0.0,
) -> Any:
    """DeepSpeed around the module, which has ``model`` in it."""
    import deepspeed

    hidden = module.model.config.get_text_config().hidden_size
    config = {
        "train_micro_batch_size_per_gpu": 1,  # of what DeepSpeed takes for samples
        "steps_per_print": None,
        "bf16": {"enabled": _dtype() is torch.bfloat16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "gradient_clipping": clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": stage,
            "stage3_param_persistence_threshold": 10 * hidden,  # norms and biases stay whole
        },
    }
    vision = module.model.model.visual
    if stage == 3:
        deepspeed.zero.register_external_parameter(module, module.model.lm_head.weight)
        if not any(each.requires_grad for each in vision.parameters()):
            _hide_vision(module.model.model)
    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=config, dist_init_required=False
    )
    vision.to(engine.device)
    # Ranks must call as many modules that fetch weights, and have not as many chunks of positions.
    _unhook(module.model.lm_head)
    return engine


def _unhook(head: nn.Module) -> None:
    """Let it fetch nothing: its weight comes with the outermost module."""
    for hooks in (
        head._forward_pre_hooks,
        head._forward_hooks,
        head._backward_pre_hooks,
        head._backward_hooks,
    ):
        hooks.clear()


def _hide_vision(parts: nn.Module) -> None:
    """Keep a frozen vision part whole: what it gives may be kept, so ranks do not run it together.

    DeepSpeed spreads every module that it finds; this one stays an attribute, and in the state.
    """
    vision: Any = parts._modules.pop("visual")
    vars(parts)["visual"] = vision
    parts.register_state_dict_post_hook(
        lambda _, state, prefix, __: state.update(vision.state_dict(prefix=f"{prefix}visual."))
    )


def _set(weight: Any, value: Tensor, key: str | None) -> None:
    """Set this rank's part of the exact weight (no ``key``) or of a moment."""
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.flatten()
    if hasattr(weight, "ds_tensor"):
        size, rank = weight.ds_tensor.numel(), torch.distributed.get_rank()
        value = F.pad(value, (0, size * torch.distributed.get_world_size() - len(value)))
        value = value[size * rank : size * (rank + 1)]
        if key is None:
            safe_set_local_fp32_param(weight, value)
        else:
            safe_set_local_optimizer_state(weight, value, key)
    elif key is None:
        safe_set_full_fp32_param(weight, value)
    else:
        safe_set_full_optimizer_state(weight, value, key)
