"""What a policy is: prompts in, n completions each, with the log-probs they were sampled at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from reground.model.chat import EncodedImage, Prompt

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

Heard = Callable[[int, Sequence[int]], bool]
"""Is told a prompt's place in the call and the ids of its completion so far, as they grow; returns
whether anybody wants more of it. Ids that were told may come again, where memory did not suffice
and a batch is halved."""


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
        heard: Heard | None = None,
    ) -> list[tuple[Completion, ...]]:
        """``n`` completions of each prompt; ``keys`` seed them, one key for each prompt.

        With ``prefixes`` completions go on from what comes after the prompt already, n for each
        prompt. After a call with stop strings a policy may keep what it has read, for a
        next call with the very same prompts. ``heard`` is told of one completion a prompt (n = 1):
        token by token, or once at its end where the policy cannot do that.
        """


class TrainedPolicy(Policy, Protocol):
    """A policy that follows a model in training."""

    def sync(self, version: int) -> None:
        """Sample with the model's weights as they are now, after ``version`` updates."""

    def rest(self) -> None:
        """Give memory back until the next ``sync``."""

    def close(self) -> None:
        """End what runs with the model: nothing is sampled any more."""
