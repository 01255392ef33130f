"""What a training method is to the loop: a batch for a step, and a loss for a micro-batch.

Out of memory, the same step goes on in smaller micro-batches, with the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from reground.errors import TrainingError
from reground.model.forward import GroupBatch, shared_logprobs
from reground.training.tally import Tally

T = TypeVar("T")


class Micro(Protocol):
    """What one forward and backward takes."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward, padding included."""

    def halves(self) -> tuple[Micro, Micro] | None:
        """The same tokens in two micro-batches; None where it cannot be divided."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one rank trains on in one step.

    ``normaliser`` is what this rank adds to the divisor of the global loss (tokens or sequences);
    ``records`` are rows for the rollout log; ``learnable`` says whether anything can be learned.
    """

    micros: Sequence[Micro]
    normaliser: float
    tally: Tally = field(default_factory=Tally)
    records: Sequence[dict[str, Any]] = ()
    learnable: bool = True


class Method(Protocol):
    """Dense targets, SFT and GRPO differ in these members alone."""

    module: nn.Module
    ahead: bool  # whether the batch of step n may be made before step n - 1 has ended
    updates_per_batch: int
    reference: nn.Module | None  # what gradients do not reach and every rank runs besides

    def batch(self, step: int, items: Sequence[int]) -> StepBatch:
        """Make this rank's batch of ``step``: the samples of the given items of the run."""

    def loss(self, module: nn.Module, micro: Any, normaliser: float, tally: Tally) -> Tensor:
        """This micro-batch's part of the global loss, whose divisor is ``normaliser``."""


class LogProbs(nn.Module):
    """The group-shared forward as a module, so that wrappers (DDP, FSDP) see every forward."""

    def __init__(self, model: nn.Module, *, temperature: float, banned_ids: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self._temperature, self._banned_ids = temperature, tuple(banned_ids)

    def forward(self, batch: GroupBatch) -> Tensor:
        """Log-probs of the scored suffix tokens, flat [N]."""
        return shared_logprobs(
            self.model, batch, temperature=self._temperature, banned_ids=self._banned_ids
        )


def within(micros: Iterable[Micro], limit: int | None) -> Iterator[Micro]:
    """The micro-batches, those of more than ``limit`` tokens halved while they can be."""
    for micro in micros:
        parts = micro.halves() if limit is not None and micro.num_tokens > limit else None
        if parts is None:
            yield micro
        else:
            yield from within(parts, limit)


def fitted(micro: Micro, run: Callable[[Any], T], step: int) -> list[T]:
    """What ``run`` makes of a micro-batch; of each half alone where memory does not suffice."""
    try:
        return [run(micro)]
    except torch.OutOfMemoryError:
        smaller([micro], step)
    torch.cuda.empty_cache()  # outside the handler, whose traceback holds the tensors
    return [made for half in micro.halves() or () for made in fitted(half, run, step)]


def smaller(micros: Iterable[Micro], step: int) -> int:
    """The limit that halves the largest of micro-batches that did not fit.

    Raises ``TrainingError`` where they cannot be divided any more.
    """
    largest = max(micros, key=lambda micro: micro.num_tokens)
    if largest.halves() is None:
        raise TrainingError(
            f"step {step}: out of memory with {largest.num_tokens} tokens, which cannot be divided "
            "any more; lower max_pixels, set tuning.gradient_checkpointing: true, train adapters "
            "(lora), or shard the weights over ranks (sharding: full)",
            help="out-of-memory",
        )
    return largest.num_tokens // 2
