"""The group-shared forward: prompt and images once, G suffixes after them, then log-probs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reground.model.adapter import EncodedImage, adapter_of
from reground.model.attention import SharedCache
from reground.model.chat import Prompt
from reground.model.runtime import precision
from reground.model.sharing import GroupLayout
from reground.model.vision import dummy_vision, encode_images

ALL = slice(None)
LOGITS = 2**28  # at most so many exist at one time: a gibibyte


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """B groups, each a prompt and G suffixes, padded on the right.

    prompt_ids [B, P], prompt_mask [B, P]; suffix_ids [B, G, C]; weights [B, G, C] is the loss
    weight of every suffix token: 0 on pads and on tokens that were not sampled.
    ``prompt_images`` are those of each row and ``suffix_images`` those of each of its suffixes, in
    the order of their tokens; they follow to the device at the forward.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    suffix_ids: Tensor
    weights: Tensor
    prompt_images: tuple[tuple[EncodedImage, ...], ...]
    suffix_images: tuple[tuple[tuple[EncodedImage, ...], ...], ...]

    @property
    def images(self) -> tuple[EncodedImage, ...]:
        """All images in the order of their tokens: row by row, the prompt before the suffixes."""
        rows = zip(self.prompt_images, self.suffix_images, strict=True)
        return tuple(image for prompt, own in rows for part in (prompt, *own) for image in part)

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward, padding included."""
        return self.prompt_ids.numel() + self.suffix_ids.numel()

    def at(self, rows: slice, suffixes: slice) -> GroupBatch:
        """Some suffixes of some rows."""
        return GroupBatch(
            self.prompt_ids[rows],
            self.prompt_mask[rows],
            self.suffix_ids[rows, suffixes],
            self.weights[rows, suffixes],
            self.prompt_images[rows],
            tuple(own[suffixes] for own in self.suffix_images[rows]),
        )

    @property
    def scored(self) -> Tensor:
        """[B, G, C], True where a log-prob is needed."""
        return self.weights > 0


def pad_prompts(prompts: Sequence[Prompt], *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Prompt ids and mask, [B, P] each, padded on the right.

    >>> pad_prompts([Prompt((5, 6), ()), Prompt((7,), ())], pad_id=0)[0].tolist()
    [[5, 6], [7, 0]]
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
        mask[row, : len(prompt.ids)] = True
    return ids, mask


def prompt_positions(
    model: Any, prompt_ids: Tensor, mask: Tensor, images: Sequence[EncodedImage]
) -> tuple[Tensor, Tensor]:
    """Positions [axes, B, P] by the model's own rule, and the next free position [B]."""
    positions = adapter_of(model).positions(model, prompt_ids, mask, images)
    after = positions.masked_fill(~mask, -1).amax(dim=(0, 2)) + 1
    return positions, after


def suffix_positions(
    model: Any,
    ids: Tensor,
    after: Tensor,
    images: Sequence[EncodedImage],
    *,
    pads: Tensor | None = None,
) -> Tensor:
    """Positions [axes, B, G, C] of suffixes ``ids`` after prompts that end before ``after``.

    ``after`` is [B]; ``images`` are those of all suffixes, in the order of their tokens; ``pads``
    [B, G] are on the left of each suffix. The model's own rule counts on from any position
    alike, so that a suffix is where it would be in a row of its own after the prompt.
    """
    places = torch.arange(ids.shape[2], device=ids.device).expand(ids.shape)
    places = places if pads is None else places - pads[..., None]
    adapter = adapter_of(model)
    positions = places.clamp(min=0).repeat(adapter.axes, 1, 1, 1)
    if images:
        rows = (ids == adapter.image_token_id).any(-1)
        positions[:, rows] = adapter.positions(model, ids[rows], (places >= 0)[rows], images)
    return positions + after[:, None, None]


