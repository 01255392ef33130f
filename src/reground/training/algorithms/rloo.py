"""REINFORCE with the others of a group as the baseline."""

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
    centred,
    with_kl,
)


@config
class Rloo:
    """RLOO (Ahmadian et al., arXiv 2402.14740, Eq. 8): the mean of the others is the baseline.

    The gradient is the mean over sequences of (r_i - mean of r_j, j != i) grad log pi(y_i), the
    log-prob of a sequence being the sum over its tokens. After the first update on a batch tokens
    weigh pi / pi_old.

    >>> from types import SimpleNamespace as Rollout
    >>> group = [Rollout(reward=r, iou=r, num_sampled=2) for r in (1.0, 0.5, 0.0)]
    >>> Rloo().credit(group, max_tokens=4).advantages
    (0.75, 0.0, -0.75)
    """

    type: Literal["rloo"] = "rloo"
    kl: NotNegative = 0.0
    dynamic_sampling: DynamicSampling | None = None

    def credit(self, group: Sequence[Rewarded], *, max_tokens: int) -> Credit:
        """Rewards less the mean of the others'; the tokens of a sequence are summed."""
        # r_i less the mean of the others is G / (G - 1) times r_i less the mean of all.
        scale = len(group) / (len(group) - 1)
        advantages = tuple(scale * each for each in centred(group, by_std=False))
        return Credit(advantages, (1.0,) * len(group), float(len(group)))

    def loss(self, tokens: Tokens) -> Loss:
        """-(pi / pi_old) A of every token: on the policy its gradient is -A grad log pi."""
        ratio = tokens.ratio
        total = -(tokens.weights * ratio * tokens.advantages).sum()
        never = torch.zeros_like(ratio)
        return with_kl(Loss(total, never, never.bool()), tokens, self.kl)
