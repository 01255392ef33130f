"""Greedy accuracy on held-out samples while training runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reground.data.source import open_dataset
from reground.grounding.answers import Status, score
from reground.grounding.sample import Sample
from reground.model.prompting import Prompter
from reground.rollout.environment import PlannedEnvironment, Start
from reground.rollout.episode import roll_out
from reground.rollout.policy import Sampling, TrainedPolicy
from reground.training.ranks import gathered, place
from reground.training.settings import Validation


def validation_samples(settings: Validation) -> Sequence[Sample]:
    """The held-out samples, the same each time."""
    return open_dataset(settings.data, seed=settings.seed, limit=settings.limit)[:]


@dataclass(frozen=True, slots=True)
class Validator:
    """Answers the same held-out samples each time it is called, a part of them on each rank."""

    prompter: Prompter
    samples: Sequence[Sample]
    settings: Validation
    environment: PlannedEnvironment
    policy: TrainedPolicy

    def __call__(self, version: int) -> dict[str, float]:
        """``validation/acc@0.5``, ``validation/mean_iou`` and the share of answers that parse.

        ``version`` counts the updates of the weights by now. Every rank must call, and gets the
        same figures.
        """
        self.policy.sync(version)
        rank, ranks = place()
        scored = gathered(self._scored(self.samples[rank::ranks]))
        self.policy.rest()
        self.environment.counts()  # those of training alone are logged
        overlaps, parsed = zip(*scored, strict=True)
        return {
            "validation/acc@0.5": sum(overlap > 0.5 for overlap in overlaps) / len(scored),
            "validation/mean_iou": sum(sorted(overlaps)) / len(scored),
            "validation/parsed": sum(parsed) / len(scored),
        }

    def _scored(self, samples: Sequence[Sample]) -> list[tuple[float, bool]]:
        """IoU of each sample's answer, and whether it parses."""
        prompts = self.prompter.each(samples)
        starts = [Start(*pair) for pair in zip(samples, prompts, strict=True)]
        sampling = Sampling(max_tokens=self.settings.max_tokens)
        rolled = roll_out(self.policy, self.environment, starts, n=1, sampling=sampling)
        scored = []
        for (only,), start in zip(rolled, starts, strict=True):
            answer = self.prompter.read(only.ids, start.prompt, sample=start.sample)
            scored.append((score(answer, start.sample), answer.status is Status.OK))
        return scored