def shared_logprobs(
    model: Any, batch: GroupBatch, *, temperature: float = 1.0, banned_ids: Sequence[int] = ()
) -> Tensor:
    """Log-probs of the suffix tokens at ``batch.scored``, flat [N], in float32.

    A log-prob is log-softmax(logits / temperature) with banned ids at minus infinity, here as
    everywhere. Equal to the log-probs of G separate rows (tests: sharing is exact).
    """
    hidden = shared_hidden(model, batch)
    wanted, targets = hidden[batch.scored], batch.suffix_ids[batch.scored]
    most = max(1, LOGITS // model.lm_head.out_features)
    is_chunked = torch.is_grad_enabled() and len(wanted) > most
    score = partial(_logprobs, model, temperature=temperature, banned_ids=banned_ids)
    chunks = [
        checkpoint(score, *chunk, use_reentrant=False) if is_chunked else score(*chunk)
        for chunk in zip(wanted.split(most), targets.split(most), strict=True)
    ]
    return torch.cat(chunks) if chunks else hidden.new_zeros(0)


def shared_hidden(model: Any, batch: GroupBatch) -> Tensor:
    """Hidden states that predict each suffix token, [B, G, C, hidden]."""
    num_rows, num_suffixes, length = batch.suffix_ids.shape
    num_prompt = batch.prompt_ids.shape[1]
    in_prompts = list(chain.from_iterable(batch.prompt_images))
    in_suffixes = [image for row in batch.suffix_images for own in row for image in own]
    positions, after = prompt_positions(model, batch.prompt_ids, batch.prompt_mask, in_prompts)
    own_positions = suffix_positions(model, batch.suffix_ids, after, in_suffixes)
    ranks = torch.distributed.is_initialized()
    # Before the language model, as images are: ranks wait for each other's weights in one order.
    dummy = dummy_vision(model) if ranks and not batch.images else None
    hidden = hidden_states(
        model,
        torch.cat([batch.prompt_ids, batch.suffix_ids.flatten(1)], dim=1),
        torch.cat([positions, own_positions.flatten(2)], dim=2),
        layout=GroupLayout(batch.prompt_mask, num_suffixes),
        features=encode_images(model, batch.images),
    )
    if dummy is not None:
        hidden = hidden + dummy
    last = batch.prompt_mask.sum(1) - 1
    first = hidden[torch.arange(num_rows, device=last.device), last]
    own = hidden[:, num_prompt:].unflatten(1, (num_suffixes, length))
    return torch.cat([first[:, None, None].expand(-1, num_suffixes, -1, -1), own[:, :, :-1]], dim=2)


def hidden_states(
    model: Any,
    ids: Tensor,
    positions: Tensor,
    *,
    layout: GroupLayout,
    features: dict[str, Any] | None = None,
    cache: SharedCache | None = None,
) -> Tensor:
    """The last hidden states [B, L, hidden] of ``ids`` [B, L]; whoever runs a model runs this.

    ``positions`` are [axes, B, L] or [B, L], ``features`` those that :func:`encode_images` gives.
    """
    axes = adapter_of(model).axes
    positions = positions.expand(axes, -1, -1) if axes > 1 else positions.view(ids.shape)
    with precision(model):
        output = model.model(
            input_ids=ids,
            position_ids=positions,
            mm_encoder_outputs=features,
            use_cache=False,
            layout=layout,
            cache=cache,
        )
    found: Tensor = output.last_hidden_state
    return found


def logits(model: Any, states: Tensor) -> Tensor:
    """Logits [..., V] of the tokens that follow hidden states [..., hidden], in float32."""
    with precision(model):
        found: Tensor = model.lm_head(states).float()
    return found


def mask_banned(logits: Tensor, banned_ids: Sequence[int]) -> Tensor:
    """Logits with banned ids at minus infinity; the one place that bans."""
    if not banned_ids:
        return logits
    return logits.index_fill(
        -1, torch.tensor(list(banned_ids), device=logits.device), float("-inf")
    )


def _logprobs(
    model: Any, states: Tensor, ids: Tensor, *, temperature: float, banned_ids: Sequence[int]
) -> Tensor:
    scores = mask_banned(logits(model, states) / temperature, banned_ids)
    return -F.cross_entropy(scores, ids, reduction="none")
