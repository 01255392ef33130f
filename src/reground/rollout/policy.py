"""What a policy is: prompts in, n completions each, with the log-probs they were sampled at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from reground.model.chat import Chat, EncodedImage, Prompt

Finish = Literal["stop", "length", "stop_string"]  # the end token, the limit, a stop string


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn. Temperature 0 is greedy.

    ``stop`` are strings that end a completion; the token that completes one is kept, even where it
    reaches past the string.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """Sampled ids (the end token included) and the log-prob of each.

    A log-prob is log-softmax(logits / temperature), banned ids at minus infinity; at temperature 0
    it is that of temperature 1. ``policy_version`` counts weight updates.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    policy_version: int = 0


@dataclass(frozen=True, slots=True)
class Prefix:
    """What comes after a prompt already: ids, and the images whose tokens are among them."""

    ids: tuple[int, ...] = ()
    images: tuple[EncodedImage, ...] = ()


Prefixes = Sequence[Prefix | None]
"""What completions go on from; None where nothing more is to be sampled."""

DONE = Completion((), (), "stop")
"""In the place of a completion that was not to go on."""


class Policy(Protocol):
    """Anything that completes prompts, in one turn or several."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        sampling: Sampling,
        keys: Sequence[int] | None = None,
        prefixes: Sequence[Prefixes] | None = None,
    ) -> list[tuple[Completion, ...]]:
        """``n`` completions of each prompt; ``keys`` seed them, one key for each prompt.

        With ``prefixes`` completions go on from what comes after the prompt already, n for each
        prompt. After a call with stop strings a policy may keep what it has read, for a
        next call with the very same prompts.
        """


class TrainedPolicy(Policy, Protocol):
    """A policy that follows a model in training."""

    def sync(self, version: int) -> None:
        """Sample with the model's weights as they are now, after ``version`` updates."""

    def rest(self) -> None:
        """Give memory back until the next ``sync``."""

    def close(self) -> None:
        """End what runs with the model: nothing is sampled any more."""


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
