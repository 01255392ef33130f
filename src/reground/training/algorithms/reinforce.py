"""Algorithms that weigh log-probs: RLOO, CISPO, rejection-sampled fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from reground.config import NotNegative, config
from reground.training.algorithms.parts import (
    Credit,
    DynamicSampling,
    Loss,
    Tokens,
    centred,
    num_tokens,
    per_sequence,
    with_kl,
)
from reground.training.rewards import Scored


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

    def credit(self, group: Sequence[Scored], *, max_tokens: int) -> Credit:
        """Rewards less the mean of the others'; the tokens of a sequence are summed."""
        # r_i less the mean of the others is G / (G - 1) times r_i less the mean of all.
        scale = len(group) / (len(group) - 1)
        advantages = tuple(scale * each for each in centred(group, by_std=False))
        return Credit(advantages, (1.0,) * len(group), float(len(group)))

    def loss(self, tokens: Tokens) -> Loss:
        """-(pi / pi_old) A of every token: on the policy its gradient is -A grad log pi."""
        total = -(tokens.weights * tokens.ratio * tokens.advantages).sum()
        return with_kl(total, tokens, self.kl)


@config
class Cispo:
    """CISPO of MiniMax-M1 (arXiv 2506.13585, Eq. 4 and 5).

    The loss is the mean over all tokens of -sg(min(rho, max_weight)) A_i log pi with GRPO's A_i:
    the importance weight is bounded above and has no gradient, so that rare tokens that a clipped
    ratio would silence still teach. ``max_weight`` is the paper's 1 + eps_high; 5 is ScaleRL's
    choice (arXiv 2510.13786).

    >>> from types import SimpleNamespace as Rollout
    >>> group = [Rollout(reward=r, iou=r, num_sampled=2) for r in (1.0, 0.0)]
    >>> credit = Cispo().credit(group, max_tokens=4)
    >>> [round(each, 3) for each in credit.advantages], credit.weights, credit.divisor
    ([0.707, -0.707], (1.0, 1.0), 4.0)
    """

    type: Literal["cispo"] = "cispo"
    max_weight: Annotated[float, Field(ge=1)] = 5.0
    kl: NotNegative = 0.0
    dynamic_sampling: DynamicSampling | None = None

    def credit(self, group: Sequence[Scored], *, max_tokens: int) -> Credit:
        """Advantages over the group's std; every token counts 1."""
        return Credit(centred(group, by_std=True), (1.0,) * len(group), num_tokens(group))

    def loss(self, tokens: Tokens) -> Loss:
        """REINFORCE with bounded importance weights."""
        ratio = tokens.ratio.detach()
        bounded = ratio.clamp(max=self.max_weight)
        total = -(tokens.weights * bounded * tokens.advantages * tokens.logprobs).sum()
        return with_kl(total, tokens, self.kl, clipped=bounded < ratio)


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

    def credit(self, group: Sequence[Scored], *, max_tokens: int) -> Credit:
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
        return with_kl(total, tokens, self.kl)
