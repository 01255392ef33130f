"""A policy that says what it is told: for tests of everything around a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reground.model.chat import Chat, Prompt
from reground.rollout.policy import Completion, Sampling


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """Completions are the texts that ``script(prompt, number)`` gives, numbers 0 to n - 1."""

    chat: Chat
    script: Callable[[Prompt, int], str]

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        keys: Sequence[int] | None = None,
    ) -> list[tuple[Completion, ...]]:
        """The scripted texts as ids, cut at ``sampling.max_tokens``; log-probs are 0."""
        return [
            tuple(self._completion(self.script(prompt, number), sampling) for number in range(n))
            for prompt in prompts
        ]

    def _completion(self, text: str, sampling: Sampling) -> Completion:
        ids = [*self.chat.encode_answer(text), self.chat.end_id]
        kept = tuple(ids[: sampling.max_tokens])
        return Completion(kept, (0.0,) * len(kept), "stop" if len(kept) == len(ids) else "length")
