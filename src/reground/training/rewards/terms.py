"""The rewards that a config can name. Each is in [0, 1] but for ``length``, which is in [-1, 0]."""

from __future__ import annotations

from typing import Literal

from reground.config import Count, NotNegative, Share, config
from reground.grounding.answers import Answer, Status
from reground.grounding.boxes import as_array, giou_matrix, match
from reground.grounding.grammars import Grammar
from reground.grounding.refinement_reward import Reward as Published
from reground.grounding.refinement_reward import reward, reward_of
from reground.grounding.sample import Sample
from reground.grounding.scoring import score
from reground.rollout.episode import Trajectory


@config
class Iou:
    """The matched IoU of an ok answer with the true boxes (UniVG-R1, section 3.3)."""

    type: Literal["iou"] = "iou"
    weight: NotNegative = 1.0
    name = "iou"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """In [0, 1]."""
        return score(answer, sample)


@config
class IouThreshold:
    """1 where that IoU is above ``threshold``, else 0."""

    type: Literal["iou_threshold"] = "iou_threshold"
    threshold: Share = 0.5
    weight: NotNegative = 1.0

    @property
    def name(self) -> str:
        """With its threshold: there may be several."""
        return f"iou_above_{self.threshold:g}"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0 or 1."""
        return float(score(answer, sample) > self.threshold)


@config
class IouSquared:
    """The square of that IoU: what is nearly right earns more of the difference."""

    type: Literal["iou_squared"] = "iou_squared"
    weight: NotNegative = 1.0
    name = "iou_squared"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """In [0, 1]."""
        return score(answer, sample) ** 2


@config
class Giou:
    """(1 + GIoU) / 2 of an ok answer (Rezatofighi et al. 2019): a near miss earns more.

    Boxes are matched one to one and the sum is divided by the larger number of boxes, as for IoU.
    """

    type: Literal["giou"] = "giou"
    weight: NotNegative = 1.0
    name = "giou"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """In [0, 1]; 1 where both sides are empty, 0 for another image than the target."""
        right_image = answer.image_index in (None, sample.target_image)
        if answer.status is not Status.OK or not right_image:
            return 0.0
        most = max(len(answer.boxes), len(sample.boxes))
        if not (answer.boxes and sample.boxes):
            return float(most == 0)
        first, second = as_array(answer.boxes), as_array(sample.boxes)
        overlaps = giou_matrix(first, second)
        return sum((1 + float(overlaps[pair])) / 2 for pair in match(first, second)) / most


@config
class ImageIndex:
    """1 where an ok answer names the target image; of one image no name is needed."""

    type: Literal["image_index"] = "image_index"
    weight: NotNegative = 1.0
    name = "image_index"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0 or 1."""
        named = 0 if len(sample.images) == 1 else answer.image_index
        return float(answer.status is Status.OK and named == sample.target_image)


@config
class Format:
    """1 where the response has the form of its protocol (UniVG-R1, section 3.3)."""

    type: Literal["format"] = "format"
    weight: NotNegative = 1.0
    name = "format"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0 or 1."""
        return float(answer.well_formed)


@config
class Length:
    """The soft punishment of long responses (DAPO, Eq. 13).

    0 up to ``limit - buffer`` sampled tokens, then down a straight line to -1 at ``limit``.
    """

    type: Literal["length"] = "length"
    limit: Count
    buffer: Count
    weight: NotNegative = 1.0
    name = "length"

    def __post_init__(self) -> None:
        if self.buffer > self.limit:
            raise ValueError(f"buffer {self.buffer} is above limit {self.limit}")

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """In [-1, 0]."""
        over = trajectory.num_sampled - (self.limit - self.buffer)
        return -min(max(over / self.buffer, 0.0), 1.0)


@config
class Refinement:
    """VG-Refiner's refinement reward, as published: 1 corrected, 0.5 confirmed, 0 wrong.

    Its rules of reading are its own: see :mod:`reground.grounding.refinement_reward`.
    """

    type: Literal["refinement"] = "refinement"
    weight: NotNegative = 1.0
    name = "refinement"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0, 0.5 or 1."""
        return _published(answer, sample, trajectory).refinement


@config
class RefinementFormat:
    """VG-Refiner's format reward, as published: 1 where all its tags are there."""

    type: Literal["refinement_format"] = "refinement_format"
    weight: NotNegative = 1.0
    name = "refinement_format"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0 or 1."""
        return _published(answer, sample, trajectory).format


def _published(answer: Answer, sample: Sample, trajectory: Trajectory) -> Published:
    """VG-Refiner's reward, in the numbers that the model writes."""
    assert trajectory.protocol is not None
    codec, target = trajectory.protocol.codec, sample.target_image
    frame = trajectory.prompt.images[target].size.frame(codec.frame)
    truth = [box.to(frame).xyxy for box in sample.boxes]
    tool = [each.box.to(frame).xyxy for each in sample.detections]
    if codec.grammar is Grammar.JSON:
        return reward(trajectory.text, truth=truth, tool=tool)
    boxes = [box.to(frame).xyxy for box in answer.boxes]
    return reward_of(trajectory.text, boxes, truth=truth, tool=tool)
