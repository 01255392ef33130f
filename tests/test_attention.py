"""Attention of groups that share a prompt: who sees whom, all at once and token by token."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention.flex_attention import flex_attention

from reground.model import sharing
from reground.model.attention import SharedCache, group_shared_attention
from reground.model.sharing import GroupLayout, by_blocks, by_parts, kernel

DIM = 8


class Layer(nn.Module):
    """What the attention asks of a model's attention module."""

    layer_idx = 3
    is_causal = True
    num_key_value_groups = 2


class States(NamedTuple):
    """Query [B, 2K, L, D], key and value [B, K, L, D]."""

    query: Tensor
    key: Tensor
    value: Tensor

    def take(self, places: Tensor) -> States:
        return States(*(part[:, :, places] for part in self))


def make_states(batch: int, length: int, *, kv_heads: int = 2, seed: int = 0) -> States:
    noise = torch.Generator().manual_seed(seed)

    def draw(heads: int) -> Tensor:
        return torch.randn(batch, heads, length, DIM, generator=noise)

    return States(draw(2 * kv_heads), draw(kv_heads), draw(kv_heads))


def make_layout(prompt_lengths: list[int], num_suffixes: int) -> GroupLayout:
    places = torch.arange(max(prompt_lengths))
    return GroupLayout(places < torch.tensor(prompt_lengths)[:, None], num_suffixes)


def is_real(layout: GroupLayout, suffix_length: int) -> Tensor:
    """[B, L], False on the pads behind short prompts."""
    own = torch.ones(len(layout.prompt_mask), layout.num_suffixes * suffix_length, dtype=torch.bool)
    return torch.cat([layout.prompt_mask, own], dim=1)


def rule(layout: GroupLayout, suffix_length: int) -> Tensor:
    """``GroupLayout.sees`` as a table [L, L]."""
    places = range(layout.num_prompt + layout.num_suffixes * suffix_length)
    return torch.tensor([[layout.sees(q, k, suffix_length) for k in places] for q in places])


def attend(states: States, layout: GroupLayout | None, cache: SharedCache | None = None) -> Tensor:
    return group_shared_attention(Layer(), *states, None, layout=layout, cache=cache)[0]


def by_the_rule(states: States, visible: Tensor) -> Tensor:
    """Attention written out: softmax over the keys that ``visible`` [B, L, L] allows."""
    key, value = (part.repeat_interleave(2, dim=1) for part in (states.key, states.value))
    scores = states.query @ key.transpose(2, 3) * DIM**-0.5
    weights = scores.masked_fill(~visible[:, None], float("-inf")).softmax(-1)
    out: Tensor = (weights @ value).transpose(1, 2)
    return out


layouts = st.tuples(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([1, 3]),
)


@settings(max_examples=40)
@given(layouts)
def test_attention_follows_the_rule(case: tuple[list[int], int, int, int]) -> None:
    prompt_lengths, num_suffixes, suffix_length, kv_heads = case
    layout = make_layout(prompt_lengths, num_suffixes)
    real = is_real(layout, suffix_length)
    states = make_states(*real.shape, kv_heads=kv_heads)
    visible = rule(layout, suffix_length) & real[:, None, :]
    torch.testing.assert_close(attend(states, layout)[real], by_the_rule(states, visible)[real])


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@settings(max_examples=20, deadline=None)
@given(layouts)
def test_blocks_and_parts_are_the_same_attention(case: tuple[list[int], int, int, int]) -> None:
    prompt_lengths, num_suffixes, suffix_length, kv_heads = case
    layout = make_layout(prompt_lengths, num_suffixes)
    real = is_real(layout, suffix_length)
    states = make_states(*real.shape, kv_heads=kv_heads)
    parts, blocks = (
        run(*states, layout, DIM**-0.5).transpose(1, 2) for run in (by_parts, by_blocks)
    )
    assert blocks.isfinite().all()
    torch.testing.assert_close(blocks[real], parts[real])


def test_blocks_of_other_sizes_are_not_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as for a GPU but for the last step; more than eight graphs would not be kept."""
    compiled = torch.compile(flex_attention, dynamic=True, backend="aot_eager")
    monkeypatch.setattr(sharing, "_compiled", lambda device: compiled)
    graphs = counters["stats"]["unique_graphs"]
    for prompt, num_suffixes, suffix_length in ((40, 3, 9), (57, 3, 12), (33, 2, 30), (80, 4, 7)):
        layout = make_layout([prompt, prompt - 5], num_suffixes)
        real = is_real(layout, suffix_length)
        states = make_states(*real.shape)
        with torch.no_grad():
            parts, blocks = (
                run(*states, layout, DIM**-0.5).transpose(1, 2) for run in (by_parts, by_blocks)
            )
        torch.testing.assert_close(blocks[real], parts[real])
    assert counters["stats"]["unique_graphs"] - graphs == 1


@pytest.mark.parametrize(("device", "best"), [("cuda", by_blocks), ("cpu", by_parts)])
def test_the_device_chooses_the_kernel(device: str, best: object) -> None:
    assert kernel(torch.device(device)) is best


@pytest.mark.parametrize("key", range(3 + 2 * 3))
def test_a_changed_token_reaches_those_who_see_it_and_nobody_else(key: int) -> None:
    layout, suffix_length = make_layout([3, 2], 2), 3
    real = is_real(layout, suffix_length)
    states = make_states(*real.shape)
    before = attend(states, layout)
    states.key[:, :, key] += 1.0
    states.value[:, :, key] += 1.0
    changed = (attend(states, layout) - before).abs().amax(dim=(2, 3)) > 1e-6
    expected = rule(layout, suffix_length)[:, key] & real[:, key, None]
    assert torch.equal(changed[real], expected[real])


def test_a_forward_without_a_layout_is_causal_attention() -> None:
    states = make_states(2, 7)
    causal = torch.ones(2, 7, 7, dtype=torch.bool).tril()
    torch.testing.assert_close(attend(states, None), by_the_rule(states, causal))


@pytest.mark.parametrize(
    ("prompt_lengths", "num_suffixes", "suffix_length"),
    [([4], 1, 3), ([5, 2, 3], 3, 4), ([1, 1], 2, 1)],
)
def test_token_by_token_equals_all_at_once(
    prompt_lengths: list[int], num_suffixes: int, suffix_length: int
) -> None:
    layout = make_layout(prompt_lengths, num_suffixes)
    real = is_real(layout, suffix_length)
    states = make_states(*real.shape)
    whole = attend(states, layout)
    cache = SharedCache(capacity=suffix_length)
    prompt = attend(states.take(torch.arange(layout.num_prompt)), layout, cache)
    torch.testing.assert_close(
        prompt[layout.prompt_mask], whole[:, : layout.num_prompt][layout.prompt_mask]
    )
    for cache.length in range(suffix_length):
        places = _step(layout, suffix_length, cache.length)
        torch.testing.assert_close(attend(states.take(places), layout, cache), whole[:, places])


def test_groups_that_go_on_keep_their_own_keys() -> None:
    layout, suffix_length = make_layout([4, 2, 5], 2), 3
    states = make_states(*is_real(layout, suffix_length).shape)
    whole = attend(states, layout)
    cache = SharedCache(capacity=suffix_length)
    attend(states.take(torch.arange(layout.num_prompt)), layout, cache)
    cache.length = 0
    attend(states.take(_step(layout, suffix_length, 0)), layout, cache)
    rows = torch.tensor([2, 0])
    cache.keep(rows)
    cache.length = 1
    places = _step(layout, suffix_length, 1)
    kept = States(*(part[rows] for part in states.take(places)))
    out = attend(kept, GroupLayout(layout.prompt_mask[rows], 2), cache)
    torch.testing.assert_close(out, whole[rows][:, places])


def _step(layout: GroupLayout, suffix_length: int, step: int) -> Tensor:
    """Places of the token number ``step`` of every suffix."""
    return layout.num_prompt + torch.arange(layout.num_suffixes) * suffix_length + step
