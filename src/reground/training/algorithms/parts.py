"""What algorithms are made of: credit of a group, streams of tokens, formulas that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from reground.config import Count, NotNegative, config
from reground.training.rewards import Scored

Difficulty = Literal["exp", "log", "square", "none"]
Clip = Annotated[float, Field(gt=0, lt=1)]

STD_FLOOR = 1e-4  # added to the group's standard deviation, as in UniVG-R1's code
LOG_FLOOR = 0.02
EASY, HARD = 0.7, 0.3  # mIoU bounds of the difficulty bins (UniVG-R1, Figure 3)
SAME = 1e-9  # rewards this close differ by rounding alone


@dataclass(frozen=True, slots=True)
class Credit:
    """What the rollouts of one prompt earn; one number a rollout, the same for all its tokens.

    ``advantages`` hold the difficulty weight ``phi`` already. ``weights`` are those of a token in
    the sum of the loss, which is divided by the ``divisor`` of all groups of the global batch.
    """

    advantages: tuple[float, ...]
    weights: tuple[float, ...]
    divisor: float
    phi: float = 1.0

    @property
    def teaches(self) -> bool:
        """Whether anything can be learned: some advantage is not 0."""
        return any(self.advantages)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Streams of the sampled tokens of a micro-batch, flat [N].

    ``advantages`` also hold the importance weight of an engine's tokens; ``sequence`` [N] numbers
    the rollout of each token from 0; ``reference`` is None without a KL term.
    """

    logprobs: Tensor
    old: Tensor
    advantages: Tensor
    weights: Tensor
    sequence: Tensor
    reference: Tensor | None = None

    @property
    def ratio(self) -> Tensor:
        """rho = pi / pi_old of each token, [N]."""
        return torch.exp(self.logprobs - self.old)


@dataclass(frozen=True, slots=True)
class Loss:
    """The sum over tokens, before the global divisor; ``kl`` and ``clipped`` [N] are for logs."""

    total: Tensor
    kl: Tensor
    clipped: Tensor


@config
class DynamicSampling:
    """Draw again in the place of groups whose rewards differ by at most ``threshold``.

    Groups are accepted in the global order of draws until the batch is full. After ``max_draws``
    times the batch without success the run stops. DAPO (arXiv 2503.14476), Eq. 11.
    """

    threshold: NotNegative = 0.0
    max_draws: Count = 10


class Algorithm(Protocol):
    """Credit for a group, then a loss for tokens.

    ``kl`` is the weight of the KL to the starting model (0: no reference is kept).
    """

    @property
    def kl(self) -> float:
        """The weight of the KL term."""

    @property
    def dynamic_sampling(self) -> DynamicSampling | None:
        """When to draw again; None takes every group."""

    def credit(self, group: Sequence[Scored], *, max_tokens: int) -> Credit:
        """What each rollout of one prompt earns; one may sample ``max_tokens`` at most."""

    def loss(self, tokens: Tokens) -> Loss:
        """The loss of tokens with their credit."""


def wanted(group: Sequence[Scored], sampling: DynamicSampling | None) -> bool:
    """Whether dynamic sampling keeps a group."""
    return sampling is None or spread(group) > max(sampling.threshold, SAME)


def spread(group: Sequence[Scored]) -> float:
    """The largest reward of a group less its smallest."""
    rewards = [each.reward for each in group]
    return max(rewards) - min(rewards)


def centred(group: Sequence[Scored], *, by_std: bool) -> tuple[float, ...]:
    """r - mean of the group, over its unbiased std + 1e-4 if ``by_std``; 0 where all are alike."""
    rewards = [each.reward for each in group]
    if spread(group) < SAME:
        return (0.0,) * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    std = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    scale = std + STD_FLOOR if by_std else 1.0
    return tuple((r - mean) / scale for r in rewards)


def mean_iou(group: Sequence[Scored]) -> float:
    """The group's mIoU."""
    return math.fsum(each.iou for each in group) / len(group)


def difficulty_weight(mean_iou: float, form: Difficulty) -> float:
    """phi(mIoU): larger for harder prompts, never negative (UniVG-R1, section 3.4 and Table 5).

    >>> [round(difficulty_weight(0.5, form), 3) for form in ("exp", "log", "square", "none")]
    [1.649, 0.693, 0.25, 1.0]
    """
    match form:
        case "exp":
            return math.exp(1 - mean_iou)
        case "log":
            return -math.log(min(max(mean_iou, LOG_FLOOR), 1.0)) + 0.0
        case "square":
            return (1 - mean_iou) ** 2
        case "none":
            return 1.0


def per_sequence(group: Sequence[Scored]) -> tuple[float, ...]:
    """Token weights with which each sequence counts 1: the mean over its tokens."""
    return tuple(1 / max(1, each.num_sampled) for each in group)


def num_tokens(group: Sequence[Scored]) -> float:
    """How many ids a group sampled."""
    return float(sum(each.num_sampled for each in group))


def clipped_surrogate(tokens: Tokens, ratio: Tensor, *, low: float, high: float, kl: float) -> Loss:
    """-min(rho A, clip(rho, 1 - low, 1 + high) A) of each token, summed by weight, and the KL."""
    bounded = ratio.clamp(1 - low, 1 + high) * tokens.advantages
    free = ratio * tokens.advantages
    total = -(tokens.weights * torch.minimum(free, bounded)).sum()
    return with_kl(total, tokens, kl, clipped=(bounded < free).detach())


def with_kl(total: Tensor, tokens: Tokens, beta: float, *, clipped: Tensor | None = None) -> Loss:
    """The loss plus beta times the k3 estimate of the KL to the reference, token by token.

    k3 = pi_ref / pi - log(pi_ref / pi) - 1 (Schulman 2020). phi does not scale it. ``clipped`` is
    None where nothing ever is.
    """
    none = torch.zeros_like(tokens.logprobs)
    clipped = none.bool() if clipped is None else clipped
    if tokens.reference is None or beta == 0:
        return Loss(total, none, clipped)
    gap = tokens.reference - tokens.logprobs
    divergence = torch.exp(gap) - gap - 1
    return Loss(total + beta * (tokens.weights * divergence).sum(), divergence.detach(), clipped)
