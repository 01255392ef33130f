"""Rewards: named terms of a trajectory, whose weighted sum an algorithm turns into credit.

A reward is a function of (answer, sample, trajectory); those of a config are small objects with
their own settings, a user's own is any such function, by the path of its file. The objects are in
[0, 1] but for ``length``, which is in [-1, 0].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Tag

from reground.config import Count, NotNegative, Share, by_type, config
from reground.errors import ConfigError, TrainingError
from reground.grounding import refinement_reward as published
from reground.grounding.answers import Answer, Status, score
from reground.grounding.boxes import as_array, giou_matrix, match
from reground.grounding.grammars import Grammar
from reground.grounding.sample import Sample
from reground.plugins import from_path
from reground.rollout.episode import Trajectory

Reward = Callable[[Answer, Sample, Trajectory], float]


@config
class Term:
    """What the terms of a config share: the ``type`` names it, unless it has another name."""

    type: str
    weight: NotNegative = 1.0

    @property
    def name(self) -> str:
        """What its figures are called."""
        return self.type

    @property
    def of_form(self) -> bool:
        """Whether it is about the form of a response alone, and not about what it points at."""
        return self.type in ("format", "refinement_format", "length")


@config
class Iou(Term):
    """The matched IoU of an ok answer with the true boxes (UniVG-R1, section 3.3)."""

    type: Literal["iou"] = "iou"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """In [0, 1]."""
        return score(answer, sample)


@config
class IouThreshold(Term):
    """1 where that IoU is above ``threshold``, else 0."""

    type: Literal["iou_threshold"] = "iou_threshold"
    threshold: Share = 0.5

    @property
    def name(self) -> str:
        """With its threshold: there may be several."""
        return f"iou_above_{self.threshold:g}"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0 or 1."""
        return float(score(answer, sample) > self.threshold)


@config
class IouSquared(Term):
    """The square of that IoU: what is nearly right earns more of the difference."""

    type: Literal["iou_squared"] = "iou_squared"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """In [0, 1]."""
        return score(answer, sample) ** 2


@config
class Giou(Term):
    """(1 + GIoU) / 2 of an ok answer (Rezatofighi et al. 2019): a near miss earns more.

    Boxes are matched one to one and the sum is divided by the larger number of boxes, as for IoU.
    """

    type: Literal["giou"] = "giou"

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
class ImageIndex(Term):
    """1 where an ok answer names the target image; of one image no name is needed."""

    type: Literal["image_index"] = "image_index"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0 or 1."""
        named = 0 if len(sample.images) == 1 else answer.image_index
        return float(answer.status is Status.OK and named == sample.target_image)


@config
class Format(Term):
    """1 where the response has the form of its protocol (UniVG-R1, section 3.3)."""

    type: Literal["format"] = "format"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0 or 1."""
        return float(answer.well_formed)


@config
class Length(Term):
    """The soft punishment of long responses (DAPO, Eq. 13).

    0 up to ``limit - buffer`` sampled tokens, then down a straight line to -1 at ``limit``.
    """

    type: Literal["length"] = "length"
    limit: Count
    buffer: Count

    def __post_init__(self) -> None:
        if self.buffer > self.limit:
            raise ValueError(f"buffer {self.buffer} is above limit {self.limit}")

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """In [-1, 0]."""
        over = trajectory.num_sampled - (self.limit - self.buffer)
        return -min(max(over / self.buffer, 0.0), 1.0)


