"""Rows of G suffixes after one prompt: what sees what, and two ways to compute it exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """How a row of P + G * C tokens divides.

    ``prompt_mask`` [B, P] is True on real prompt tokens (pads are on the right).
    """

    prompt_mask: Tensor
    num_suffixes: int
    _blocks: dict[int, BlockMask] = field(default_factory=dict, compare=False, repr=False)

    @property
    def num_prompt(self) -> int:
        """P, the padded length of the prompt."""
        return self.prompt_mask.shape[1]

    def sees(self, query: int, key: int, suffix_length: int) -> bool:
        """Whether the token at ``query`` attends to the token at ``key`` (the rule itself).

        >>> layout = GroupLayout(torch.ones(1, 2, dtype=torch.bool), 2)
        >>> ["".join(".x"[layout.sees(q, k, 2)] for k in range(6)) for q in range(6)]
        ['x.....', 'xx....', 'xxx...', 'xxxx..', 'xx..x.', 'xx..xx']
        """
        if key < self.num_prompt or query < self.num_prompt:
            return key <= query
        same = (query - self.num_prompt) // suffix_length == (
            key - self.num_prompt
        ) // suffix_length
        return same and key <= query

    def blocks(self, length: int) -> BlockMask:
        """``sees`` and the prompt's pads as a mask for rows of ``length`` tokens; made once."""
        if length not in self._blocks:
            mask = self.prompt_mask
            # As tensors: a compiled kernel would be compiled anew for every other number.
            num_prompt = torch.tensor(self.num_prompt, device=mask.device)
            each = torch.tensor(
                max((length - self.num_prompt) // self.num_suffixes, 1), device=mask.device
            )

            def visible(row: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
                in_prompt = key < num_prompt
                real = mask[row, torch.minimum(key, num_prompt - 1)]
                same = (query - num_prompt) // each == (key - num_prompt) // each
                # A pad of the prompt sees itself: what attends to nothing would be not a number.
                return (key <= query) & torch.where(in_prompt, real | (query == key), same)

            self._blocks[length] = create_block_mask(
                visible, len(mask), None, length, length, device=str(mask.device)
            )
        return self._blocks[length]


Kernel = Callable[[Tensor, Tensor, Tensor, GroupLayout, float], Tensor]


def by_parts(
    query: Tensor, key: Tensor, value: Tensor, layout: GroupLayout, scale: float
) -> Tensor:
    """Two SDPA calls, the prompt and the suffixes: no work on what is masked out between suffixes.

    [B, H, P + G * C, D] in and out. The prompt's keys are copied for each suffix.
    """
    num = layout.num_prompt
    out = _sdpa(query[:, :, :num], key[:, :, :num], value[:, :, :num], scale)
    if query.shape[2] == num:
        return out
    return torch.cat([out, _suffixes(query, key, value, layout, scale)], dim=2)


def by_blocks(
    query: Tensor, key: Tensor, value: Tensor, layout: GroupLayout, scale: float
) -> Tensor:
    """One FlexAttention call over blocks of the mask: nothing is copied, empty blocks are skipped.

    [B, H, P + G * C, D] in and out, equal to :func:`by_parts`.
    """
    out: Tensor = _compiled(query.device.type)(
        query,
        key,
        value,
        block_mask=layout.blocks(query.shape[2]),
        scale=scale,
        enable_gqa=key.shape[1] != query.shape[1],
    )
    return out


# By the kind of device; by_parts for any other.
BEST: dict[str, Kernel] = {"cuda": by_blocks}


def kernel(device: torch.device) -> Kernel:
    """What runs whole rows best: FlexAttention, which is compiled, on CUDA, and SDPA elsewhere."""
    return BEST.get(device.type, by_parts)


@cache
def _compiled(device: str) -> Any:
    """FlexAttention is fast where it is compiled; uncompiled it is its own dense reference."""
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


def _suffixes(
    query: Tensor, key: Tensor, value: Tensor, layout: GroupLayout, scale: float
) -> Tensor:
    """Every suffix against the prompt and itself: G independent rows that share prompt keys."""
    batch, heads, _, dim = query.shape
    count, start = layout.num_suffixes, layout.num_prompt
    length = (query.shape[2] - start) // count

    def rows(states: Tensor, *, with_prompt: bool) -> Tensor:
        own = states[:, :, start:].unflatten(2, (count, length)).transpose(1, 2)
        if with_prompt:
            shared = states[:, None, :, :start].expand(-1, count, -1, -1, -1)
            own = torch.cat([shared, own], dim=3)
        flat: Tensor = own.flatten(0, 1)
        return flat

    causal = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
    visible = layout.prompt_mask[:, None, None, :].expand(-1, count, length, -1)
    mask = torch.cat([visible, causal.expand(batch, count, -1, -1)], dim=3).flatten(0, 1)[:, None]
    out: Tensor = _sdpa(
        rows(query, with_prompt=False),
        rows(key, with_prompt=True),
        rows(value, with_prompt=True),
        scale,
        mask,
    )
    return out.view(batch, count, heads, length, dim).transpose(1, 2).flatten(2, 3)


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None = None
) -> Tensor:
    grouped = key.shape[1] != query.shape[1]
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )
