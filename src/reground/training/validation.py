"""Greedy accuracy on held-out samples while training runs."""

from __future__ import annotations

from collections.abc import Sequence

from reground.data.source import open_dataset
from reground.grounding.answers import Status
from reground.grounding.sample import Sample
from reground.grounding.scoring import score
from reground.model.prompting import Prompter
from reground.rollout.episode import Environment, Start, roll_out
from reground.rollout.policy import Sampling, TrainedPolicy
from reground.training.ranks import gathered, place
from reground.training.settings import Validation


def validation_samples(settings: Validation) -> Sequence[Sample]:
    """The held-out samples, the same each time."""
    return open_dataset(settings.data, seed=settings.seed, limit=settings.limit)[:]


class Validator:
    """Answers the same held-out samples each time it is called, a part of them on each rank."""

    def __init__(
        self,
        prompter: Prompter,
        samples: Sequence[Sample],
        settings: Validation,
        environment: Environment,
        policy: TrainedPolicy,
    ) -> None:
        self._prompter, self._settings, self._environment = prompter, settings, environment
        self._samples, self._policy = samples, policy

    def __call__(self, version: int) -> dict[str, float]:
        """``validation/acc@0.5``, ``validation/mean_iou`` and the share of answers that parse.

        ``version`` counts the updates of the weights by now. Every rank must call, and gets the
        same figures.
        """
        self._policy.sync(version)
        rank, ranks = place()
        scored = gathered(self._scored(self._samples[rank::ranks]))
        self._policy.rest()
        self._environment.counts()  # those of training alone are logged
        count = len(scored)
        return {
            "validation/acc@0.5": sum(overlap > 0.5 for overlap, _ in scored) / count,
            "validation/mean_iou": sum(sorted(overlap for overlap, _ in scored)) / count,
            "validation/parsed": sum(is_parsed for _, is_parsed in scored) / count,
        }

    def _scored(self, samples: Sequence[Sample]) -> list[tuple[float, bool]]:
        """IoU of each sample's answer, and whether it parses."""
        prompts = self._prompter.each(samples) if samples else []
        starts = [Start(*pair) for pair in zip(samples, prompts, strict=True)]
        sampling = Sampling(max_tokens=self._settings.max_tokens)
        rolled = roll_out(self._policy, self._environment, starts, n=1, sampling=sampling)
        answers = [
            self._prompter.read(own[0].ids, start.prompt, sample=start.sample)
            for own, start in zip(rolled, starts, strict=True)
        ]
        return [
            (score(answer, sample), answer.status is Status.OK)
            for answer, sample in zip(answers, samples, strict=True)
        ]
