"""Reinforcement learning: roll out, score, give credit, update on shared prompts.

The algorithm (``config.algorithm``) and the rewards (``config.rewards``) are objects of their own;
what stays here is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from reground.errors import TrainingError
from reground.grounding.sample import Sample
from reground.model.parts import has_adapters, reference_copy, without_adapters
from reground.model.prompting import Prompter, side_by_side
from reground.model.runtime import runtime_of
from reground.rollout.environment import PlannedEnvironment, Start
from reground.rollout.episode import Trajectory, roll_out
from reground.rollout.policy import Sampling, TrainedPolicy
from reground.training.agreement import GapError, importance_weights
from reground.training.algorithms import algorithm_of
from reground.training.algorithms.parts import DynamicSampling, Tokens, wanted
from reground.training.draw import Draws
from reground.training.method import LogProbs, StepBatch, fitted
from reground.training.packing import MicroBatch, micro_batches
from reground.training.ranks import gathered, place
from reground.training.rewards import Rewards
from reground.training.scored import ScoredGroup, batch_tally, logged
from reground.training.settings import TrainConfig
from reground.training.tally import Tally


class Reinforcement:
    """Rollouts come from the weights being trained; with one update a batch, old is now."""

    ahead = False

    def __init__(
        self,
        prompter: Prompter,
        draws: Draws,
        environment: PlannedEnvironment,
        policy: TrainedPolicy,
        config: TrainConfig,
    ) -> None:
        self._prompter, self._draws, self._config = prompter, draws, config
        self._environment, self._policy = environment, policy
        self._rewards, self._algorithm = Rewards(config.rewards), algorithm_of(config.algorithm)
        self._settings = config.rollout
        self.updates_per_batch = self._settings.updates_per_batch
        self.module: nn.Module = LogProbs(
            prompter.checkpoint.model,
            temperature=self._settings.temperature,
            banned_ids=prompter.checkpoint.chat.banned_ids,
        )
        self.reference: nn.Module | None = None
        if self._algorithm.kl > 0:  # the model itself, to be run without its adapters, or a copy
            autocast = runtime_of(prompter.checkpoint.model).autocast
            adapted = has_adapters(self.module)
            self.reference = self.module if adapted else reference_copy(self.module, autocast)

    def batch(self, step: int, items: Sequence[int]) -> StepBatch:
        """Roll out the items' prompts, score them and pack what can teach."""
        self._policy.sync((step - 1) * self.updates_per_batch)
        groups, drawn = self._groups(step, items)
        self._policy.rest()
        teaching = [group for group in groups if group.credit.teaches or self._algorithm.kl > 0]
        # Every rank takes part in every step, if with nothing.
        kept = [group.sequences() for group in teaching or (groups or drawn)[:1]]
        micros = micro_batches(kept, self._prompter.checkpoint, self._config)
        if not groups:
            micros = [micro.silent() for micro in micros]
        tally = batch_tally(drawn)
        tally.add_count("rollout/groups", len(drawn))
        for name, count in self._environment.counts().items():
            tally.add_count(f"tool/{name}", count)
        return StepBatch(
            [own for micro in micros for own in self._with_other_weights(step, micro)],
            sum(group.credit.divisor for group in groups),
            tally,
            logged(groups),
            any(group.credit.teaches for group in groups),
        )

    def loss(self, module: nn.Module, micro: MicroBatch, normaliser: float, tally: Tally) -> Tensor:
        """This micro-batch's part of the algorithm's loss."""
        logprobs = module(micro.batch)
        old = logprobs.detach() if micro.old is None else micro.flat(micro.old)
        sampled = micro.flat(micro.sampled_logprobs)
        self._compare(micro, old, sampled, tally)
        tokens = Tokens(
            logprobs,
            old,
            micro.flat(micro.advantages)
            * importance_weights(old, sampled, self._config.engine.truncate),
            micro.flat(micro.batch.weights),
            micro.sequence,
            None if micro.reference is None else micro.flat(micro.reference),
        )
        loss = self._algorithm.loss(tokens)
        tally.add("objective/kl", float(loss.kl.sum()), loss.kl.numel())
        tally.add("objective/clip_share", float(loss.clipped.sum()), loss.clipped.numel())
        return loss.total / max(normaliser, 1.0)

    def _groups(
        self, step: int, items: Sequence[int]
    ) -> tuple[list[ScoredGroup], list[ScoredGroup]]:
        """The groups to learn from, and all that were drawn, of this rank.

        With dynamic sampling groups are drawn again in the place of those that it does not want,
        and accepted in the global order of draws: the same ones on any number of ranks.
        """
        sampling, size = self._algorithm.dynamic_sampling, self._config.batch_size
        drawn = self.rolled(items)
        if sampling is None:
            return drawn, drawn
        rank, ranks = place()
        known = self._wanted(drawn, sampling)
        while (missing := size - sum(known.values())) > 0:
            if len(known) >= sampling.max_draws * size:
                raise TrainingError(
                    f"step {step}: {size - missing} of {len(known)} groups have rewards that "
                    f"differ by more than {sampling.threshold:g}, expected {size}; start from a "
                    "model that is sometimes right and sometimes wrong, draw easier or harder "
                    "data, or raise algorithm.dynamic_sampling.max_draws",
                    help="no-reward-variance",
                )
            count = min(2 * missing, sampling.max_draws * size - len(known))
            begin = len(known)
            more = range(begin, begin + count)
            own = [self._item(step, number) for number in more if number % ranks == rank]
            again = self.rolled(own)
            drawn += again
            known |= self._wanted(again, sampling)
        accepted = set(sorted(item for item, ok in known.items() if ok)[:size])
        return [group for group in drawn if group.item in accepted], drawn

    def _item(self, step: int, number: int) -> int:
        """The item of a step's draw ``number``, rising with it: those of the run, then others."""
        round_, offset = divmod(number, self._config.batch_size)
        return (step - 1 + round_ * self._config.steps) * self._config.batch_size + offset

    def _wanted(self, groups: Sequence[ScoredGroup], sampling: DynamicSampling) -> dict[int, bool]:
        """Whether each group of all ranks is wanted, by item."""
        return dict(gathered([(group.item, wanted(group.members, sampling)) for group in groups]))

    def rolled(self, items: Sequence[int]) -> list[ScoredGroup]:
        """The items' prompts with their scored trajectories, by the weights of now."""
        rolled = roll_out(
            self._policy,
            self._environment,
            side_by_side(lambda item: self._draws.usable(item, self._start, 1), items),
            n=self._settings.group_size,
            sampling=Sampling(
                temperature=self._settings.temperature, max_tokens=self._settings.max_tokens
            ),
            keys=[self._config.seed * 2**32 + item for item in items],
        )
        return [self._scored(item, group) for item, group in zip(items, rolled, strict=True)]

    def _start(self, samples: Sequence[Sample]) -> Start:
        return Start(samples[0], self._prompter.prompt(samples[0]))

    def _scored(self, item: int, group: Sequence[Trajectory]) -> ScoredGroup:
        protocol = self._prompter.protocol(group[0].sample)
        size = group[0].prompt.images[group[0].sample.target_image].size
        members = []
        for each in group:
            text = self._prompter.text(each.ids)
            read = replace(each, text=text, protocol=protocol)
            members.append(self._rewards.score(read, protocol.read(text, size)))
        credit = self._algorithm.credit(members, max_tokens=self._settings.max_tokens)
        return ScoredGroup(item, tuple(members), credit)

    def _compare(self, micro: MicroBatch, old: Tensor, sampled: Tensor, tally: Tally) -> None:
        """How far the engine that sampled is from the trainer, which is to be rounding alone."""
        gaps = (old - sampled).abs()
        if not len(gaps):
            return
        tally.add("rollout/logprob_gap", float(gaps.sum()), len(gaps))
        tally.add_peak("rollout/logprob_gap_max", float(gaps.max()))
        if not float(gaps.mean()) <= self._config.engine.tolerance:
            raise GapError.of(micro, old, self._config.engine.tolerance)

    def _with_other_weights(self, step: int, micro: MicroBatch) -> list[MicroBatch]:
        """With the log-probs of the weights that sampled and of the reference, where needed.

        In halves where memory ends.
        """
        if self._config.sharding == "full":  # every rank would have to halve its own
            return [self._filled(micro)]
        return fitted(micro, self._filled, step)

    @torch.no_grad()
    def _filled(self, micro: MicroBatch) -> MicroBatch:
        old = self.module(micro.batch) if self.updates_per_batch > 1 else None
        with without_adapters(self.module):
            reference = self.reference(micro.batch) if self.reference else None
        return micro.with_streams(old=old, reference=reference)
