"""Group sequence policy optimisation: the ratio belongs to the sequence, as the reward does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reground.config import NotNegative, config
from reground.training.algorithms.parts import (
    Clip,
    Credit,
    DynamicSampling,
    Loss,
    Rewarded,
    Tokens,
    centred,
    clipped_surrogate,
    per_sequence,
    with_kl,
)


@config
class Gspo:
    """GSPO (arXiv 2507.18071, Eq. 5 to 7).

    s_i = (pi(y_i) / pi_old(y_i)) ** (1 / |y_i|), the geometric mean of the token ratios, and the
    loss is the mean over sequences of -min(s_i A_i, clip(s_i, 1 - clip, 1 + clip_high) A_i) with
    GRPO's A_i. Sequence ratios stay close to 1, so the bounds are those of the paper: 3e-4, 4e-4.

    >>> from types import SimpleNamespace as Rollout
    >>> group = [Rollout(reward=r, iou=r, num_sampled=4) for r in (1.0, 0.0)]
    >>> credit = Gspo().credit(group, max_tokens=8)
    >>> [round(each, 3) for each in credit.advantages], credit.weights
    ([0.707, -0.707], (0.25, 0.25))
    """

    type: Literal["gspo"] = "gspo"
    clip: Clip = 3e-4
    clip_high: NotNegative = 4e-4
    kl: NotNegative = 0.0
    dynamic_sampling: DynamicSampling | None = None

    def credit(self, group: Sequence[Rewarded], *, max_tokens: int) -> Credit:
        """Advantages over the group's std; every sequence counts 1."""
        return Credit(centred(group, by_std=True), per_sequence(group), float(len(group)))

    def loss(self, tokens: Tokens) -> Loss:
        """The clipped surrogate of sequence ratios, each written on its sequence's tokens."""
        ratio = sequence_ratio(tokens)
        found = clipped_surrogate(tokens, ratio, low=self.clip, high=self.clip_high)
        return with_kl(found, tokens, self.kl)


def sequence_ratio(tokens: Tokens) -> Tensor:
    """The geometric mean of a sequence's token ratios, on each of its tokens, [N].

    >>> ones = torch.ones(3)
    >>> logprobs = torch.tensor([0.25, 0.75, 0.0])
    >>> two = Tokens(logprobs, torch.zeros(3), ones, ones, sequence=torch.tensor([0, 0, 1]))
    >>> [round(each, 3) for each in sequence_ratio(two).log().tolist()]
    [0.5, 0.5, 0.0]
    """
    if not len(tokens.sequence):
        return tokens.ratio
    gaps = tokens.logprobs - tokens.old
    count = int(tokens.sequence.max()) + 1
    sums = gaps.new_zeros(count).index_add(0, tokens.sequence, gaps)
    lengths = torch.bincount(tokens.sequence, minlength=count).clamp(min=1)
    return torch.exp((sums / lengths)[tokens.sequence])
