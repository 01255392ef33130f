"""Prompts as the model has read them, and completions that grow after them token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reground.model.attention import SharedCache
from reground.model.chat import Prompt
from reground.model.forward import (
    hidden_states,
    logits,
    mask_banned,
    pad_prompts,
    prompt_positions,
    suffix_positions,
)
from reground.model.load import Checkpoint
from reground.model.sharing import GroupLayout
from reground.model.vision import encode_images
from reground.rollout.policy import Completion, Finish, Heard, Prefix, Prefixes, Sampling

_FULL = 7 / 8  # keys and values are copied once so many of the groups, or fewer, go on


@dataclass(frozen=True, slots=True)
class Prefill:
    """B prompts and what the model made of them.

    ``logits`` [B, V] of the first token, ``after`` [B] its position, ``mask`` [B, P], and the keys
    and values of every layer. ``places`` are the prompts' numbers in the call.
    """

    places: list[int]
    mask: Tensor
    after: Tensor
    logits: Tensor
    cache: dict[int, tuple[Tensor, Tensor]]

    @classmethod
    def of_prompts(
        cls, checkpoint: Checkpoint, prompts: list[Prompt], places: list[int]
    ) -> Prefill:
        """Read them together; images are encoded once."""
        model = checkpoint.model
        padded = pad_prompts(prompts, pad_id=checkpoint.chat.pad_id)
        ids, mask = (tensor.to(model.device) for tensor in padded)
        images = [image for prompt in prompts for image in prompt.images]
        positions, after = prompt_positions(model, ids, mask, images)
        cache = SharedCache(0)
        hidden = hidden_states(
            model,
            ids,
            positions,
            layout=GroupLayout(mask, 1),
            features=encode_images(model, images),
            cache=cache,
        )
        last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return cls(places, mask, after, logits(model, last), cache.prompt)

    def of(self, rows: list[int]) -> Prefill:
        """Some of the prompts."""
        if len(rows) == len(self.places):
            return self
        at = torch.tensor(rows, device=self.mask.device)
        return Prefill(
            [self.places[row] for row in rows],
            self.mask[at],
            self.after[at],
            self.logits[at],
            {layer: (key[at], value[at]) for layer, (key, value) in self.cache.items()},
        )


@dataclass(slots=True)
class _Group:
    """One prompt's completions as they grow."""

    ids: list[list[int]]
    logprobs: list[list[float]]
    finish: list[Finish | None]  # None while it grows

    @property
    def is_open(self) -> bool:
        return None in self.finish

    def completions(self, version: int) -> tuple[Completion, ...]:
        return tuple(
            Completion(tuple(ids), tuple(logprobs), finish or "length", version)
            for ids, logprobs, finish in zip(self.ids, self.logprobs, self.finish, strict=True)
        )


