"""Where a model runs and in what precision: decided here, once, for whoever loads one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from reground.errors import ConfigError

DType = Literal["float32", "bfloat16", "float16"]
BATCH_TOKENS = 65_536
_CPU = torch.device("cpu")
_ATTRIBUTE = "reground_runtime"  # of a model that was loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Device and precision of a model, and how much of it is computed at a time.

    ``dtype`` is that of the weights, None for the checkpoint's own. Where ``autocast`` is set,
    matrices are multiplied in it, whatever the weights are kept in. ``batch_tokens`` bounds what is
    decoded together: prompts and completions, padding included.
    """

    device: torch.device = _CPU
    dtype: torch.dtype | None = torch.float32
    autocast: torch.dtype | None = None
    batch_tokens: int = BATCH_TOKENS

    @classmethod
    def resolve(
        cls,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> Runtime:
        """The GPU where there is one; there the checkpoint's dtype, and float32 on a CPU.

        Raises ``ConfigError`` for a device that is not there and for a dtype of another name.
        """
        place = _device(device)
        if dtype is not None and dtype not in get_args(DType):
            raise ConfigError(f"dtype {dtype!r}: expected one of {', '.join(get_args(DType))}")
        usual = torch.float32 if place.type == "cpu" else None
        own = usual if dtype is None else getattr(torch, dtype)
        return cls(device=place, dtype=own, batch_tokens=batch_tokens)

    def for_training(self) -> Runtime:
        """Weights to be trained are kept in float32 and multiplied in bfloat16 on a GPU.

        An update is smaller than what bfloat16 can add to a weight. In float32 alone where that is
        the dtype asked for.
        """
        if self.dtype is torch.float32:
            return self
        return replace(self, dtype=None, autocast=self.dtype or torch.bfloat16)

    def of(self, model: Any) -> Any:
        """The model, which computes so from now on."""
        setattr(model, _ATTRIBUTE, self)
        return model


def runtime_of(model: Any) -> Runtime:
    """The runtime that a model was loaded with."""
    found: Runtime = getattr(model, _ATTRIBUTE)
    return found


def place_of(model: Any) -> dict[str, str]:
    """``device`` and ``dtype`` of the model, as a run's provenance names them."""
    return named_place(model.device, runtime_of(model).autocast or model.dtype)


def named_place(device: torch.device, dtype: torch.dtype) -> dict[str, str]:
    """The names of a device and a dtype."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "dtype": str(dtype).removeprefix("torch."),
    }


def precision(model: Any) -> AbstractContextManager[Any]:
    """Around each forward, whoever makes it: rollout, reference and update compute alike.

    Weights that are cast are cast once within the outermost of these contexts.
    """
    dtype = runtime_of(model).autocast
    return torch.autocast(model.device.type, dtype) if dtype is not None else nullcontext()


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            f"device {name!r}: expected cpu, cuda or cuda:N", help="no-such-device"
        ) from None
    if not _is_there(device):
        raise ConfigError(
            f"device {name!r}: this machine has no such device; leave it out for the GPU where "
            "there is one and the CPU elsewhere",
            help="no-such-device",
        )
    return device


def _is_there(device: torch.device) -> bool:
    if device.type in ("cpu", "meta"):
        return True
    kind = torch.accelerator.current_accelerator(check_available=True)
    return (
        kind is not None
        and kind.type == device.type
        and (device.index or 0) < torch.accelerator.device_count()
    )
