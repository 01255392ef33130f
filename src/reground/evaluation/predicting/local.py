"""A model in this process answers samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reground.errors import DataError
from reground.evaluation.predicting.question import Add, Question, images_of
from reground.evaluation.records import Finish, Prediction
from reground.grounding.sample import Sample
from reground.model.chat import Prompt
from reground.model.load import fingerprint
from reground.model.prompting import Prompter
from reground.model.runtime import Runtime, named_place, place_of
from reground.protocols.choice import Protocols
from reground.rollout.engine.policy import EnginePolicy
from reground.rollout.environment import PlannedEnvironment, Start
from reground.rollout.episode import RolloutStatus, roll_out
from reground.rollout.opening import opened
from reground.rollout.policy import Policy, Sampling

BATCH = 64

_FINISH: dict[RolloutStatus, Finish] = {
    RolloutStatus.COMPLETED: "stop",
    RolloutStatus.OVER_LONG: "length",
    RolloutStatus.NO_CALL: "no_call",
    RolloutStatus.TOOL_FAILED: "tool_failed",
}


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A checkpoint and the policy that samples from it.

    ``blank`` replaces every image by a grey one: what is left is what the model guesses.
    """

    prompter: Prompter
    policy: Policy
    environment: PlannedEnvironment
    weights: str | None
    max_tokens: int
    blank: bool = False

    @classmethod
    def load(cls, question: Question, protocols: Protocols) -> LocalModel:
        """The checkpoint that the question names, asked under ``protocols``."""
        runtime = Runtime.resolve(device=question.device, dtype=question.dtype)
        checkpoint, policy = opened(question.model, runtime, engine=question.engine)
        prompter = Prompter(checkpoint, protocols)
        return cls(
            prompter,
            policy,
            PlannedEnvironment(prompter),
            fingerprint(question.model),
            question.max_tokens,
            question.blank,
        )

    @property
    def pixel_limits(self) -> tuple[int, int]:
        """The fewest and most pixels that an image is encoded at."""
        return self.prompter.checkpoint.chat.pixel_limits

    @property
    def place(self) -> Mapping[str, str]:
        """Where it computes, and in what: vLLM's weights come from the CPU."""
        model = self.prompter.checkpoint.model
        in_vllm = isinstance(self.policy, EnginePolicy)
        return named_place(Runtime.resolve().device, model.dtype) if in_vllm else place_of(model)

    def answer(self, samples: Sequence[Sample], *, add: Add) -> None:
        """Greedy answers in the order of ``samples``.

        A sample whose image cannot be read becomes a prediction with an error, not an exception.
        """
        for first in range(0, len(samples), BATCH):
            for prediction in self._answers(samples[first : first + BATCH]):
                add(prediction)

    def _answers(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        asked = [self._prompt_or_error(sample) for sample in samples]
        starts = [
            Start(sample, prompt)
            for sample, prompt in zip(samples, asked, strict=True)
            if not isinstance(prompt, str)
        ]
        sampling = Sampling(max_tokens=self.max_tokens)
        rolled = iter(roll_out(self.policy, self.environment, starts, n=1, sampling=sampling))
        for prompt, sample in zip(asked, samples, strict=True):
            if isinstance(prompt, str):
                yield Prediction(sample, error=prompt)
                continue
            (rollout,) = next(rolled)
            yield Prediction(
                sample,
                text=self.prompter.text(rollout.ids),
                sizes=tuple(image.size for image in prompt.images),
                num_tokens=rollout.num_sampled,
                finish=_FINISH[rollout.status],
            )

    def _prompt_or_error(self, sample: Sample) -> Prompt | str:
        """The sample's prompt, or why one of its images cannot be used."""
        try:
            images = images_of(sample, blank=self.blank)
            return self.prompter.prompts([sample], images=images)[0]
        except DataError as error:
            return str(error)
