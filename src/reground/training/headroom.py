"""What reinforcement learning can gain: how good sampled answers are, and the best of each group.

RL moves a model towards the best of what it already samples. Where the best of G is no better than
the mean, or all of a prompt's samples earn alike, there is nothing to move towards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reground.errors import ConfigError
from reground.grounding.answers import Status
from reground.grounding.sample import Sample
from reground.training.algorithms.parts import DynamicSampling, mean_iou, spread, wanted
from reground.training.rewards import Scored
from reground.training.rl import Reinforcement
from reground.training.run import assembled, runtime_for
from reground.training.settings import TrainConfig

LITTLE = 0.05  # of Acc@0.5: less cannot be told from chance in a usual evaluation
FEW = 0.5  # of groups: fewer that teach, and most of a batch is decoded for nothing


@dataclass(frozen=True, slots=True)
class PromptRoom:
    """The group of one prompt: shares are of its G trajectories, ``spread`` is of rewards."""

    sample: Sample
    accuracy: float
    best: float  # 1 where one trajectory hits
    mean_iou: float
    parsed: float
    spread: float
    teaches: bool

    @classmethod
    def of(cls, group: Sequence[Scored]) -> PromptRoom:
        """What the trajectories of one prompt have earned; a hit is an IoU above 0.5."""
        hits = [float(own.iou > 0.5) for own in group]
        return cls(
            group[0].trajectory.sample,
            sum(hits) / len(group),
            max(hits),
            mean_iou(group),
            sum(own.answer.status is Status.OK for own in group) / len(group),
            spread(group),
            wanted(group, DynamicSampling()),
        )


@dataclass(frozen=True, slots=True)
class Headroom:
    """The same of many prompts."""

    prompts: tuple[PromptRoom, ...]
    group_size: int

    def mean(self, name: str) -> float:
        """The mean of a field of the prompts."""
        return sum(float(getattr(own, name)) for own in self.prompts) / len(self.prompts)

    def by_task(self) -> Mapping[str, Headroom]:
        """The prompts of each task, in the order of their first."""
        tasks = dict.fromkeys(own.sample.task for own in self.prompts)
        return {
            task: Headroom(
                tuple(own for own in self.prompts if own.sample.task == task), self.group_size
            )
            for task in tasks
        }

    @property
    def worth_it(self) -> list[Sample]:
        """The prompts whose trajectories earn unlike rewards."""
        return [own.sample for own in self.prompts if own.teaches]

    @property
    def verdict(self) -> str:
        """What it means for a run, in one sentence."""
        room = self.mean("best") - self.mean("accuracy")
        if self.mean("parsed") < FEW:
            return (
                f"only {self.mean('parsed'):.0%} of answers can be read: teach the form first "
                "(method: sft), for RL would spend its steps on it"
            )
        if room < LITTLE:
            return (
                f"little to gain: the best of {self.group_size} is right on {100 * room:.1f} "
                "points more prompts than a sample; draw other data, raise rollout.temperature, or "
                "start from a model that is less sure"
            )
        if self.mean("teaches") < FEW:
            return (
                f"up to {100 * room:.0f} points to gain, but {1 - self.mean('teaches'):.0%} of "
                "groups teach nothing: keep the prompts that do (--keep FILE), or set "
                "algorithm.dynamic_sampling"
            )
        return f"up to {100 * room:.0f} points to gain, from {self.mean('teaches'):.0%} of groups"


def headroom(config: TrainConfig, *, num_prompts: int) -> Iterator[PromptRoom]:
    """Roll out the first prompts that a run of ``config`` would draw, from its start model.

    Raises ``ConfigError`` where the run is not reinforcement learning, and as ``train`` does.
    """
    if config.method != "rl":
        raise ConfigError(f"found method: {config.method}; expected method: rl, which samples")
    parts = assembled(config, runtime_for(config))
    assert isinstance(parts.method, Reinforcement)
    try:
        for begin in range(0, num_prompts, config.batch_size):
            items = range(begin, min(begin + config.batch_size, num_prompts))
            for group in parts.method.rolled(items):
                yield PromptRoom.of(group.members)
    finally:
        parts.policy.close()
