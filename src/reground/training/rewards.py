"""Rewards of a rollout as named terms: the box, the form, and what became of a tool's box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reground.grounding.answers import Answer
from reground.grounding.boxes import Frame
from reground.grounding.codecs import Codec, EncodedSize
from reground.grounding.grammars import Grammar
from reground.grounding.refinement_reward import Reward, reward, reward_of
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


def score(
    text: str,
    answer: Answer,
    sample: Sample,
    settings: Grpo,
    *,
    codec: Codec,
    size: EncodedSize,
) -> Score:
    """r = iou_reward * IoU + format_reward * format + refinement_reward * refinement.

    ``answer`` is what ``text`` says of the image of ``size``. IoU and format are those of UniVG-R1
    (section 3.3). With a refinement reward, refinement and format are VG-Refiner's, as published:
    of a model that answers in JSON by their own reading of ``text``.
    """
    terms = {"iou": overlap(answer, sample), "format": float(answer.well_formed)}
    if settings.refinement_reward:
        published = _published(text, answer, sample, codec, size.frame(codec.frame))
        terms |= {"format": published.format, "refinement": published.refinement}
    return Score(sum(weight * terms[name] for name, weight in weights(settings).items()), terms)


def _published(text: str, answer: Answer, sample: Sample, codec: Codec, frame: Frame) -> Reward:
    """VG-Refiner's reward, in the numbers that the model writes."""
    target = sample.target_image
    truth = [each.box.to(frame).xyxy for each in sample.targets if each.image == target]
    tool = [each.box.to(frame).xyxy for each in sample.detections]
    if codec.grammar is Grammar.JSON:
        return reward(text, truth=truth, tool=tool)
    boxes = [box.to(frame).xyxy for box in answer.boxes]
    return reward_of(text, boxes, truth=truth, tool=tool)


def weights(settings: Grpo) -> dict[str, float]:
    """The terms that count, and how much each does."""
    named = {
        "iou": settings.iou_reward,
        "format": settings.format_reward,
        "refinement": settings.refinement_reward,
    }
    return {name: weight for name, weight in named.items() if weight}
