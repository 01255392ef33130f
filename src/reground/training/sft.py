"""Supervised fine-tuning on gold answers, with or without their reasoning chains."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor, nn

from reground.grounding.codecs import Form
from reground.grounding.sample import Sample
from reground.model.chat import Prompt
from reground.model.prompting import Prompter
from reground.training.draw import Draws
from reground.training.method import LogProbs, StepBatch
from reground.training.packing import MicroBatch, TrainGroup, TrainSequence, micro_batches
from reground.training.settings import Supervised, TrainConfig
from reground.training.tally import Tally

_LOG = logging.getLogger(__name__)
_DIGIT = re.compile(r"\s*\d\Z")


class Sft:
    """Cross-entropy of the gold answer's tokens: a weighted mean over the global batch."""

    updates_per_batch = 1
    reference: nn.Module | None = None

    def __init__(self, prompter: Prompter, draws: Draws, config: TrainConfig) -> None:
        self._prompter, self._draws, self._config = prompter, draws, config
        self.ahead = config.sharding == "none"  # else ranks agree on every batch
        self._chat = prompter.checkpoint.chat
        self.module: nn.Module = LogProbs(
            prompter.checkpoint.model, temperature=1.0, banned_ids=self._chat.banned_ids
        )
        self._is_digit = digit_table(self._chat.tokenizer)
        self._has_warned = False

    def batch(self, step: int, items: Sequence[int]) -> StepBatch:
        """Prompts and gold answers of the items."""
        limit = self._config.sft.questions_per_image
        groups = [self._draws.usable(item, self._group, limit) for item in items]
        micros = micro_batches(groups, self._prompter.checkpoint, self._config)
        total = sum(sum(own.weights) for group in groups for own in group.sequences)
        return StepBatch(micros, total)

    def loss(self, module: nn.Module, micro: MicroBatch, normaliser: float, tally: Tally) -> Tensor:
        """Weighted negative log-likelihood over the global sum of weights."""
        logprobs = module(micro.batch)
        weights = micro.flat(micro.batch.weights)
        loss: Tensor = -(weights * logprobs).sum() / normaliser
        tally.add("sft/nll", -float(logprobs.detach().sum()), logprobs.numel())
        return loss

    def _group(self, samples: Sequence[Sample]) -> TrainGroup:
        """Samples about the same images: what their prompts have in common, once."""
        prompts = self._prompter.prompts(samples)
        shared = Prompt(_common_prefix([prompt.ids for prompt in prompts]), prompts[0].images)
        start = len(shared.ids)
        sequences = [self._gold(*pair, start) for pair in zip(samples, prompts, strict=True)]
        return TrainGroup(shared, tuple(sequences))

    def _gold(self, sample: Sample, prompt: Prompt, start: int) -> TrainSequence:
        """The prompt from ``start`` on and the gold answer; only our own words have weights."""
        self._warn_of_empty_thoughts(sample)
        ids = list(prompt.ids[start:])
        weights = [0.0] * len(ids)
        for piece in self._prompter.gold(sample, prompt):
            if piece.is_own:
                own = self._chat.encode_answer(piece.text)
                weights += token_weights([self._is_digit[i] for i in own], self._config.sft)
            else:
                own = self._chat.encode(piece.text)
                weights += [0.0] * len(own)
            ids += own
        return TrainSequence((*ids, self._chat.end_id), (*weights, 1.0), name=sample.id)

    def _warn_of_empty_thoughts(self, sample: Sample) -> None:
        protocol = self._prompter.protocol(sample)
        if protocol.form is Form.DIRECT or sample.think or self._has_warned:
            return
        self._has_warned = True
        _LOG.warning(
            "sample %r has no chain, and its protocol %s thinks: such rows teach an empty thought; "
            "give them a chain (reground teach), or the field protocol: direct",
            sample.id,
            protocol.name,
        )


def _common_prefix(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return tuple(column[0] for column in columns)


def token_weights(is_digit: Sequence[bool], settings: Supervised) -> tuple[float, ...]:
    """The loss weight of each token: 1, or that of its place in a run of digits.

    >>> token_weights([False, True, True, True, False], Supervised(digit_weights=(1.0, 0.5)))
    (1.0, 1.0, 0.5, 0.5, 1.0)
    """
    weights, place = [], 0
    for digit in is_digit:
        last = len(settings.digit_weights) - 1
        weights.append(settings.digit_weights[min(place, last)] if digit else 1.0)
        place = place + 1 if digit else 0
    return tuple(weights)


def digit_table(tokenizer: Any) -> list[bool]:
    """For every id, whether it is a single digit, as Qwen's tokenizers write numbers."""
    return [bool(_DIGIT.match(tokenizer.decode([i]))) for i in range(len(tokenizer))]
