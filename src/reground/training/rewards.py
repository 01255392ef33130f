"""Rewards of a rollout as named terms: IoU for where the box is, format for how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reground.grounding.answers import Answer
from reground.grounding.sample import Sample
from reground.grounding.scoring import score as overlap
from reground.training.settings import Grpo


@dataclass(frozen=True, slots=True)
class Score:
    """The reward and the terms (each in [0, 1]) that it is the weighted sum of."""

    total: float
    terms: Mapping[str, float]


def score(answer: Answer, sample: Sample, settings: Grpo) -> Score:
    """r = iou_reward * IoU + format_reward * well-formed (UniVG-R1, section 3.3)."""
    terms = {"iou": overlap(answer, sample), "format": float(answer.well_formed)}
    weights = {"iou": settings.iou_reward, "format": settings.format_reward}
    return Score(sum(weights[name] * value for name, value in terms.items()), terms)
