"""The IoU that counts, for the reward and for our metrics alike."""

from __future__ import annotations

from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import set_iou
from reground.grounding.sample import Sample

RIGHT = 0.5  # a box is right with IoU above this (VG-Refiner)


def score(answer: Answer, sample: Sample) -> float:
    """Matched IoU of an ok answer with the sample's true boxes, otherwise 0; in [0, 1].

    With one box on either side this is the plain IoU. An answer that names another image than the
    sample's target scores 0, however its box lies.
    """
    right_image = answer.image_index in (None, sample.target_image)
    if answer.status is not Status.OK or not right_image:
        return 0.0
    return set_iou(answer.boxes, sample.boxes)