@dataclass(slots=True)
class Decoding:
    """One batch of groups, from their prompts or the prefixes after them to the last token.

    ``keys`` and ``prefixes`` are those of each group; all prefixes of a first turn are empty.
    """

    checkpoint: Checkpoint
    prefill: Prefill
    keys: Sequence[int]
    prefixes: Sequence[Prefixes]
    sampling: Sampling
    heard: Heard | None = None
    _cache: SharedCache = field(init=False)
    _mask: Tensor = field(init=False)

    def run(self, version: int) -> list[tuple[Completion, ...]]:
        """All completions of each prompt; one that does not go on is empty."""
        groups = [
            _Group(
                [[] for _ in own],
                [[] for _ in own],
                ["stop" if prefix is None else None for prefix in own],
            )
            for own in self.prefixes
        ]
        uniforms = torch.from_numpy(self._uniforms())
        alive = list(range(len(groups)))
        scores, positions = self._begin()
        for step in range(self.sampling.max_tokens):
            tokens, logprobs = self._choose(scores, uniforms[alive, :, step])
            for row, index in enumerate(alive):
                self._extend(groups[index], tokens[row].tolist(), logprobs[row].tolist())
                if self.heard and not self.heard(self.prefill.places[index], groups[index].ids[0]):
                    groups[index].finish = ["length"]
            rows = [row for row, index in enumerate(alive) if groups[index].is_open]
            if not rows or step + 1 == self.sampling.max_tokens:
                break
            if len(rows) <= _FULL * len(alive):
                kept = torch.tensor(rows, device=tokens.device)
                tokens, positions, self._mask = tokens[kept], positions[kept], self._mask[kept]
                self._cache.keep(kept)
                alive = [alive[row] for row in rows]
            scores = self._advance(tokens[..., None], positions[..., None] + step)
        return [group.completions(version) for group in groups]

    def _uniforms(self) -> np.ndarray:
        """One number for each token to be sampled, [B, n, max_tokens].

        One stream for each (key of the prompt, where a completion goes on, its number): what else
        is decoded in the batch, and for how long, changes nothing.
        """
        return np.stack(
            [
                [
                    _uniforms(key, len(_ids(prefix)), number, self.sampling.max_tokens)
                    for number, prefix in enumerate(own)
                ]
                for key, own in zip(self.keys, self.prefixes, strict=True)
            ]
        )

    def _begin(self) -> tuple[Tensor, Tensor]:
        """Logits [B, n, V] of the first token and its positions [B, n]."""
        prefill, n = self.prefill, len(self.prefixes[0])
        self._mask = prefill.mask
        ids, pads = self._padded_prefixes()
        if not ids.numel():
            self._cache = SharedCache(self.sampling.max_tokens, prompt=dict(prefill.cache))
            after = prefill.after[:, None].expand(-1, n)
            return prefill.logits[:, None].expand(-1, n, -1), after
        model = self.checkpoint.model
        capacity = ids.shape[2] + self.sampling.max_tokens
        self._cache = SharedCache(capacity, prompt=dict(prefill.cache), starts=pads)
        images = [image for own in self.prefixes for each in own if each for image in each.images]
        positions = suffix_positions(model, ids, prefill.after, images, pads=pads)
        features = encode_images(model, images) if images else None
        scores = self._advance(ids, positions, features)
        return scores, positions.amax(dim=(0, 3)) + 1

    def _padded_prefixes(self) -> tuple[Tensor, Tensor]:
        """Prefixes [B, n, T], padded on the left, and how many pads each has, [B, n]."""
        rows = [_ids(prefix) for own in self.prefixes for prefix in own]
        longest, pad_id = max(map(len, rows)), self.checkpoint.chat.pad_id
        ids = torch.tensor([[pad_id] * (longest - len(row)) + [*row] for row in rows])
        pads = torch.tensor([longest - len(row) for row in rows])
        device = self.checkpoint.model.device
        shape = (len(self.prefixes), len(self.prefixes[0]))
        return ids.view(*shape, longest).to(device), pads.view(shape).to(device)

    def _advance(
        self, tokens: Tensor, positions: Tensor, features: dict[str, Any] | None = None
    ) -> Tensor:
        """Append T tokens [B, n, T] to every completion; logits [B, n, V] of the next.

        ``positions`` are [B, n, T] or [axes, B, n, T], ``features`` those of images among the
        tokens.
        """
        model = self.checkpoint.model
        hidden = hidden_states(
            model,
            tokens.flatten(1),
            positions.flatten(-2),
            layout=GroupLayout(self._mask, tokens.shape[1]),
            features=features,
            cache=self._cache,
        )
        self._cache.length += tokens.shape[2]
        return logits(model, hidden.unflatten(1, tokens.shape[1:])[:, :, -1])

    def _choose(self, scores: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """The next tokens and their log-probs, [B, n] each."""
        temperature = self.sampling.temperature or 1.0
        scores = mask_banned(scores / temperature, self.checkpoint.chat.banned_ids)
        logprobs = scores.log_softmax(-1)
        if self.sampling.temperature == 0:
            tokens = scores.argmax(-1)
        else:
            tokens = _inverse_cdf(
                _nucleus(logprobs, self.sampling.top_p), uniforms.to(scores.device)
            )
        return tokens, logprobs.gather(-1, tokens[..., None])[..., 0]

    def _extend(self, group: _Group, tokens: list[int], logprobs: list[float]) -> None:
        for number, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            if group.finish[number] is None:
                group.ids[number].append(token)
                group.logprobs[number].append(logprob)
                group.finish[number] = self._end(group.ids[number])

    def _end(self, ids: list[int]) -> Finish | None:
        chat = self.checkpoint.chat
        if ids[-1] in chat.end_ids:
            return "stop"
        # A stop string is at most as many tokens long as it has bytes.
        stops = self.sampling.stop
        met = any(stop in chat.decode(ids[-len(stop.encode()) :]) for stop in stops)
        return "stop_string" if met else None


def _uniforms(key: int, start: int, number: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[key, start << 32 | number])).random(count)


def _ids(prefix: Prefix | None) -> tuple[int, ...]:
    return () if prefix is None else prefix.ids


def _nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Probabilities, those outside the smallest set that holds ``top_p`` at zero."""
    probs = logprobs.exp()
    if top_p >= 1:
        return probs
    ranked, order = probs.sort(dim=-1, descending=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    outside[..., 0] = False  # the most likely token always stays
    return probs.masked_fill(outside.scatter(-1, order, outside), 0.0)


def _inverse_cdf(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The token at which the cumulative probability passes ``uniforms`` [B, n] of the total."""
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    wanted = uniforms[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, wanted, right=True)[..., 0].clamp(max=probs.shape[-1] - 1)
