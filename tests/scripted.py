"""A policy that writes what a test wants to be written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reground.model.chat import Chat, Prompt
from reground.rollout.policy import DONE, Completion, Finish, Heard, Prefix, Prefixes, Sampling


@dataclass(frozen=True, slots=True)
class ScriptedPolicy:
    """Completions are the texts that ``script(prompt, number)`` gives, numbers 0 to n - 1.

    ``next_turn(prefix text, number)`` gives those of later turns.
    """

    chat: Chat
    script: Callable[[Prompt, int], str]
    next_turn: Callable[[str, int], str] | None = None

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        keys: Sequence[int] | None = None,
        prefixes: Sequence[Prefixes] | None = None,
        heard: Heard | None = None,
    ) -> list[tuple[Completion, ...]]:
        """The scripted texts as ids, cut after a stop string and at ``sampling.max_tokens``.

        Log-probs are 0.
        """
        if prefixes is None:
            return [
                tuple(self._completion(self.script(prompt, k), sampling) for k in range(n))
                for prompt in prompts
            ]
        return [
            tuple(self._continued(prefix, k, sampling) for k, prefix in enumerate(own))
            for own in prefixes
        ]

    def _continued(self, prefix: Prefix | None, number: int, sampling: Sampling) -> Completion:
        if prefix is None or self.next_turn is None:
            return DONE
        return self._completion(self.next_turn(self.chat.decode(prefix.ids), number), sampling)

    def _completion(self, text: str, sampling: Sampling) -> Completion:
        ids = [*self.chat.encode_answer(text), self.chat.end_id]
        finish: Finish = "stop"
        for end in range(1, len(ids)):
            if any(stop in self.chat.decode(ids[:end]) for stop in sampling.stop):
                ids, finish = ids[:end], "stop_string"
                break
        kept = tuple(ids[: sampling.max_tokens])
        return Completion(kept, (0.0,) * len(kept), finish if len(kept) == len(ids) else "length")
