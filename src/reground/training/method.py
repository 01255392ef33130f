"""What a training method is to the loop: a batch for a step, and a loss for a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from reground.model.forward import GroupBatch, shared_logprobs
from reground.training.tally import Tally


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
