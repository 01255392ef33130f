"""Clipped importance sampling: bound the weight of a token, never drop its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field

from reground.config import NotNegative, config
from reground.training.algorithms.parts import (
    Credit,
    DynamicSampling,
    Loss,
    Rewarded,
    Tokens,
    centred,
    num_tokens,
    with_kl,
)


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

    def credit(self, group: Sequence[Rewarded], *, max_tokens: int) -> Credit:
        """Advantages over the group's std; every token counts 1."""
        return Credit(centred(group, by_std=True), (1.0,) * len(group), num_tokens(group))

    def loss(self, tokens: Tokens) -> Loss:
        """REINFORCE with bounded importance weights."""
        ratio = tokens.ratio.detach()
        bounded = ratio.clamp(max=self.max_weight)
        total = -(tokens.weights * bounded * tokens.advantages * tokens.logprobs).sum()
        return with_kl(Loss(total, torch.zeros_like(ratio), bounded < ratio), tokens, self.kl)
