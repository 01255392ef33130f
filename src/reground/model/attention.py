"""Attention in which the G rollouts of a group share one prompt.

A row holds one group: its prompt (right-padded to P), then G suffixes (each right-padded to C).
Prompt tokens attend causally to the prompt; a suffix token attends to the whole prompt and,
causally, to its own suffix; suffixes never see each other. With M-RoPE positions of every suffix
starting right after the prompt, this equals G separate rows, at the cost of one prompt.

Registered with transformers under ``NAME``, so that models need no change. A forward without a
layout is plain SDPA. ``model.sharing`` holds the rule and runs whole rows; here is what decoding
adds, which reads the prompt's keys from a cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from reground.model.sharing import GroupLayout, kernel

NAME = "group_shared"


@dataclass(slots=True)
class SharedCache:
    """Keys and values of decoding groups: the prompt once, and each suffix so far.

    Used with ``GroupLayout``: the first forward holds prompts only and fills ``prompt`` with keys
    [B, H, D, P] and values [B, H, P, D], as later products read them; each later one holds the next
    T tokens of every suffix, [B, G * T], written after ``length`` into ``suffix``. Suffixes of
    unlike lengths are on the right of the first of these forwards, with ``starts`` [B, G] pads on
    their left.
    """

    capacity: int
    length: int = 0
    prompt: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    suffix: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    starts: Tensor | None = None

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store [B, H, G, T, D] after ``length``; returns all tokens so far, [B, H, G, t, D]."""
        if layer not in self.suffix:
            shape = (*key.shape[:3], self.capacity, key.shape[4])
            self.suffix[layer] = (key.new_empty(shape), value.new_empty(shape))
        keys, values = self.suffix[layer]
        end = self.length + key.shape[3]
        keys[:, :, :, self.length : end], values[:, :, :, self.length : end] = key, value
        return keys[:, :, :, :end], values[:, :, :, :end]

    def visible(self, num_new: int, device: torch.device) -> Tensor | None:
        """Which tokens so far each of the T new ones sees, [B or 1, G or 1, T, t]; None: all."""
        if num_new == 1 and self.starts is None:
            return None
        key = torch.arange(self.length + num_new, device=device)
        seen = (key <= key[self.length :, None])[None, None]
        return seen if self.starts is None else seen & (key >= self.starts[..., None, None])

    def keep(self, rows: Tensor) -> None:
        """Drop every group but ``rows`` [B'] (indices into the batch)."""
        for store in (self.prompt, self.suffix):
            for layer, (key, value) in store.items():
                store[layer] = (key[rows], value[rows])
        if self.starts is not None:
            self.starts = self.starts[rows]


def group_shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: GroupLayout | None = None,
    cache: SharedCache | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function handed to transformers; [B, H, L, D] in, [B, L, H, D] out."""
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    query, key, value = _in_one_dtype(query, key, value)
    if cache is not None and module.layer_idx in cache.prompt:
        out = _go_on(module.layer_idx, query, key, value, layout, cache, scale)  # type: ignore[arg-type]
        return out.transpose(1, 2), None
    if cache is not None:
        cache.prompt[module.layer_idx] = (  # type: ignore[index]
            key.transpose(2, 3).contiguous(),
            value.contiguous(),
        )
    return kernel(query.device)(query, key, value, layout, scale).transpose(1, 2), None


def _in_one_dtype(*states: Tensor) -> list[Tensor]:
    """As autocast casts for SDPA: norms and rotations leave other dtypes than projections do."""
    kind = states[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(states)
    return [each.to(torch.get_autocast_dtype(kind)) for each in states]


def _go_on(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: GroupLayout,
    cache: SharedCache,
    scale: float,
) -> Tensor:
    """T new tokens for each suffix: the prompt's keys are read once for the whole group."""
    batch, heads, count, dim = query.shape
    kv_heads, num_new = key.shape[1], count // layout.num_suffixes
    by_suffix = (layout.num_suffixes, num_new)
    new = (key.unflatten(2, by_suffix), value.unflatten(2, by_suffix))
    own_key, own_value = cache.append(layer, *new)
    prompt_key, prompt_value = cache.prompt[layer]
    q = query.reshape(batch, kv_heads, -1, *by_suffix, dim) * scale  # [B, K, R, G, T, D]
    on_prompt = (q.flatten(2, 4) @ prompt_key).view(*q.shape[:5], -1)
    on_prompt.masked_fill_(~layout.prompt_mask[:, None, None, None, None, :], float("-inf"))
    grouped = q.transpose(2, 3).flatten(3, 4)  # [B, K, G, R * T, D]
    on_own = (grouped @ own_key.transpose(3, 4)).unflatten(3, (-1, num_new)).transpose(2, 3)
    if (visible := cache.visible(num_new, query.device)) is not None:
        on_own = on_own.masked_fill(~visible[:, None, None], float("-inf"))
    weights = torch.cat([on_prompt, on_own], dim=-1).softmax(dim=-1)
    from_prompt, from_own = weights.split([layout.num_prompt, own_key.shape[3]], dim=-1)
    out: Tensor = (from_prompt.flatten(2, 4) @ prompt_value).view(q.shape)
    own = from_own.transpose(2, 3).flatten(3, 4) @ own_value
    out = out + own.unflatten(3, (-1, num_new)).transpose(2, 3)
    return out.reshape(batch, heads, count, dim)


AttentionInterface.register(NAME, group_shared_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