@config
class RefinementTerm(Term):
    """VG-Refiner's refinement reward, as published: 1 corrected, 0.5 confirmed, 0 wrong.

    Its rules of reading are its own: see :mod:`reground.grounding.refinement_reward`.
    """

    type: Literal["refinement"] = "refinement"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0, 0.5 or 1."""
        return _published(answer, sample, trajectory).refinement


@config
class RefinementFormat(Term):
    """VG-Refiner's format reward, as published: 1 where all its tags are there."""

    type: Literal["refinement_format"] = "refinement_format"

    def __call__(self, answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        """0 or 1."""
        return _published(answer, sample, trajectory).format


@config
class OwnReward:
    """A function of the user's: ``path`` is FILE.py:NAME, and NAME is the term's name."""

    path: str
    type: Literal["own"] = "own"
    weight: float = 1.0

    @property
    def name(self) -> str:
        """The function's name."""
        return self.path.rpartition(":")[2]

    @property
    def of_form(self) -> bool:
        """Nobody knows."""
        return False


RewardSettings = Annotated[
    Annotated[Iou, Tag("iou")]
    | Annotated[IouThreshold, Tag("iou_threshold")]
    | Annotated[IouSquared, Tag("iou_squared")]
    | Annotated[Giou, Tag("giou")]
    | Annotated[ImageIndex, Tag("image_index")]
    | Annotated[Format, Tag("format")]
    | Annotated[Length, Tag("length")]
    | Annotated[RefinementTerm, Tag("refinement")]
    | Annotated[RefinementFormat, Tag("refinement_format")]
    | Annotated[OwnReward, Tag("own")],
    by_type(),
]
"""One entry of ``rewards:`` in a config, told apart by its ``type``, or by its ``path``."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A trajectory, what it answers, and what it earned.

    ``reward`` is the weighted sum of all terms; ``iou`` is that of the answer, in [0, 1], whether
    or not it is among the terms.
    """

    trajectory: Trajectory
    answer: Answer
    terms: Mapping[str, float]
    reward: float
    iou: float

    @property
    def num_sampled(self) -> int:
        """How many ids the policy sampled."""
        return self.trajectory.num_sampled


class Rewards:
    """The rewards of a config, ready to be given."""

    def __init__(self, settings: Sequence[RewardSettings]) -> None:
        self._weights = {each.name: each.weight for each in settings}
        self._terms: dict[str, Reward] = {each.name: _reward_of(each) for each in settings}

    @property
    def names(self) -> tuple[str, ...]:
        """The terms that count."""
        return tuple(self._weights)

    def score(self, trajectory: Trajectory, answer: Answer) -> Scored:
        """All terms, and their sum by weight.

        Raises ``TrainingError`` where a user's own fails or gives no finite number.
        """
        sample = trajectory.sample
        terms = {
            name: float(term(answer, sample, trajectory)) for name, term in self._terms.items()
        }
        total = sum(weight * terms[name] for name, weight in self._weights.items())
        return Scored(trajectory, answer, terms, total, score(answer, sample))


def _reward_of(settings: RewardSettings) -> Reward:
    if not isinstance(settings, OwnReward):
        return settings
    path, own = settings.path, from_path(settings.path)
    if not callable(own):
        raise ConfigError(f"reward {path}: is no function; expected one of answer, sample and "
                          "trajectory")  # fmt: skip

    def guarded(answer: Answer, sample: Sample, trajectory: Trajectory) -> float:
        try:
            value = float(own(answer, sample, trajectory))
        except Exception as error:
            raise TrainingError(
                f"reward {path}: failed for sample {sample.id} ({type(error).__name__}: {error}); "
                "mend the function"
            ) from error
        if not math.isfinite(value):
            raise TrainingError(
                f"reward {path}: gave {value} for sample {sample.id}, expected a finite number"
            )
        return value

    return guarded


def _published(answer: Answer, sample: Sample, trajectory: Trajectory) -> published.Reward:
    """VG-Refiner's reward, in the numbers that the model writes."""
    assert trajectory.protocol is not None
    codec, target = trajectory.protocol.codec, sample.target_image
    frame = trajectory.prompt.images[target].size.frame(codec.frame)
    truth = [box.to(frame).xyxy for box in sample.boxes]
    tool = [each.box.to(frame).xyxy for each in sample.detections]
    is_json = codec.grammar is Grammar.JSON
    boxes = None if is_json else [box.to(frame).xyxy for box in answer.boxes]
    return published.reward(trajectory.text, truth=truth, tool=tool, boxes=boxes)
