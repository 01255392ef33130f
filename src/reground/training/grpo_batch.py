"""What a batch of GRPO is made of: groups with their credit, packed, and what is logged of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from reground.grounding.answers import Answer, Status
from reground.grounding.sample import Sample
from reground.model.chat import Chat, Prompt
from reground.rollout.episode import Rollout, RolloutStatus
from reground.training import objective
from reground.training.objective import Credit
from reground.training.packing import Group, MicroBatch, Suffix
from reground.training.rewards import Score
from reground.training.tally import Tally

_PATCHES = re.compile(r"(<\|image_pad\|>)+")
_LOGGED = 2  # rollouts of each group that go to the rollout log: the best and the worst


@dataclass(frozen=True, slots=True)
class RolledGroup:
    """One prompt with everything that its group of rollouts led to."""

    item: int
    sample: Sample
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    answers: tuple[Answer, ...]
    scores: tuple[Score, ...]
    credit: Credit

    def pack(self) -> Group:
        """The group as training tokens: every sampled id counts, none that was told."""
        suffixes = tuple(Suffix(each.ids, each.weights, each.images) for each in self.rollouts)
        return Group(self.item, self.prompt, suffixes)


@dataclass(frozen=True, slots=True)
class GrpoMicro:
    """A micro-batch with the credit of its tokens, flat [N], and log-probs to compare with."""

    packed: MicroBatch
    groups: tuple[RolledGroup, ...]
    sampled_logprobs: Tensor
    advantages: Tensor
    phi: Tensor
    weights: Tensor
    old_logprobs: Tensor | None
    reference_logprobs: Tensor | None

    @property
    def num_tokens(self) -> int:
        """Tokens of the forward, padding included."""
        return self.packed.num_tokens

    def halves(self) -> tuple[GrpoMicro, GrpoMicro] | None:
        """The same tokens with the same credit in two; None for one rollout."""
        if (parts := self.packed.halves()) is None:
            return None
        first, second = parts
        cut = int(first.batch.scored.sum())
        if len(self.groups) > 1:
            middle = len(first.rows)
            groups, others = self.groups[:middle], self.groups[middle:]
        else:
            middle, (group,) = first.batch.suffix_ids.shape[1], self.groups
            groups = (replace(group, rollouts=group.rollouts[:middle]),)
            others = (replace(group, rollouts=group.rollouts[middle:]),)
        return (
            self._part(first, groups, slice(cut)),
            self._part(second, others, slice(cut, None)),
        )

    def _part(
        self, packed: MicroBatch, groups: tuple[RolledGroup, ...], tokens: slice
    ) -> GrpoMicro:
        flat: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)[2:]}
        own = {name: values[tokens] for name, values in flat.items() if values is not None}
        return replace(self, packed=packed, groups=groups, **own)


def batch_tally(groups: Sequence[RolledGroup]) -> Tally:
    """Means of credit, rewards, parsing and rollouts, over all groups of a batch."""
    tally = Tally()
    for group in groups:
        spread = max(group.credit.advantages) - min(group.credit.advantages)
        tally.add("advantage/spread", spread)
        tally.add("advantage/zero_variance", float(not group.credit.varies))
        mean_iou = group.credit.mean_iou
        tally.add("difficulty/easy", float(mean_iou > objective.EASY))
        tally.add("difficulty/medium", float(objective.HARD <= mean_iou <= objective.EASY))
        tally.add("difficulty/hard", float(mean_iou < objective.HARD))
        tally.add("difficulty/phi", group.credit.phi)
        for rollout, answer, own in zip(group.rollouts, group.answers, group.scores, strict=True):
            tally.add("reward/total", own.total)
            for name, value in own.terms.items():
                tally.add(f"reward/{name}", value)
            for status in Status:
                tally.add(f"parse/{status.value}", float(answer.status is status))
            tally.add("rollout/length", rollout.num_sampled)
            for ending in RolloutStatus:
                tally.add(f"rollout/{ending.value}", float(rollout.status is ending))
    return tally


def logged(groups: Sequence[RolledGroup], chat: Chat) -> list[dict[str, Any]]:
    """The best and the worst rollout of each group, as rows that a person can read.

    An image of a tool is one image token there.
    """
    rows = []
    for group in groups:
        ranked = sorted(range(len(group.scores)), key=lambda i: -group.scores[i].total)
        for number in dict.fromkeys((*ranked[: _LOGGED - 1], ranked[-1])):
            rows.append(
                {
                    "item": group.item,
                    "sample": group.sample.id,
                    "question": group.sample.question,
                    "rollout": number,
                    "text": _PATCHES.sub(r"\1", chat.decode(group.rollouts[number].ids)),
                    "status": group.answers[number].status.value,
                    "ending": group.rollouts[number].status.value,
                    "reward": group.scores[number].total,
                    **{f"reward/{k}": v for k, v in group.scores[number].terms.items()},
                    "advantage": group.credit.advantages[number],
                    "phi": group.credit.phi,
                    "mean_iou": group.credit.mean_iou,
                }
            )
    return rows
