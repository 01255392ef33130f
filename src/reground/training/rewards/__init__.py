"""Rewards: named terms of a trajectory, whose weighted sum an algorithm turns into credit.

A reward is a function of (answer, sample, trajectory); those of a config are small objects with
their own settings (terms.py), a user's own is any such function, by the path of its file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Tag

from reground.config import by_type, config
from reground.errors import ConfigError, TrainingError
from reground.grounding.answers import Answer
from reground.grounding.sample import Sample
from reground.grounding.scoring import score as overlap
from reground.plugins import from_path
from reground.rollout.episode import Trajectory
from reground.training.rewards.terms import (
    Format,
    Giou,
    ImageIndex,
    Iou,
    IouSquared,
    IouThreshold,
    Length,
    Refinement,
    RefinementFormat,
)

Reward = Callable[[Answer, Sample, Trajectory], float]


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


RewardSettings = Annotated[
    Annotated[Iou, Tag("iou")]
    | Annotated[IouThreshold, Tag("iou_threshold")]
    | Annotated[IouSquared, Tag("iou_squared")]
    | Annotated[Giou, Tag("giou")]
    | Annotated[ImageIndex, Tag("image_index")]
    | Annotated[Format, Tag("format")]
    | Annotated[Length, Tag("length")]
    | Annotated[Refinement, Tag("refinement")]
    | Annotated[RefinementFormat, Tag("refinement_format")]
    | Annotated[OwnReward, Tag("own")],
    by_type(),
]
"""One entry of ``rewards:`` in a config, told apart by its ``type``, or by its ``path``."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A trajectory, what it answers, and what it earned; ``iou`` is always that of the answer."""

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
        return Scored(trajectory, answer, terms, total, overlap(answer, sample))


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
