"""Linear layers by oneDNN: the same numbers and gradients as PyTorch's own, and no trace left."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from reground.model import linear
from reground.model.linear import OneDNNLinear, speed_up

exact = pytest.mark.skipif(not linear._helps(), reason="needs an AMD processor with AVX-512")


class Model(nn.Module):
    """What ``speed_up`` is given: layers within layers, and a device."""

    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(48, 96, bias=bias), nn.GELU())
        self.last = nn.Linear(96, 32, bias=bias)
        self.device = torch.device("cpu")

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.inner(states))
        return out


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.abs().max())


@exact
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(48,), (7, 48), (2, 3, 5, 48)])
def test_outputs_and_gradients_are_those_of_nn_linear(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(len(shape))
    plain = Model(bias=bias)
    fast = copy.deepcopy(plain)
    speed_up(fast)
    assert type(fast.last) is type(fast.inner[0]) is OneDNNLinear
    states = torch.randn(shape)
    outs = []
    for model in (plain, copy.deepcopy(fast)):
        own = states.clone().requires_grad_()
        out = model(own)
        out.square().sum().backward()
        gradients = [parameter.grad for parameter in model.parameters()]
        outs.append([out, own.grad, *gradients])
    for expected, found in zip(*outs, strict=True):
        assert relative_error(found, expected) < 1e-6
    with torch.inference_mode():
        assert relative_error(fast(states), plain(states)) < 1e-6


@exact
def test_frozen_weights_get_no_gradient_and_other_precisions_are_pytorchs_own() -> None:
    model = Model(bias=True)
    speed_up(model)
    model.last.weight.requires_grad_(False)
    model(torch.randn(4, 48)).sum().backward()
    assert model.last.weight.grad is None and model.last.bias.grad is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(4, 48)).dtype is torch.bfloat16
    assert model.double()(torch.randn(4, 48, dtype=torch.float64)).dtype is torch.float64


@exact
def test_the_precision_of_others_is_left_alone() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    model = Model(bias=False)
    speed_up(model)
    model(torch.randn(4, 48)).sum().backward()
    with pytest.raises(RuntimeError, match="shape"):
        model(torch.randn(4, 47))
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_where_it_does_not_help_or_runs_elsewhere_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model(bias=False)
    model.device = torch.device("meta")
    speed_up(model)
    assert type(model.last) is nn.Linear
    monkeypatch.setattr(linear, "_helps", lambda: False)
    model.device = torch.device("cpu")
    speed_up(model)
    assert type(model.last) is nn.Linear


@exact
def test_threads_leave_the_precision_alone_too() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    model = Model(bias=False)
    speed_up(model)

    def work(_: int) -> None:
        for _ in range(300):
            model(torch.randn(4, 48)).sum().backward()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert torch.backends.mkldnn.matmul.fp32_precision == before
