"""A model in this process answers samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from reground.errors import DataError
from reground.evaluation.predicting.question import Add, Question, images_of
from reground.evaluation.records import Draw, Finish, Prediction, to_keep
from reground.grounding.sample import Sample
from reground.model.chat import Prompt
from reground.model.load import fingerprint, takes_any_size
from reground.model.prompting import Prompter
from reground.model.runtime import Runtime, named_place, place_of
from reground.protocols.choice import Protocols
from reground.rollout.engine.policy import EnginePolicy
from reground.rollout.environment import PlannedEnvironment, Start
from reground.rollout.episode import RolloutStatus, Trajectory, roll_out
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
    sampling: Sampling
    draws: int = 1
    seed: int = 0
    blank: bool = False

    @classmethod
    def load(cls, question: Question, protocols: Protocols) -> LocalModel:
        """The checkpoint that the question names, asked under ``protocols``."""
        runtime = Runtime.resolve(device=question.device, dtype=question.dtype)
        limits = question.limits(any_size=takes_any_size(question.model))
        checkpoint, policy = opened(question.model, runtime, engine=question.engine, limits=limits)
        prompter = Prompter(checkpoint, protocols)
        return cls(
            prompter,
            policy,
            PlannedEnvironment(prompter),
            fingerprint(question.model),
            Sampling(temperature=question.temperature, max_tokens=question.max_tokens),
            question.draws,
            question.seed,
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

    def answer(
        self, samples: Sequence[Sample], *, add: Add, left: Collection[str] | None = None
    ) -> None:
        """Answers in the order of ``samples``; sampled ones depend on seed and sample alone.

        Those that were computed together are so again, although some are answered already: scores
        depend on it in their last digits. A sample whose image cannot be read becomes a prediction
        with an error, not an exception.
        """
        for first in range(0, len(samples), BATCH):
            batch = samples[first : first + BATCH]
            wanted = {each.id for each in batch if left is None or each.id in left}
            for prediction in self._answers(batch) if wanted else ():
                if prediction.sample.id in wanted:
                    add(prediction)

    def _answers(self, samples: Sequence[Sample]) -> Iterator[Prediction]:
        asked = [self._prompt_or_error(sample) for sample in samples]
        starts = [
            Start(sample, prompt)
            for sample, prompt in zip(samples, asked, strict=True)
            if not isinstance(prompt, str)
        ]
        rolled = iter(
            roll_out(
                self.policy,
                self.environment,
                starts,
                n=self.draws,
                sampling=self.sampling,
                keys=[self._key(start.sample) for start in starts],
            )
        )
        for prompt, sample in zip(asked, samples, strict=True):
            if isinstance(prompt, str):
                yield Prediction(sample, error=prompt)
                continue
            first, *others = map(self._draw, next(rolled))
            yield Prediction(
                sample,
                text=first.text,
                sizes=tuple(image.size for image in prompt.images),
                num_tokens=first.num_tokens,
                finish=first.finish,
                others=tuple(others),
                scores=first.scores,
            )

    def _draw(self, rollout: Trajectory) -> Draw:
        scores = self.prompter.scores(rollout.ids, rollout.logprobs, sample=rollout.sample)
        text, finish = self.prompter.text(rollout.ids), _FINISH[rollout.status]
        return Draw(text, rollout.num_sampled, finish, to_keep(scores))

    def _key(self, sample: Sample) -> int:
        return int.from_bytes(sha256(f"{self.seed} {sample.id}".encode()).digest()[:7])

    def _prompt_or_error(self, sample: Sample) -> Prompt | str:
        """The sample's prompt, or why one of its images cannot be used."""
        try:
            images = images_of(sample, blank=self.blank)
            return self.prompter.prompts([sample], images=images)[0]
        except DataError as error:
            return str(error)
