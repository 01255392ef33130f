"""Rewards of a rollout as named terms: the box, the form, and what became of a tool's box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reground.grounding.answers import Answer
from reground.grounding.boxes import Frame
from reground.grounding.refinement_reward import Quad, reward
from reground.grounding.sample import Sample
from reground.grounding.scoring import score as overlap
from reground.training.settings import Grpo


@dataclass(frozen=True, slots=True)
class Score:
    """The reward and its terms, each in [0, 1]: the weighted sum of those with a weight.

    ``iou`` is always there: the difficulty weight is made of it.
    """

    total: float
    terms: Mapping[str, float]


def score(text: str, answer: Answer, sample: Sample, settings: Grpo, *, frame: Frame) -> Score:
    """r = iou_reward * IoU + format_reward * format + refinement_reward * refinement.

    IoU and format are those of UniVG-R1 (section 3.3): of ``answer``, as everywhere. With a
    refinement reward, refinement and format are VG-Refiner's, as published: their reading of
    ``text``, in whose ``frame`` they compare the true boxes and the detector's.
    """
    terms = {"iou": overlap(answer, sample), "format": float(answer.well_formed)}
    if settings.refinement_reward:
        published = reward(
            text,
            truth=_quads(sample, frame, tool=False),
            tool=_quads(sample, frame, tool=True),
        )
        terms |= {"format": published.format, "refinement": published.refinement}
    return Score(sum(weight * terms[name] for name, weight in weights(settings).items()), terms)


def weights(settings: Grpo) -> dict[str, float]:
    """The terms that count, and how much each does."""
    named = {
        "iou": settings.iou_reward,
        "format": settings.format_reward,
        "refinement": settings.refinement_reward,
    }
    return {name: weight for name, weight in named.items() if weight}


def _quads(sample: Sample, frame: Frame, *, tool: bool) -> list[Quad]:
    places = (sample.tool_results or ()) if tool else sample.targets
    return [each.box.to(frame).xyxy for each in places if each.image == sample.target_image]
