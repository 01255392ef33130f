"""Group relative policy optimisation, and what Dr. GRPO and DAPO change in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from reground.config import NotNegative, config
from reground.training.algorithms.parts import (
    Clip,
    Credit,
    Difficulty,
    DynamicSampling,
    Loss,
    Rewarded,
    Tokens,
    centred,
    clipped_surrogate,
    difficulty_weight,
    mean_iou,
    num_tokens,
    per_sequence,
    with_kl,
)


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

    def credit(self, group: Sequence[Rewarded], *, max_tokens: int) -> Credit:
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

    def credit(self, group: Sequence[Rewarded], *, max_tokens: int) -> Credit:
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

    def credit(self, group: Sequence[Rewarded], *, max_tokens: int) -> Credit:
        """Advantages as they are; a token counts 1 / ``max_tokens``."""
        weights = (1 / max_tokens,) * len(group)
        return Credit(centred(group, by_std=False), weights, float(len(group)))

    def loss(self, tokens: Tokens) -> Loss:
        """The clipped surrogate and the KL term."""
        return _loss(self, tokens)


def _credit(
    settings: Grpo | Dapo, group: Sequence[Rewarded], *, normalise: Literal["sequence", "token"]
) -> Credit:
    phi = difficulty_weight(mean_iou(group), settings.difficulty)
    advantages = tuple(phi * each for each in centred(group, by_std=True))
    if normalise == "token":
        return Credit(advantages, (1.0,) * len(group), num_tokens(group), phi)
    return Credit(advantages, per_sequence(group), float(len(group)), phi)


def _loss(settings: Grpo | Dapo | DrGrpo, tokens: Tokens) -> Loss:
    high = settings.clip if settings.clip_high is None else settings.clip_high
    found = clipped_surrogate(tokens, tokens.ratio, low=settings.clip, high=high)
    return with_kl(found, tokens, settings.kl)
