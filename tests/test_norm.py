"""RMSNorm with its backward written out: the same output to the bit, the gradients of autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from reground.model.load import load
from reground.model.norm import speed_up_norms


class Model(nn.Module):
    """Two norms, of rows and of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.heads = Qwen2RMSNorm(48), Qwen2RMSNorm(16)
        for norm in (self.rows, self.heads):
            nn.init.normal_(norm.weight, mean=1.0)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.heads(self.rows(states).unflatten(-1, (3, 16)))
        return out


def pair() -> tuple[Model, Model]:
    """As transformers has it, and sped up."""
    torch.manual_seed(3)
    plain = Model()
    fast = copy.deepcopy(plain)
    speed_up_norms(fast)
    assert type(fast.rows) is not type(plain.rows)
    assert isinstance(fast.rows, Qwen2RMSNorm)
    return plain, fast


@pytest.mark.parametrize("shape", [(48,), (7, 48), (2, 3, 5, 48)])
def test_output_is_the_same_to_the_bit_and_gradients_are_autograds(shape: tuple[int, ...]) -> None:
    plain, fast = pair()
    states = 10 * torch.randn(shape)
    found = []
    for model in (plain, copy.deepcopy(fast)):
        own = states.clone().requires_grad_()
        out = model(own)
        out.sin().sum().backward()
        found.append([out, own.grad, *(parameter.grad for parameter in model.parameters())])
    (expected_out, *expected), (out, *gradients) = found
    assert torch.equal(out, expected_out)
    for one, other in zip(gradients, expected, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()
    with torch.inference_mode():
        assert torch.equal(fast(states), expected_out)


def test_other_precisions_and_frozen_weights() -> None:
    plain, fast = pair()
    half = torch.randn(5, 48, dtype=torch.bfloat16, requires_grad=True)
    assert torch.equal(fast.rows(half), plain.rows(half))
    fast.requires_grad_(False)
    states = torch.randn(5, 48, requires_grad=True)
    fast(states).sum().backward()
    assert states.grad is not None
    assert all(parameter.grad is None for parameter in fast.parameters())


def test_every_norm_of_a_loaded_model_is_sped_up() -> None:
    model = load("tiny").model
    norms = [own for own in model.modules() if type(own).__name__.endswith("RMSNorm")]
    assert norms
    assert all(type(own).forward.__module__ == "reground.model.norm" for own in norms)
