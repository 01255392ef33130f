"""Sampling with the model in this process: each prompt is read once, for all its completions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, TypeVar

import torch

from reground.model.chat import Prompt
from reground.model.load import Checkpoint
from reground.model.parts import merged_state
from reground.model.runtime import precision, runtime_of
from reground.rollout.decoding import Decoding, Prefill
from reground.rollout.policy import DONE, Completion, Heard, Prefix, Prefixes, Sampling

_T = TypeVar("_T")


@dataclass(slots=True)
class TransformersPolicy:
    """The checkpoint's own model as a policy; ``version`` counts the updates it has seen.

    As many prompts are decoded together as the runtime's budget of tokens allows. Completions
    depend on their prompt, prefix, key and number alone, not on what is decoded with them. After
    a call with stop strings the keys and values of its prompts stay in memory until the next call.
    """

    checkpoint: Checkpoint
    version: int = 0
    _kept: list[Prefill] = field(default_factory=list)
    _kept_of: list[Prompt] = field(default_factory=list)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        keys: Sequence[int] | None = None,
        prefixes: Sequence[Prefixes] | None = None,
        heard: Heard | None = None,
    ) -> list[tuple[Completion, ...]]:
        """``n`` completions of each prompt; without ``keys`` the prompts' numbers seed them."""
        keys = list(keys) if keys is not None else list(range(len(prompts)))
        begun = [[Prefix()] * n for _ in prompts] if prefixes is None else prefixes
        done = [(DONE,) * n] * len(prompts)
        for prefill in self._prefills(prompts, n, sampling, goes_on=prefixes is not None):
            rows = [row for row, place in enumerate(prefill.places) if any(begun[place])]

            def decoded(rows: list[int], whole: Prefill = prefill) -> list[tuple[Completion, ...]]:
                part = whole.of(rows)
                own_keys = [keys[place] for place in part.places]
                own_prefixes = [begun[place] for place in part.places]
                batch = Decoding(self.checkpoint, part, own_keys, own_prefixes, sampling, heard)
                with precision(self.checkpoint.model):  # weights are cast once, not for each token
                    return batch.run(self.version)

            for row, group in zip(rows, halved(rows, decoded), strict=True):
                done[prefill.places[row]] = group
        return done

    def sync(self, version: int) -> None:
        """The weights are the model's own; what was read with older ones is forgotten."""
        self.version, self._kept = version, []

    def rest(self) -> None:
        """Forget the keys and values of prompts."""
        self._kept = []

    def close(self) -> None:
        """Nothing but the model runs."""

    def _prefills(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, *, goes_on: bool
    ) -> Iterator[Prefill]:
        """The prompts as the model has read them, some at a time."""
        kept, of = self._kept, self._kept_of
        self._kept, self._kept_of = [], []
        if not (goes_on and len(of) == len(prompts) and all(map(is_, of, prompts))):
            kept = []
        for prefill in kept or self._read(prompts, n * sampling.max_tokens):
            if sampling.stop:
                self._kept.append(prefill)
            yield prefill
        self._kept_of = list(prompts)

    def _read(self, prompts: Sequence[Prompt], num_more: int) -> Iterator[Prefill]:
        most = runtime_of(self.checkpoint.model).batch_tokens
        for places in within([len(prompt.ids) + num_more for prompt in prompts], most):

            def read(part: list[int]) -> list[Prefill]:
                return [Prefill.of_prompts(self.checkpoint, [prompts[i] for i in part], part)]

            yield from halved(places, read)


@dataclass(slots=True)
class ReplicaPolicy(TransformersPolicy):
    """A copy of a model that is spread over ranks: each rank samples with whole weights.

    ``source`` is the model in training; every rank must call ``sync``.
    """

    source: Any = None

    def sync(self, version: int) -> None:
        """Copy the weights, adapters added in."""
        if version != self.version:
            own = self.checkpoint.model.state_dict()
            for name, weight in merged_state(self.source):
                own[name].copy_(weight)
        TransformersPolicy.sync(self, version)


def within(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of rows in batches of at most ``most`` tokens, padded to the longest; of one at least.

    >>> list(within([5, 1, 2, 3], 6))
    [[1, 2], [3], [0]]
    """
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[place] > most:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def halved(rows: list[int], run: Callable[[list[int]], list[_T]]) -> list[_T]:
    """What ``run`` makes of all rows together; of each half alone where memory does not suffice.

    Raises ``torch.OutOfMemoryError`` where it does not suffice for one row.

    >>> halved([4, 5, 6], lambda rows: [10 * row for row in rows])
    [40, 50, 60]
    """
    if not rows:
        return []
    try:
        return run(rows)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
    torch.cuda.empty_cache()  # outside the handler, whose traceback holds the tensors
    middle = len(rows) // 2
    return halved(rows[:middle], run) + halved(rows[middle:], run)
