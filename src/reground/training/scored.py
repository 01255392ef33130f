"""Groups of scored trajectories with their credit: what is trained on, counted and logged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reground.grounding.answers import RIGHT, Status
from reground.protocols.readings import Reading, overlaps
from reground.rollout.episode import RolloutStatus, Trajectory
from reground.training.algorithms.parts import EASY, HARD, SAME, Credit, mean_iou
from reground.training.packing import TrainGroup, TrainSequence
from reground.training.rewards import Scored
from reground.training.tally import Tally

_PATCHES = re.compile(r"(<\|image_pad\|>|<IMG_CONTEXT>)+")


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """All trajectories of one prompt, ``item`` of the run, and what each of them earned."""

    item: int
    members: tuple[Scored, ...]
    credit: Credit

    def sequences(self) -> TrainGroup:
        """The group as training tokens: credit on every sampled id, none on an observation."""
        sequences = []
        for number, own in enumerate(self.members):
            trajectory, weight = own.trajectory, self.credit.weights[number]
            advantage = self.credit.advantages[number]
            sequences.append(
                TrainSequence(
                    trajectory.ids,
                    tuple(weight * sampled for sampled in trajectory.sampled),
                    trajectory.images,
                    tuple(advantage * sampled for sampled in trajectory.sampled),
                    trajectory.logprobs,
                    f"{trajectory.sample.id}#{number}",
                )
            )
        return TrainGroup(self.members[0].trajectory.prompt, tuple(sequences))


def batch_tally(groups: Sequence[ScoredGroup]) -> Tally:
    """Means of credit, rewards, parsing and rollouts, over all groups that were drawn.

    ``varied/TERM`` is the share of groups whose trajectories differ in a term, ``rollout/best`` of
    those whose best one is right; ``frame/declared`` is the mean IoU of the first box as it is
    read, and ``frame/KIND`` (``KIND_yx``: y before x) if its numbers counted something else.
    """
    tally = Tally()
    for group in groups:
        advantages, overlap = group.credit.advantages, mean_iou(group.members)
        for name in group.members[0].terms:
            earned = [own.terms[name] for own in group.members]
            tally.add(f"varied/{name}", float(max(earned) - min(earned) > SAME))
        tally.add("rollout/best", float(max(own.iou for own in group.members) > RIGHT))
        tally.add("advantage/spread", max(advantages) - min(advantages))
        tally.add("advantage/zero_variance", float(not group.credit.teaches))
        tally.add("difficulty/easy", float(overlap > EASY))
        tally.add("difficulty/medium", float(HARD <= overlap <= EASY))
        tally.add("difficulty/hard", float(overlap < HARD))
        tally.add("difficulty/phi", group.credit.phi)
        for own in group.members:
            tally.add("reward/total", own.reward)
            for name, value in {"iou": own.iou, **own.terms}.items():
                tally.add(f"reward/{name}", value)
            for name, value in _readings(own.trajectory).items():
                tally.add(f"frame/{name}", value)
            for status in Status:
                tally.add(f"parse/{status.value}", float(own.answer.status is status))
            tally.add("rollout/length", own.num_sampled)
            for ending in RolloutStatus:
                tally.add(f"rollout/{ending.value}", float(own.trajectory.status is ending))
    return tally


def _readings(trajectory: Trajectory) -> dict[str, float]:
    """IoU of an answer by every reading of its numbers."""
    assert trajectory.protocol is not None
    sample, declared = trajectory.sample, Reading(trajectory.protocol.codec.frame)
    size, truth = trajectory.prompt.images[sample.target_image].size, next(iter(sample.boxes), None)
    found = overlaps(trajectory.text, trajectory.protocol, size, truth)
    return {
        "declared" if reading == declared else reading.key: value
        for reading, value in found.items()
    }


def logged(groups: Sequence[ScoredGroup]) -> list[dict[str, Any]]:
    """The best and the worst trajectory of each group, as rows that a person can read.

    An image of a tool is one image token there.
    """
    rows = []
    for group in groups:
        ranked = sorted(range(len(group.members)), key=lambda i: -group.members[i].reward)
        rows += [_row(group, number) for number in dict.fromkeys((ranked[0], ranked[-1]))]
    return rows


def _row(group: ScoredGroup, number: int) -> dict[str, Any]:
    own = group.members[number]
    trajectory = own.trajectory
    return {
        "item": group.item,
        "sample": trajectory.sample.id,
        "question": trajectory.sample.question,
        "rollout": number,
        "text": _PATCHES.sub(r"\1", trajectory.text),
        "status": own.answer.status.value,
        "ending": trajectory.status.value,
        "reward": own.reward,
        **{f"reward/{name}": value for name, value in {"iou": own.iou, **own.terms}.items()},
        "advantage": group.credit.advantages[number],
        "phi": group.credit.phi,
        "mean_iou": mean_iou(group.members),
    }
