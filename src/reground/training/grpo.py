"""Group relative policy optimisation: roll out, score, give credit, update on shared prompts."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reground.grounding.answers import Answer, Status, parse
from reground.grounding.sample import Sample
from reground.model.chat import Prompt
from reground.model.forward import GroupBatch
from reground.model.parts import has_adapters, without_adapters
from reground.model.prompting import Prompter
from reground.rollout.episode import Case, Environment, Rollout, RolloutStatus, roll_out
from reground.rollout.policy import Sampling
from reground.rollout.transformers_policy import TransformersPolicy
from reground.training import objective
from reground.training.draw import Draws
from reground.training.method import LogProbs, StepBatch
from reground.training.objective import Credit, GrpoTerms
from reground.training.packing import Group, MicroBatch, Suffix, pack
from reground.training.rewards import Score, score
from reground.training.settings import TrainConfig
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
    advantages: Tensor
    phi: Tensor
    weights: Tensor
    old_logprobs: Tensor | None
    reference_logprobs: Tensor | None


class Grpo:
    """Rollouts come from the weights being trained; with one update a batch, old is now."""

    ahead = False

    def __init__(
        self, prompter: Prompter, draws: Draws, environment: Environment, config: TrainConfig
    ) -> None:
        self._prompter, self._draws, self._config = prompter, draws, config
        self._environment = environment
        self._settings = config.grpo
        chat = prompter.checkpoint.chat
        self.updates_per_batch = self._settings.updates_per_batch
        self.module: nn.Module = LogProbs(
            prompter.checkpoint.model,
            temperature=self._settings.temperature,
            banned_ids=chat.banned_ids,
        )
        self._policy = TransformersPolicy(prompter.checkpoint)
        self._reference = _Reference(self.module) if self._settings.kl > 0 else None

    def batch(self, step: int, items: Sequence[int]) -> StepBatch:
        """Roll out the items' prompts, score them and pack what can teach."""
        groups = self._roll_out(items)
        self._policy.version = step * self.updates_per_batch
        kept = [g.pack() for g in groups if g.credit.varies or self._settings.kl > 0]
        kept = kept or [groups[0].pack()]  # every rank takes part in every step, if with nothing
        chat = self._prompter.checkpoint.chat
        packed = pack(
            kept,
            max_tokens=self._config.micro_batch_tokens,
            pad_id=chat.pad_id,
            device=self._prompter.checkpoint.model.device,
        )
        credits = {group.item: group.credit for group in groups}
        micros = [self._with_credit(micro, credits) for micro in packed]
        tokens = sum(rollout.num_sampled for group in groups for rollout in group.rollouts)
        sequences = len(groups) * self._settings.group_size
        normaliser = float(tokens if self._settings.normalise == "token" else sequences)
        learnable = any(group.credit.varies for group in groups)
        tally = _tally(groups)
        for name, count in self._environment.counts().items():
            tally.add(f"tool/{name}", count)
        return StepBatch(micros, normaliser, tally, _records(groups, self._prompter), learnable)

    def loss(self, module: nn.Module, micro: GrpoMicro, normaliser: float, tally: Tally) -> Tensor:
        """This micro-batch's part of the objective (facts: Eq. 4 with clip and k3 KL)."""
        logprobs = module(micro.packed.batch)
        old = micro.old_logprobs if micro.old_logprobs is not None else logprobs.detach()
        terms = GrpoTerms(
            logprobs, old, micro.reference_logprobs, micro.advantages, micro.phi, micro.weights
        )
        loss = objective.grpo_loss(terms, clip=self._settings.clip, kl=self._settings.kl)
        tally.add("objective/kl", float(loss.kl.sum()), loss.kl.numel())
        tally.add("objective/clip_share", float(loss.clipped.sum()), loss.clipped.numel())
        return loss.total / normaliser

    def _roll_out(self, items: Sequence[int]) -> list[RolledGroup]:
        samples = [self._draws.sample(item) for item in items]
        cases = [Case(sample, self._prompter.prompt(sample)) for sample in samples]
        rolled = roll_out(
            self._policy,
            self._environment,
            cases,
            n=self._settings.group_size,
            sampling=Sampling(
                temperature=self._settings.temperature, max_tokens=self._settings.max_tokens
            ),
            keys=[self._config.seed * 2**32 + item for item in items],
        )
        return [self._scored(*parts) for parts in zip(items, cases, rolled, strict=True)]

    def _scored(self, item: int, case: Case, rollouts: tuple[Rollout, ...]) -> RolledGroup:
        sample = self._environment.seen(case.sample)
        size = case.prompt.images[sample.target_image].size
        family = self._prompter.family
        texts = [self._prompter.checkpoint.chat.decode(rollout.ids) for rollout in rollouts]
        answers = tuple(parse(text, family, size) for text in texts)
        scores = tuple(
            score(text, answer, sample, self._settings, family=family, size=size)
            for text, answer in zip(texts, answers, strict=True)
        )
        credit = objective.credit(
            [s.total for s in scores],
            [s.terms["iou"] for s in scores],
            difficulty=self._settings.difficulty,
            scale_by_std=self._settings.normalise != "dr_grpo",
        )
        return RolledGroup(item, sample, case.prompt, rollouts, answers, scores, credit)

    def _with_credit(self, packed: MicroBatch, credits: dict[int, Credit]) -> GrpoMicro:
        scored = packed.batch.scored
        rows = [credits[item] for item in packed.rows]
        advantages = torch.tensor([row.advantages for row in rows], device=scored.device)
        phi = torch.tensor([row.phi for row in rows], device=scored.device)
        weights = objective.token_weights(
            scored, normalise=self._settings.normalise, max_tokens=self._settings.max_tokens
        )
        with torch.no_grad():
            old = self.module(packed.batch) if self.updates_per_batch > 1 else None
            reference = self._reference(packed.batch) if self._reference else None
        return GrpoMicro(
            packed,
            advantages[..., None].expand(scored.shape)[scored],
            phi[:, None, None].expand(scored.shape)[scored],
            weights[scored],
            old,
            reference,
        )


class _Reference:
    """Log-probs of the starting weights: the model without its adapters, or a frozen copy."""

    def __init__(self, module: nn.Module) -> None:
        adapted = has_adapters(module)
        self._module = module if adapted else copy.deepcopy(module).requires_grad_(False)

    def __call__(self, batch: GroupBatch) -> Tensor:
        with without_adapters(self._module):
            logprobs: Tensor = self._module(batch)
        return logprobs


def _tally(groups: Sequence[RolledGroup]) -> Tally:
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


def _records(groups: Sequence[RolledGroup], prompter: Prompter) -> list[dict[str, Any]]:
    """The best and the worst rollout of each group, as rows that a person can read.

    An image of a tool is one image token there.
    """
    chat, rows = prompter.checkpoint.chat, []
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
