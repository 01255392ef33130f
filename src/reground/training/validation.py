"""Greedy accuracy on held-out samples while training runs."""

from __future__ import annotations

from collections.abc import Sequence

from reground.data.source import open_dataset
from reground.grounding.answers import Status
from reground.grounding.sample import Sample
from reground.grounding.scoring import score
from reground.model.prompting import Prompter
from reground.rollout.episode import Case, Environment, roll_out
from reground.rollout.policy import Sampling, TrainedPolicy
from reground.training.settings import Validation


class Validator:
    """Answers the same held-out samples each time it is called."""

    def __init__(
        self,
        prompter: Prompter,
        settings: Validation,
        environment: Environment,
        policy: TrainedPolicy,
    ) -> None:
        self._prompter, self._settings, self._environment = prompter, settings, environment
        self._policy = policy
        self._samples: Sequence[Sample] = open_dataset(
            settings.data, seed=settings.seed, limit=settings.limit
        )[:]

    def __call__(self, version: int) -> dict[str, float]:
        """``validation/acc@0.5``, ``validation/mean_iou`` and the share of answers that parse.

        ``version`` counts the updates of the weights by now.
        """
        self._policy.sync(version)
        prompts = self._prompter.each(self._samples)
        cases = [Case(*pair) for pair in zip(self._samples, prompts, strict=True)]
        sampling = Sampling(max_tokens=self._settings.max_tokens)
        rolled = roll_out(self._policy, self._environment, cases, n=1, sampling=sampling)
        self._policy.rest()
        answers = [
            self._prompter.read(own[0].ids, case.prompt, target_image=case.sample.target_image)
            for own, case in zip(rolled, cases, strict=True)
        ]
        overlaps = [score(a, s) for a, s in zip(answers, self._samples, strict=True)]
        self._environment.counts()  # those of training alone are logged
        count = len(overlaps)
        return {
            "validation/acc@0.5": sum(overlap > 0.5 for overlap in overlaps) / count,
            "validation/mean_iou": sum(overlaps) / count,
            "validation/parsed": sum(answer.status is Status.OK for answer in answers) / count,
        }
