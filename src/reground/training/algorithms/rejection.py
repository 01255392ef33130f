"""Rejection-sampled fine-tuning: learn to repeat the model's own good answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from reground.config import NotNegative, config
from reground.training.algorithms.parts import (
    Credit,
    DynamicSampling,
    Loss,
    Rewarded,
    Tokens,
    per_sequence,
    with_kl,
)


@config
class RejectionSampling:
    """Rejection-sampled SFT (RFT, Yuan et al., arXiv 2308.01825; RAFT, arXiv 2304.06767).

    The loss is the mean over accepted sequences of the mean over tokens of -log pi. A rollout is
    accepted with a reward of at least ``threshold``; with ``best_only`` only the first of the best
    of its group.

    >>> from types import SimpleNamespace as Rollout
    >>> group = [Rollout(reward=r, iou=r, num_sampled=2) for r in (0.9, 0.6, 0.1)]
    >>> credit = RejectionSampling(threshold=0.5).credit(group, max_tokens=4)
    >>> credit.advantages, credit.divisor
    ((1.0, 1.0, 0.0), 2.0)
    """

    type: Literal["rejection_sampling"] = "rejection_sampling"
    threshold: NotNegative = 0.5
    best_only: bool = False
    kl: NotNegative = 0.0
    dynamic_sampling: DynamicSampling | None = None

    def credit(self, group: Sequence[Rewarded], *, max_tokens: int) -> Credit:
        """1 for what is accepted, 0 for the rest."""
        rewards = [each.reward for each in group]
        accepted = [reward >= self.threshold for reward in rewards]
        if self.best_only:
            best = rewards.index(max(rewards))
            accepted = [ok and number == best for number, ok in enumerate(accepted)]
        advantages = tuple(float(ok) for ok in accepted)
        return Credit(advantages, per_sequence(group), float(sum(accepted)))

    def loss(self, tokens: Tokens) -> Loss:
        """Cross-entropy of the accepted tokens."""
        total = -(tokens.weights * tokens.advantages * tokens.logprobs).sum()
        never = torch.zeros_like(tokens.logprobs)
        return with_kl(Loss(total, never, never.bool()), tokens, self.kl)
