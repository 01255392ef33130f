"""Sampling with the model in this process: each prompt is read once, for all its completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reground.model.attention import GroupLayout, SharedCache
from reground.model.chat import Prompt
from reground.model.forward import (
    encode_images,
    image_grids,
    mask_banned,
    pad_prompts,
    prompt_positions,
)
from reground.model.load import Checkpoint
from reground.rollout.policy import Completion, Sampling

_NUCLEUS_FLOOR = 1  # the most likely token always stays


@dataclass(slots=True)
class TransformersPolicy:
    """The checkpoint's own model as a policy; ``version`` counts the updates it has seen.

    ``max_groups`` prompts are decoded together. Completions depend on their prompt, key and number
    alone, not on what is decoded beside them.
    """

    checkpoint: Checkpoint
    max_groups: int = 64
    version: int = 0

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        keys: Sequence[int] | None = None,
    ) -> list[tuple[Completion, ...]]:
        """``n`` completions of each prompt; without ``keys`` the prompts' numbers seed them."""
        keys = list(keys) if keys is not None else list(range(len(prompts)))
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i].ids), i))
        done: dict[int, tuple[Completion, ...]] = {}
        for first in range(0, len(order), self.max_groups):
            places = order[first : first + self.max_groups]
            batch = _Decoding(
                self.checkpoint,
                [prompts[i] for i in places],
                [keys[i] for i in places],
                n,
                sampling,
            )
            done |= zip(places, batch.run(self.version), strict=True)
        return [done[i] for i in range(len(prompts))]


@dataclass(slots=True)
class _Group:
    """One prompt's completions as they grow."""

    ids: list[list[int]]
    logprobs: list[list[float]]
    open: list[bool]

    def completions(self, version: int) -> tuple[Completion, ...]:
        return tuple(
            Completion(tuple(ids), tuple(logprobs), "length" if is_open else "stop", version)
            for ids, logprobs, is_open in zip(self.ids, self.logprobs, self.open, strict=True)
        )


@dataclass(slots=True)
class _Decoding:
    """One batch of groups, from prefill to the last token."""

    checkpoint: Checkpoint
    prompts: Sequence[Prompt]
    keys: Sequence[int]
    n: int
    sampling: Sampling
    _cache: SharedCache = field(init=False)
    _mask: Tensor = field(init=False)

    def run(self, version: int) -> list[tuple[Completion, ...]]:
        groups = [
            _Group([[] for _ in range(self.n)], [[] for _ in range(self.n)], [True] * self.n)
            for _ in self.prompts
        ]
        uniforms = torch.from_numpy(self._uniforms())
        alive = list(range(len(groups)))
        logits, positions = self._prefill()
        logits = logits[:, None].expand(-1, self.n, -1)
        for step in range(self.sampling.max_tokens):
            tokens, logprobs = self._choose(logits, uniforms[alive, :, step])
            for row, index in enumerate(alive):
                self._extend(groups[index], tokens[row].tolist(), logprobs[row].tolist())
            rows = [row for row, index in enumerate(alive) if any(groups[index].open)]
            if not rows or step + 1 == self.sampling.max_tokens:
                break
            if len(rows) < len(alive):
                tokens, positions = self._keep(rows, tokens, positions)
                alive = [alive[row] for row in rows]
            logits = self._advance(tokens, positions + step)
        return [group.completions(version) for group in groups]

    def _uniforms(self) -> np.ndarray:
        """One number for each token to be sampled, [B, n, max_tokens], from the keys alone."""
        shape = (self.n, self.sampling.max_tokens)
        return np.stack(
            [np.random.Generator(np.random.Philox(key=[key, 0])).random(shape) for key in self.keys]
        )

    def _prefill(self) -> tuple[Tensor, Tensor]:
        """Read the prompts; logits [B, V] of the first token and the next positions [B]."""
        model, chat = self.checkpoint.model, self.checkpoint.chat
        ids, mask = (t.to(model.device) for t in pad_prompts(self.prompts, pad_id=chat.pad_id))
        images = [image for prompt in self.prompts for image in prompt.images]
        positions, after = prompt_positions(model, ids, mask, image_grids(images, model.device))
        self._mask, self._cache = mask, SharedCache(self.sampling.max_tokens)
        hidden = self._forward(ids, positions, mm_encoder_outputs=encode_images(model, images))
        last = hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return model.lm_head(last).float(), after

    def _advance(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Append one token [B, n] to every completion; logits [B, n, V] of the next."""
        hidden = self._forward(tokens, positions[None, :, None].expand(3, -1, tokens.shape[1]))
        logits: Tensor = self.checkpoint.model.lm_head(hidden).float()
        return logits

    def _forward(self, ids: Tensor, positions: Tensor, **images: Any) -> Tensor:
        output = self.checkpoint.model.model(
            input_ids=ids,
            position_ids=positions,
            use_cache=False,
            layout=GroupLayout(self._mask, self.n),
            cache=self._cache,
            **images,
        )
        self._cache.length += 1
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _keep(self, rows: list[int], tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Go on with the groups that have an open completion."""
        kept = torch.tensor(rows, device=tokens.device)
        self._cache.keep(kept)
        self._mask = self._mask[kept]
        return tokens[kept], positions[kept]

    def _choose(self, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """The next tokens and their log-probs, [B, n] each."""
        temperature = self.sampling.temperature or 1.0
        logits = mask_banned(logits / temperature, self.checkpoint.chat.banned_ids)
        logprobs = logits.log_softmax(-1)
        if self.sampling.temperature == 0:
            tokens = logits.argmax(-1)
        else:
            tokens = _inverse_cdf(
                _nucleus(logprobs, self.sampling.top_p), uniforms.to(logits.device)
            )
        return tokens, logprobs.gather(-1, tokens[..., None])[..., 0]

    def _extend(self, group: _Group, tokens: list[int], logprobs: list[float]) -> None:
        for number, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
            if not group.open[number]:
                continue
            group.ids[number].append(token)
            group.logprobs[number].append(logprob)
            group.open[number] = not self._ends(group.ids[number])

    def _ends(self, ids: list[int]) -> bool:
        chat = self.checkpoint.chat
        if ids[-1] == chat.end_id:
            return True
        # A stop string is at most as many tokens long as it has bytes.
        return any(stop in chat.decode(ids[-len(stop.encode()) :]) for stop in self.sampling.stop)


def _nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Probabilities, those outside the smallest set that holds ``top_p`` at zero."""
    probs = logprobs.double().exp()
    if top_p >= 1:
        return probs
    ranked, order = probs.sort(dim=-1, descending=True)
    outside = ranked.cumsum(-1) - ranked >= top_p
    outside[..., :_NUCLEUS_FLOOR] = False
    return probs.masked_fill(outside.scatter(-1, order, outside), 0.0)


def _inverse_cdf(probs: Tensor, uniforms: Tensor) -> Tensor:
    """The token at which the cumulative probability passes ``uniforms`` [B, n] of the total."""
    cumulative = probs.cumsum(-1)
    wanted = uniforms[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, wanted, right=True)[..., 0].clamp(max=probs.shape[-1] - 1)
