"""From sequences to micro-batches: prompt once, sequences after it, streams on every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from reground.model.chat import EncodedImage, Prompt
from reground.model.forward import ALL, GroupBatch, pad_prompts
from reground.model.load import Checkpoint
from reground.training.ranks import gathered
from reground.training.settings import TrainConfig


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """Token ids after a prompt, and streams of their length: SFT's gold answer, RL's trajectory.

    ``weights`` are loss weights (0: not sampled, only read). Of a trajectory there are also
    ``advantages``, which hold its credit, and ``logprobs``, at which its ids were sampled.
    ``images`` are those whose tokens are among the ids; ``name`` says whose it is, in errors.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    images: tuple[EncodedImage, ...] = ()
    advantages: tuple[float, ...] = ()
    logprobs: tuple[float, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class TrainGroup:
    """One prompt and the G sequences after it."""

    prompt: Prompt
    sequences: tuple[TrainSequence, ...]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward takes, with the streams of its tokens, [B, G, C] each.

    ``advantages`` and ``sampled_logprobs`` are 0 where a sequence has none; ``old`` and
    ``reference`` are log-probs of other weights, filled in by :meth:`with_streams`. ``names`` are
    those of the sequences.
    """

    batch: GroupBatch
    names: tuple[tuple[str, ...], ...]
    advantages: Tensor
    sampled_logprobs: Tensor
    old: Tensor | None = None
    reference: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward, padding included."""
        return self.batch.num_tokens

    @property
    def sequence(self) -> Tensor:
        """Which sequence each scored token belongs to, flat [N]."""
        rows, suffixes, _ = self.batch.suffix_ids.shape
        numbers = torch.arange(rows * suffixes, device=self.batch.suffix_ids.device)
        return numbers.view(rows, suffixes, 1).expand(self.batch.scored.shape)[self.batch.scored]

    def flat(self, stream: Tensor) -> Tensor:
        """A stream at the scored tokens, [N]."""
        return stream[self.batch.scored]

    def with_streams(self, *, old: Tensor | None, reference: Tensor | None) -> MicroBatch:
        """The micro-batch with log-probs of other weights, flat [N] each."""
        return replace(self, old=self._stream(old), reference=self._stream(reference))

    def silent(self) -> MicroBatch:
        """The same forward, of which nothing is scored."""
        weights = torch.zeros_like(self.batch.weights)
        return replace(self, batch=replace(self.batch, weights=weights))

    def halves(self) -> tuple[MicroBatch, MicroBatch] | None:
        """Half of the rows each, or half of one row's sequences; None for one sequence.

        Scored tokens keep their order, and log-probs their values.
        """
        num_rows, num_sequences, _ = self.batch.suffix_ids.shape
        if num_rows > 1:
            middle = num_rows // 2
            return self._at(slice(middle), ALL), self._at(slice(middle, None), ALL)
        if num_sequences > 1:
            middle = num_sequences // 2
            return self._at(ALL, slice(middle)), self._at(ALL, slice(middle, None))
        return None

    def _at(self, rows: slice, suffixes: slice) -> MicroBatch:
        return MicroBatch(
            self.batch.at(rows, suffixes),
            tuple(own[suffixes] for own in self.names[rows]),
            self.advantages[rows, suffixes],
            self.sampled_logprobs[rows, suffixes],
            None if self.old is None else self.old[rows, suffixes],
            None if self.reference is None else self.reference[rows, suffixes],
        )

    def _stream(self, flat: Tensor | None) -> Tensor | None:
        if flat is None:
            return None
        return torch.zeros_like(self.advantages).masked_scatter(self.batch.scored, flat)


def pack(
    groups: Sequence[TrainGroup], *, max_tokens: int, pad_id: int, device: torch.device
) -> list[MicroBatch]:
    """Micro-batches of at most ``max_tokens`` padded tokens (a larger group goes alone).

    Groups of like size share a micro-batch, so that little is padded; every group appears once.
    """
    by_length = sorted(groups, key=lambda group: (len(group.sequences), _padded([group])))
    batches: list[list[TrainGroup]] = []
    for group in by_length:
        if batches and _padded([*batches[-1], group]) <= max_tokens:
            batches[-1].append(group)
        else:
            batches.append([group])
    return [collate(batch, pad_id=pad_id, device=device) for batch in batches]


def micro_batches(
    groups: Sequence[TrainGroup], checkpoint: Checkpoint, config: TrainConfig
) -> list[MicroBatch]:
    """A rank's groups, packed for its device.

    Forwards of sharded weights wait for each other: there every rank must call, and gets as many as
    any other. What is added scores nothing.
    """
    micros = pack(
        groups,
        max_tokens=config.micro_batch_tokens,
        pad_id=checkpoint.chat.pad_id,
        device=checkpoint.model.device,
    )
    if config.sharding == "full":
        micros += [micros[-1].silent()] * (max(gathered([len(micros)])) - len(micros))
    return micros


def collate(groups: Sequence[TrainGroup], *, pad_id: int, device: torch.device) -> MicroBatch:
    """Groups as one padded batch; where one has fewer sequences, the last ones are pads alone."""
    prompt_ids, prompt_mask = pad_prompts([group.prompt for group in groups], pad_id=pad_id)
    shape = (len(groups), *_widest(groups))
    ids = torch.full(shape, pad_id, dtype=torch.long)
    weights, advantages, logprobs = (torch.zeros(shape) for _ in range(3))
    for row, group in enumerate(groups):
        for place, own in enumerate(group.sequences):
            ids[row, place, : len(own.ids)] = torch.tensor(own.ids, dtype=torch.long)
            weights[row, place, : len(own.weights)] = torch.tensor(own.weights)
            advantages[row, place, : len(own.advantages)] = torch.tensor(own.advantages)
            logprobs[row, place, : len(own.logprobs)] = torch.tensor(own.logprobs)
    batch = GroupBatch(
        prompt_ids.to(device),
        prompt_mask.to(device),
        ids.to(device),
        weights.to(device),
        tuple(group.prompt.images for group in groups),
        tuple(_images(group, num_sequences=shape[1]) for group in groups),
    )
    names = tuple(tuple(own.name for own in group.sequences) for group in groups)
    return MicroBatch(batch, names, advantages.to(device), logprobs.to(device))


def _images(group: TrainGroup, *, num_sequences: int) -> tuple[tuple[EncodedImage, ...], ...]:
    own = [sequence.images for sequence in group.sequences]
    return (*own, *[()] * (num_sequences - len(own)))


def _padded(groups: Sequence[TrainGroup]) -> int:
    prompt = max(len(group.prompt.ids) for group in groups)
    num_sequences, length = _widest(groups)
    return len(groups) * (prompt + num_sequences * length)


def _widest(groups: Sequence[TrainGroup]) -> tuple[int, int]:
    """The most sequences that a group has, and the most tokens that a sequence has."""
    num_sequences = max(len(group.sequences) for group in groups)
    return num_sequences, max(len(own.ids) for group in groups for own in group.sequences)
