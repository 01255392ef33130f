"""Algorithms that clip the ratio to the old policy: GRPO, DAPO, Dr. GRPO, GSPO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from reground.config import NotNegative, config
from reground.training.algorithms.parts import (
    Clip,
    Credit,
    Difficulty,
    DynamicSampling,
    Loss,
    Tokens,
    centred,
    clipped_surrogate,
    difficulty_weight,
    mean_iou,
    num_tokens,
    per_sequence,
)
from reground.training.rewards import Scored


@config
class Grpo:
    """GRPO with the difficulty weight of UniVG-R1 (arXiv 2505.14231, Eq. 1 to 4).

    A_i = (r_i - mean) / std, and the loss is the mean over sequences of the mean over tokens of
    -phi(mIoU) min(rho A, clip(rho, 1 - clip, 1 + clip_high) A) + kl KL. With ``normalise: token``
    it is the mean over all tokens. ``clip_high`` is ``clip`` where it is not given.

    >>> from types import SimpleNamespace as Rollout
    >>> group = [Rollout(reward=r, iou=r, num_sampled=2) for r in (1.0, 0.0)]
    >>> credit = Grpo(difficulty="none").credit(group, max_tokens=4)
    >>> [round(each, 3) for each in credit.advantages], credit.weights, credit.divisor
    ([0.707, -0.707], (0.5, 0.5), 2.0)
    """

    type: Literal["grpo"] = "grpo"
    clip: Clip = 0.2
    clip_high: NotNegative | None = None
    kl: NotNegative = 0.04
    difficulty: Difficulty = "exp"
    normalise: Literal["sequence", "token"] = "sequence"
    dynamic_sampling: DynamicSampling | None = None

    def credit(self, group: Sequence[Scored], *, max_tokens: int) -> Credit:
        """Advantages over the group's std, times phi of its mIoU."""
        return _credit(self, group, normalise=self.normalise)

    def loss(self, tokens: Tokens) -> Loss:
        """The clipped surrogate and the KL term."""
        return _loss(self, tokens)


@config
class Dapo:
    """DAPO (arXiv 2503.14476, Eq. 8 to 12): GRPO that clips higher, means over tokens, draws again.

    A_i = (r_i - mean) / std, clip(rho, 1 - 0.2, 1 + 0.28), every token of the batch weighs alike,
    no KL, and groups without variance are drawn again. Its soft punishment of long answers is the
    reward ``length``.

    >>> from types import SimpleNamespace as Rollout
    >>> group = [Rollout(reward=r, iou=r, num_sampled=n) for r, n in ((1.0, 1), (0.0, 3))]
    >>> credit = Dapo().credit(group, max_tokens=4)
    >>> [round(each, 3) for each in credit.advantages], credit.weights, credit.divisor
    ([0.707, -0.707], (1.0, 1.0), 4.0)
    """

    type: Literal["dapo"] = "dapo"
    clip: Clip = 0.2
    clip_high: NotNegative = 0.28
    kl: NotNegative = 0.0
    difficulty: Difficulty = "none"
    dynamic_sampling: DynamicSampling | None = DynamicSampling()

    def credit(self, group: Sequence[Scored], *, max_tokens: int) -> Credit:
        """Advantages over the group's std; every token counts 1."""
        return _credit(self, group, normalise="token")

    def loss(self, tokens: Tokens) -> Loss:
        """The surrogate, clipped higher above than below."""
        return _loss(self, tokens)


@config
class DrGrpo:
    """Dr. GRPO (arXiv 2503.20783, section 3.2): GRPO without its two biases.

    A_i = r_i - mean, not over the std, and the tokens of a sequence are summed and divided by
    the longest that it may be, so that long wrong answers are not let off lightly.

    >>> from types import SimpleNamespace as Rollout
    >>> group = [Rollout(reward=r, iou=r, num_sampled=2) for r in (1.0, 0.0)]
    >>> credit = DrGrpo().credit(group, max_tokens=4)
    >>> credit.advantages, credit.weights, credit.divisor
    ((0.5, -0.5), (0.25, 0.25), 2.0)
    """

    type: Literal["dr_grpo"] = "dr_grpo"
    clip: Clip = 0.2
    clip_high: NotNegative | None = None
    kl: NotNegative = 0.0
    dynamic_sampling: DynamicSampling | None = None

    def credit(self, group: Sequence[Scored], *, max_tokens: int) -> Credit:
        """Advantages as they are; a token counts 1 / ``max_tokens``."""
        weights = (1 / max_tokens,) * len(group)
        return Credit(centred(group, by_std=False), weights, float(len(group)))

    def loss(self, tokens: Tokens) -> Loss:
        """The clipped surrogate and the KL term."""
        return _loss(self, tokens)


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

    def credit(self, group: Sequence[Scored], *, max_tokens: int) -> Credit:
        """Advantages over the group's std; every sequence counts 1."""
        return Credit(centred(group, by_std=True), per_sequence(group), float(len(group)))

    def loss(self, tokens: Tokens) -> Loss:
        """The clipped surrogate of sequence ratios, each written on its sequence's tokens."""
        ratio = sequence_ratio(tokens)
        return clipped_surrogate(tokens, ratio, low=self.clip, high=self.clip_high, kl=self.kl)


def _credit(
    settings: Grpo | Dapo, group: Sequence[Scored], *, normalise: Literal["sequence", "token"]
) -> Credit:
    phi = difficulty_weight(mean_iou(group), settings.difficulty)
    advantages = tuple(phi * each for each in centred(group, by_std=True))
    if normalise == "token":
        return Credit(advantages, (1.0,) * len(group), num_tokens(group), phi)
    return Credit(advantages, per_sequence(group), float(len(group)), phi)


def _loss(settings: Grpo | Dapo | DrGrpo, tokens: Tokens) -> Loss:
    high = settings.clip if settings.clip_high is None else settings.clip_high
    return clipped_surrogate(tokens, tokens.ratio, low=settings.clip, high=high, kl=settings.kl)


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
