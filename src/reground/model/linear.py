"""Linear layers on AMD processors: float32 products by oneDNN, twice as fast as MKL's there.

MKL uses AVX-512 on Intel's processors alone. PyTorch's own oneDNN uses it on both, but multiplies
float32 with it only where its precision may be lowered; without AMX, which AMD's processors do not
have, it is not lowered (measured at the first use, and not used where it is).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROUNDING = 1e-5  # of float32 sums of some hundred terms; bfloat16 would give 1e-2
_CPUINFO = Path("/proc/cpuinfo")
_LOCK = Lock()


def speed_up(model: Any) -> None:
    """Let the model's linear layers use oneDNN where that is faster and as exact."""
    if model.device.type != "cpu" or not _helps():
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDNNLinear


class OneDNNLinear(nn.Linear):
    """``nn.Linear`` whose products, forward and backward, are oneDNN's in float32."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        if input.dtype is not torch.float32 or torch.is_autocast_enabled("cpu"):
            return F.linear(input, self.weight, self.bias)
        if not torch.is_grad_enabled():
            with _onednn():
                return F.linear(input, self.weight, self.bias)
        out: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


class _Product(torch.autograd.Function):
    """``F.linear``; attention's many small products, in whose midst it runs, stay with MKL."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        with _onednn():
            return F.linear(input, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias = ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        with _onednn():
            return (
                grad @ weight if of_input else None,
                rows.t() @ input.reshape(-1, input.shape[-1]) if of_weight else None,
                rows.sum(0) if of_bias else None,
            )


@contextmanager
def _onednn() -> Iterator[None]:
    """One thread at a time: the precision is the process's, and each restores what it found."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _LOCK:
        before = matmul.fp32_precision
        matmul.fp32_precision = "bf16"
        try:
            yield
        finally:
            matmul.fp32_precision = before


@cache
def _helps() -> bool:
    """Whether this is a processor of AMD with AVX-512, and oneDNN keeps float32's precision."""
    is_amd = _CPUINFO.is_file() and "AuthenticAMD" in _CPUINFO.read_text()
    if not (is_amd and torch.backends.cpu.get_cpu_capability() == "AVX512"):
        return False
    one, other = torch.linspace(-1, 1, 2 * 256 * 256).view(2, 256, 256).sin()
    with _onednn():
        found = one @ other
    exact = one.double() @ other.double()
    return float((found - exact).abs().max() / exact.abs().max()) < _ROUNDING
