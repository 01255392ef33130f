"""From sequences to micro-batches: prompt once, its suffixes behind it, a weight on every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from reground.model.chat import EncodedImage, Prompt
from reground.model.forward import GroupBatch, pad_prompts
from reground.model.load import Checkpoint
from reground.training.settings import TrainConfig


@dataclass(frozen=True, slots=True)
class Suffix:
    """Token ids behind a prompt and the loss weight of each (0: not sampled, only read).

    ``images`` are those whose tokens are among the ids.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    images: tuple[EncodedImage, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt and its G suffixes. ``index`` is its place in the step, for credit and metrics."""

    index: int
    prompt: Prompt
    suffixes: tuple[Suffix, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the padded row: the prompt once and G times the longest suffix."""
        return _padded([self])


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward takes, and which groups of the step its rows are."""

    batch: GroupBatch
    rows: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward, padding included."""
        return self.batch.num_tokens

    def halves(self) -> tuple[MicroBatch, MicroBatch] | None:
        """The same tokens in two; None for one suffix of one group."""
        if (parts := self.batch.halves()) is None:
            return None
        first, second = parts
        is_split = len(self.rows) == 1
        middle = 1 if is_split else len(first.prompt_ids)
        return (
            MicroBatch(first, self.rows[:middle]),
            MicroBatch(second, self.rows if is_split else self.rows[middle:]),
        )


def pack(
    groups: Sequence[Group], *, max_tokens: int, pad_id: int, device: torch.device
) -> list[MicroBatch]:
    """Micro-batches of at most ``max_tokens`` padded tokens (a larger group goes alone).

    Groups of like size share a micro-batch, so that little is padded; every group appears once.
    """
    by_length = sorted(
        groups, key=lambda group: (len(group.suffixes), group.num_tokens, group.index)
    )
    batches: list[list[Group]] = []
    for group in by_length:
        if batches and _padded([*batches[-1], group]) <= max_tokens:
            batches[-1].append(group)
        else:
            batches.append([group])
    return [collate(batch, pad_id=pad_id, device=device) for batch in batches]


def micro_batches(
    groups: Sequence[Group], checkpoint: Checkpoint, config: TrainConfig
) -> list[MicroBatch]:
    """A rank's groups, packed for its device; where weights are spread, as many on every rank."""
    micros = pack(
        groups,
        max_tokens=config.micro_batch_tokens,
        pad_id=checkpoint.chat.pad_id,
        device=checkpoint.model.device,
    )
    return micros if config.sharding == "none" else aligned(micros)


def aligned(micros: list[MicroBatch]) -> list[MicroBatch]:
    """As many micro-batches on every rank: forwards of spread weights wait for each other.

    What is added scores nothing. Every rank must call.
    """
    if not torch.distributed.is_initialized():
        return micros
    last = micros[-1].batch
    most = torch.tensor(len(micros), device=last.prompt_ids.device)
    torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
    blank = MicroBatch(replace(last, weights=torch.zeros_like(last.weights)), micros[-1].rows)
    return micros + [blank] * (int(most) - len(micros))


def collate(groups: Sequence[Group], *, pad_id: int, device: torch.device) -> MicroBatch:
    """Groups as one padded batch; where one has fewer suffixes, the last ones are pads alone."""
    prompt_ids, prompt_mask = pad_prompts([group.prompt for group in groups], pad_id=pad_id)
    shape = (len(groups), *_widest(groups))
    ids, weights = torch.full(shape, pad_id, dtype=torch.long), torch.zeros(shape)
    for row, group in enumerate(groups):
        for place, suffix in enumerate(group.suffixes):
            ids[row, place, : len(suffix.ids)] = torch.tensor(suffix.ids, dtype=torch.long)
            weights[row, place, : len(suffix.ids)] = torch.tensor(suffix.weights)
    batch = GroupBatch(
        prompt_ids,
        prompt_mask,
        ids,
        weights,
        tuple(group.prompt.images for group in groups),
        tuple(_images(group, num_suffixes=shape[1]) for group in groups),
    )
    return MicroBatch(batch.to(device), tuple(group.index for group in groups))


def _images(group: Group, *, num_suffixes: int) -> tuple[tuple[EncodedImage, ...], ...]:
    own = [suffix.images for suffix in group.suffixes]
    return (*own, *[()] * (num_suffixes - len(own)))


def _padded(groups: Sequence[Group]) -> int:
    prompt = max(len(group.prompt.ids) for group in groups)
    num_suffixes, length = _widest(groups)
    return len(groups) * (prompt + num_suffixes * length)


def _widest(groups: Sequence[Group]) -> tuple[int, int]:
    """The most suffixes that a group has, and the most tokens that a suffix has."""
    num_suffixes = max(len(group.suffixes) for group in groups)
    return num_suffixes, max(len(suffix.ids) for group in groups for suffix in group.suffixes)
