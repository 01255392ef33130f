"""Group relative policy optimisation: roll out, score, give credit, update on shared prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reground.model.parts import has_adapters, reference_copy, without_adapters
from reground.model.prompting import Prompter
from reground.model.runtime import runtime_of
from reground.rollout.episode import Case, Environment, Rollout, roll_out
from reground.rollout.policy import Sampling, TrainedPolicy
from reground.training import objective
from reground.training.agreement import GapError, truncated
from reground.training.draw import Draws
from reground.training.grpo_batch import GrpoMicro, RolledGroup, batch_tally, logged
from reground.training.method import LogProbs, StepBatch
from reground.training.objective import GrpoTerms
from reground.training.packing import MicroBatch, micro_batches
from reground.training.rewards import score
from reground.training.settings import TrainConfig
from reground.training.tally import Tally


class Grpo:
    """Rollouts come from the weights being trained; with one update a batch, old is now."""

    ahead = False

    def __init__(
        self,
        prompter: Prompter,
        draws: Draws,
        environment: Environment,
        policy: TrainedPolicy,
        config: TrainConfig,
    ) -> None:
        self._prompter, self._draws, self._config = prompter, draws, config
        self._environment, self._policy = environment, policy
        self._settings = config.grpo
        chat = prompter.checkpoint.chat
        self.updates_per_batch = self._settings.updates_per_batch
        self.module: nn.Module = LogProbs(
            prompter.checkpoint.model,
            temperature=self._settings.temperature,
            banned_ids=chat.banned_ids,
        )
        self.reference = self._frozen() if self._settings.kl > 0 else None

    def _frozen(self) -> nn.Module:
        """The starting weights: the model itself, to be run without its adapters, or a copy."""
        if has_adapters(self.module):
            return self.module
        model = self._prompter.checkpoint.model
        return reference_copy(self.module, runtime_of(model).autocast)

    def batch(self, step: int, items: Sequence[int]) -> StepBatch:
        """Roll out the items' prompts, score them and pack what can teach."""
        self._policy.sync((step - 1) * self.updates_per_batch)
        groups = self._roll_out(items)
        self._policy.rest()
        kept = [g.pack() for g in groups if g.credit.varies or self._settings.kl > 0]
        kept = kept or [groups[0].pack()]  # every rank takes part in every step, if with nothing
        chat = self._prompter.checkpoint.chat
        packed = micro_batches(kept, self._prompter.checkpoint, self._config)
        by_item = {group.item: group for group in groups}
        micros = [
            self._with_credit(micro, tuple(by_item[item] for item in micro.rows))
            for micro in packed
        ]
        tokens = sum(rollout.num_sampled for group in groups for rollout in group.rollouts)
        sequences = len(groups) * self._settings.group_size
        normaliser = float(tokens if self._settings.normalise == "token" else sequences)
        learnable = any(group.credit.varies for group in groups)
        tally = batch_tally(groups)
        for name, count in self._environment.counts().items():
            tally.add_count(f"tool/{name}", count)
        return StepBatch(micros, normaliser, tally, logged(groups, chat), learnable)

    def loss(self, module: nn.Module, micro: GrpoMicro, normaliser: float, tally: Tally) -> Tensor:
        """This micro-batch's part of the objective (facts: Eq. 4 with clip and k3 KL)."""
        logprobs = module(micro.packed.batch)
        old = micro.old_logprobs if micro.old_logprobs is not None else logprobs.detach()
        self._compare(micro, old, tally)
        terms = GrpoTerms(
            logprobs,
            old,
            micro.reference_logprobs,
            micro.advantages,
            micro.phi * truncated(old, micro.sampled_logprobs, self._config.engine.truncate),
            micro.weights,
        )
        loss = objective.grpo_loss(terms, clip=self._settings.clip, kl=self._settings.kl)
        tally.add("objective/kl", float(loss.kl.sum()), loss.kl.numel())
        tally.add("objective/clip_share", float(loss.clipped.sum()), loss.clipped.numel())
        return loss.total / normaliser

    def _roll_out(self, items: Sequence[int]) -> list[RolledGroup]:
        samples = [self._draws.sample(item) for item in items]
        prompts = self._prompter.each(samples)
        cases = [Case(sample, prompt) for sample, prompt in zip(samples, prompts, strict=True)]
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
        protocol = self._prompter.protocol(sample)
        texts = [self._prompter.text(rollout.ids) for rollout in rollouts]
        answers = tuple(protocol.read(text, size) for text in texts)
        scores = tuple(
            score(text, answer, sample, self._settings, codec=protocol.codec, size=size)
            for text, answer in zip(texts, answers, strict=True)
        )
        credit = objective.credit(
            [s.total for s in scores],
            [s.terms["iou"] for s in scores],
            difficulty=self._settings.difficulty,
            scale_by_std=self._settings.normalise != "dr_grpo",
        )
        return RolledGroup(item, sample, case.prompt, rollouts, answers, scores, credit)

    def _compare(self, micro: GrpoMicro, old: Tensor, tally: Tally) -> None:
        """How far the engine that sampled is from the trainer, which is to be rounding alone."""
        gaps = (old - micro.sampled_logprobs).abs()
        if not len(gaps):
            return
        tally.add("rollout/logprob_gap", float(gaps.sum()), len(gaps))
        tally.add_peak("rollout/logprob_gap_max", float(gaps.max()))
        if not float(gaps.mean()) <= self._config.engine.tolerance:
            raise GapError.of(micro, old, self._config.engine.tolerance)

    def _with_credit(self, packed: MicroBatch, groups: tuple[RolledGroup, ...]) -> GrpoMicro:
        scored = packed.batch.scored
        advantages = torch.tensor([g.credit.advantages for g in groups], device=scored.device)
        phi = torch.tensor([g.credit.phi for g in groups], device=scored.device)
        sampled = [p for g in groups for rollout in g.rollouts for p in rollout.logprobs]
        sampled = sampled if bool(scored.any()) else []
        weights = objective.token_weights(
            scored, normalise=self._settings.normalise, max_tokens=self._settings.max_tokens
        )
        with torch.no_grad():
            old = self.module(packed.batch) if self.updates_per_batch > 1 else None
            with without_adapters(self.module):
                reference = self.reference(packed.batch) if self.reference else None
        return GrpoMicro(
            packed,
            groups,
            torch.tensor(sampled, device=scored.device),
            advantages[..., None].expand(scored.shape)[scored],
            phi[:, None, None].expand(scored.shape)[scored],
            weights[scored],
            old,
            reference,
        )
