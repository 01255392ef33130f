"""Credit and loss of group relative policy optimisation, with the difficulty-aware weight.

UniVG-R1 (arXiv 2505.14231), Eq. 1-4, with the safe definitions of phi: never negative, never
rising with mIoU, and scaling the policy term alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Difficulty = Literal["exp", "log", "square", "none"]
Normalise = Literal["sequence", "token", "dr_grpo"]

STD_FLOOR = 1e-4  # added to the group's standard deviation, as in the authors' code
LOG_FLOOR = 0.02
EASY, HARD = 0.7, 0.3  # mIoU bounds of the difficulty bins (Figure 3)


@dataclass(frozen=True, slots=True)
class Credit:
    """What a group's rollouts earn: one advantage each, one difficulty weight for all."""

    advantages: tuple[float, ...]
    phi: float
    mean_iou: float

    @property
    def varies(self) -> bool:
        """Whether the group can teach anything: some advantage is not 0."""
        return any(self.advantages)


def credit(
    rewards: Sequence[float],
    ious: Sequence[float],
    *,
    difficulty: Difficulty,
    scale_by_std: bool = True,
) -> Credit:
    """Advantages (r - mean) / (std + 1e-4), unbiased std (Eq. 1), and phi of the group's mIoU.

    Dr. GRPO leaves the standard deviation out (``scale_by_std`` False).

    >>> [round(a, 4) for a in credit([1, 0], [1, 0], difficulty="none").advantages]
    [0.707, -0.707]
    """
    mean = math.fsum(rewards) / len(rewards)
    std = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    scale = std + STD_FLOOR if scale_by_std else 1.0
    same = max(rewards) - min(rewards) < 1e-9
    advantages = tuple(0.0 if same else (r - mean) / scale for r in rewards)
    mean_iou = math.fsum(ious) / len(ious)
    return Credit(advantages, difficulty_weight(mean_iou, difficulty), mean_iou)


def difficulty_weight(mean_iou: float, form: Difficulty) -> float:
    """phi(mIoU): larger for harder prompts (section 3.4 and Table 5).

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


@dataclass(frozen=True, slots=True)
class GrpoTerms:
    """Per-token terms, flat [N] over scored tokens of a micro-batch.

    ``weights`` [N] already hold the normalisation of sequences or tokens (without the global
    divisor), so that the loss is a plain weighted sum.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor | None
    advantages: Tensor
    phi: Tensor
    weights: Tensor


@dataclass(frozen=True, slots=True)
class GrpoLoss:
    """The loss (a sum, to be divided by the global normaliser) and what to log, flat [N]."""

    total: Tensor
    kl: Tensor
    clipped: Tensor


def grpo_loss(terms: GrpoTerms, *, clip: float, kl: float) -> GrpoLoss:
    """-phi * min(rho A, clip(rho) A) + beta * KL, with the k3 estimate of the KL (Eq. 3 and 4)."""
    ratio = torch.exp(terms.logprobs - terms.old_logprobs)
    bounded = ratio.clamp(1 - clip, 1 + clip)
    policy = terms.phi * torch.minimum(ratio * terms.advantages, bounded * terms.advantages)
    loss, divergence = -policy, torch.zeros_like(terms.logprobs)
    if terms.reference_logprobs is not None and kl > 0:
        gap = terms.reference_logprobs - terms.logprobs
        divergence = torch.exp(gap) - gap - 1
        loss = loss + kl * divergence
    worse = bounded * terms.advantages < ratio * terms.advantages
    return GrpoLoss((terms.weights * loss).sum(), divergence.detach(), worse.detach())


def token_weights(mask: Tensor, *, normalise: Normalise, max_tokens: int) -> Tensor:
    """Each scored token's share of the loss, [B, G, C], before the global divisor.

    "sequence": mean over a sequence's tokens, divisor = sequences. "token": 1, divisor = tokens.
    "dr_grpo": 1 / max_tokens, divisor = sequences.
    """
    scored = mask.float()
    match normalise:
        case "sequence":
            return scored / scored.sum(-1, keepdim=True).clamp(min=1)
        case "token":
            return scored
        case "dr_grpo":
            return scored / max_tokens
